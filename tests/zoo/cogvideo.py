"""CogVideoX and ConsisID: guidance is one call of twice the batch."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from torch import nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    clip,
    photos,
    picture,
    prompts,
    tiny,
)

FACE = 4
"""Channels of what is known of a face."""

_SCHEDULE: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLCogVideoX",
        seed=1,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def _pipe(name: Any, transformer: str = "CogVideoXTransformer3DModel", **config: Any) -> Any:
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": TEXT,
        "num_layers": 3,
        "sample_width": WIDTH // 8,
        "sample_height": HEIGHT // 8,
        "sample_frames": FRAMES,
        "patch_size": 2,
        "max_text_seq_length": 5,
    }
    return assembled(
        name,
        scheduler=CogVideoXDDIMScheduler(**_SCHEDULE),
        vae=_vae(),
        transformer=tiny(transformer, **{**sizes, **config}),
        text_encoder=None,
        tokenizer=None,
    )


def _later() -> Any:
    """As CogVideoX 1.5: two frames are one token, and the scheduler remembers a step."""
    rotary = {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False}
    pipe = _pipe("CogVideoXPipeline", **rotary)
    pipe.scheduler = CogVideoXDPMScheduler(**_SCHEDULE)
    return pipe


def _image_to_video() -> Any:
    config = {
        "in_channels": 8,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    }
    return _pipe("CogVideoXImageToVideoPipeline", **config)


def _consisid() -> Any:
    """Without OpenCV, diffusers shows a stand-in of the class that cannot be built."""
    from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

    return _pipe(
        ConsisIDPipeline,
        "ConsisIDTransformer3DModel",
        in_channels=8,
        num_layers=4,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=2,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=FACE,
        LFE_vit_dim=FACE,
        LFE_depth=2,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=1,
        LFE_num_querie=2,
        LFE_output_dim=21,
        LFE_ff_mult=1,
        LFE_num_scale=1,
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(),
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _consisid_given() -> dict[str, Any]:
    face = {"id_vit_hidden": [noise(1, 2, FACE, seed=50)], "id_cond": noise(1, FACE, seed=51)}
    return _given(image=picture(), num_frames=FRAMES, **face)


CASES: tuple[Case, ...] = available(
    Case(
        "CogVideoXPipeline",
        functools.partial(_pipe, "CogVideoXPipeline"),
        functools.partial(_given, num_frames=FRAMES),
        output="frames",
    ),
    Case(
        "CogVideoXPipeline+1.5",
        _later,
        functools.partial(_given, num_frames=FRAMES, use_dynamic_cfg=True),
        output="frames",
    ),
    Case(
        "CogVideoXImageToVideoPipeline",
        _image_to_video,
        lambda: _given(image=picture(), num_frames=FRAMES),
        output="frames",
    ),
    Case(
        "CogVideoXVideoToVideoPipeline",
        functools.partial(_pipe, "CogVideoXVideoToVideoPipeline"),
        lambda: _given(video=clip()[0], num_inference_steps=10, strength=0.8),
        output="frames",
    ),
    Case(
        "CogVideoXFunControlPipeline",
        functools.partial(_pipe, "CogVideoXFunControlPipeline", in_channels=8),
        lambda: _given(control_video=photos(FRAMES)),
        output="frames",
    ),
    Case("ConsisIDPipeline", _consisid, _consisid_given, output="frames"),
)
