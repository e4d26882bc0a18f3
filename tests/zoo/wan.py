"""Wan 2.1 and 2.2: one or two transformers, pictures, clips, control, animation."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    SEEN,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    clip,
    flow,
    photo,
    photos,
    prompts,
    seeing,
    tiny,
    unipc,
    wan_vae,
)


def _transformer(name: str = "WanTransformer3DModel", seed: int = 0, **config: Any) -> nn.Module:
    return tiny(
        name,
        seed,
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": TEXT,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
            **config,
        },
    )


def _pipe(name: str, transformer: dict[str, Any] | None = None, **components: Any) -> Any:
    parts = {
        "scheduler": unipc(),
        "vae": wan_vae(),
        "transformer": _transformer(**(transformer or {})),
        "text_encoder": None,
        "tokenizer": None,
    }
    return assembled(name, **{**parts, **components})


def _pair(name: str, transformer: dict[str, Any] | None = None) -> Any:
    """Wan 2.2: the second transformer takes over in the middle of the run."""
    second = _transformer(**(transformer or {}), seed=3)
    return _pipe(name, transformer, transformer_2=second, boundary_ratio=0.8)


LONG = 12
"""Steps of a pair: each of the two is called in six."""


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(),
        "guidance_scale": 2.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _video_given() -> dict[str, Any]:
    """Of 10 steps 8 are left."""
    given = _given(video=clip()[0], num_inference_steps=10, strength=0.8)
    del given["num_frames"]
    return given


def _animate_given(frames: int = FRAMES, **changes: Any) -> dict[str, Any]:
    given = _given(
        image=photo(),
        pose_video=photos(frames, seed=50),
        face_video=photos(frames, 16, 16, seed=80),
        segment_frame_length=FRAMES,
        **changes,
    )
    del given["num_frames"]
    return given


_SEEING_PICTURES = {"in_channels": 12, "image_dim": SEEN, "added_kv_proj_dim": 32}
_VACE = {"name": "WanVACETransformer3DModel", "vace_layers": [0, 2], "vace_in_channels": 72}
_ANIMATE = {
    "name": "WanAnimateTransformer3DModel",
    "in_channels": 12,
    "latent_channels": 4,
    "num_layers": 4,
    "image_dim": SEEN,
    "added_kv_proj_dim": None,
    "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
    "motion_encoder_size": 16,
    "motion_style_dim": 8,
    "motion_dim": 4,
    "motion_encoder_dim": 16,
    "face_encoder_hidden_dim": 16,
    "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 2,
}


def _animate() -> Any:
    return _pipe("WanAnimatePipeline", _ANIMATE, **seeing())


CASES: tuple[Case, ...] = available(
    Case(
        "WanPipeline",
        functools.partial(_pipe, "WanPipeline"),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "WanPipeline+euler",
        lambda: _pipe("WanPipeline", scheduler=flow()),
        functools.partial(_given, guidance_scale=1.0),
        output="frames",
    ),
    Case(
        "WanPipeline+2.2",
        functools.partial(_pair, "WanPipeline"),
        functools.partial(_given, guidance_scale_2=1.5, num_inference_steps=LONG),
        steps=LONG,
        branches=2,
        models=("transformer", "transformer_2"),
        output="frames",
    ),
    Case(
        "WanPipeline+expand",
        functools.partial(_pipe, "WanPipeline", expand_timesteps=True),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "WanImageToVideoPipeline",
        lambda: _pipe("WanImageToVideoPipeline", _SEEING_PICTURES, **seeing()),
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
    Case(
        "WanImageToVideoPipeline+2.2",
        functools.partial(_pair, "WanImageToVideoPipeline", {"in_channels": 12}),
        lambda: _given(image=photo(), last_image=photo(seed=31), num_inference_steps=LONG),
        steps=LONG,
        branches=2,
        models=("transformer", "transformer_2"),
        output="frames",
    ),
    Case(
        "WanImageToVideoPipeline+expand",
        functools.partial(_pipe, "WanImageToVideoPipeline", expand_timesteps=True),
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
    Case(
        "WanVideoToVideoPipeline",
        functools.partial(_pipe, "WanVideoToVideoPipeline"),
        _video_given,
        branches=2,
        output="frames",
    ),
    Case(
        "WanVACEPipeline",
        functools.partial(_pipe, "WanVACEPipeline", _VACE),
        lambda: _given(video=photos(FRAMES), reference_images=[photo()]),
        branches=2,
        output="frames",
    ),
    Case(
        "WanAnimatePipeline",
        _animate,
        functools.partial(_animate_given, guidance_scale=1.0),
        output="frames",
    ),
    Case(
        "WanAnimatePipeline+cfg",
        _animate,
        _animate_given,
        branches=2,
        output="frames",
    ),
    Case(
        "WanAnimatePipeline+segments",
        _animate,
        functools.partial(_animate_given, 2 * FRAMES - 1, guidance_scale=1.0, output_type="pt"),
        steps=2 * STEPS,
        runs=2,
        output="frames",
    ),
)
