"""SkyReels V2: every frame may have a time, and a scheduler, of its own."""

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
    photo,
    prompts,
    seeing,
    tiny,
    unipc,
    wan_vae,
)


def _transformer(**config: Any) -> nn.Module:
    return tiny(
        "SkyReelsV2Transformer3DModel",
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
    return assembled(
        name,
        scheduler=unipc(),
        vae=wan_vae(),
        transformer=_transformer(**(transformer or {})),
        text_encoder=None,
        tokenizer=None,
        **components,
    )


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


def _forcing_given(**changes: Any) -> dict[str, Any]:
    """``prompt`` has no default where each frame has a time of its own."""
    return _given(prompt=None, **changes)


_SEEING = {"in_channels": 12, "image_dim": SEEN, "added_kv_proj_dim": 32}
_FORCING = {"inject_sample_info": True}
_FORCED = "SkyReelsV2DiffusionForcingPipeline"

CASES: tuple[Case, ...] = available(
    Case(
        "SkyReelsV2Pipeline",
        functools.partial(_pipe, "SkyReelsV2Pipeline"),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "SkyReelsV2ImageToVideoPipeline",
        lambda: _pipe("SkyReelsV2ImageToVideoPipeline", _SEEING, **seeing()),
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
    Case(
        _FORCED,
        functools.partial(_pipe, _FORCED, _FORCING),
        _forcing_given,
        branches=2,
        output="frames",
    ),
    Case(
        f"{_FORCED}+causal",
        functools.partial(_pipe, _FORCED, _FORCING),
        functools.partial(_forcing_given, ar_step=2, causal_block_size=1),
        steps=STEPS + 4,
        branches=2,
        output="frames",
    ),
    Case(
        f"{_FORCED}+long",
        functools.partial(_pipe, _FORCED),
        functools.partial(_forcing_given, num_frames=17, base_num_frames=9, overlap_history=1),
        steps=2 * STEPS,
        runs=2,
        branches=2,
        output="frames",
    ),
    Case(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        functools.partial(_pipe, "SkyReelsV2DiffusionForcingImageToVideoPipeline"),
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
    Case(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        functools.partial(_pipe, "SkyReelsV2DiffusionForcingVideoToVideoPipeline"),
        lambda: _given(video=clip(5)[0], num_frames=17, base_num_frames=17, overlap_history=5),
        branches=2,
        output="frames",
    ),
)
