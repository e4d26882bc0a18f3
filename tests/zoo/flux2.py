"""FLUX.2 pipelines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import PARTIAL, STEPS, assemble, build, flow, mask, photo, picture

_SIZE = {"height": 80, "width": 48}
"""Pixels; 5 x 3 tokens. They take no picture with a side below 64."""


@functools.cache
def _vae() -> Any:
    return build(
        "AutoencoderKLFlux2",
        seed=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )


def _make(name: str) -> Any:
    transformer = build(
        "Flux2Transformer2DModel",
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        **({"guidance_embeds": False} if "Klein" in name else {}),
    )
    return assemble(name, scheduler=flow(), vae=_vae(), transformer=transformer)


def _prompts(**more: Any) -> dict[str, Any]:
    return {"prompt_embeds": noise(1, 7, 24, seed=10), **STEPS, **_SIZE, **more}


def _guided(**more: Any) -> dict[str, Any]:
    negative = noise(1, 4, 24, seed=20)
    return _prompts(negative_prompt_embeds=negative, guidance_scale=3.0, **more)


def _case(name: str, arguments: Callable[[], dict[str, Any]], branches: int = 1) -> Case:
    make = functools.partial(_make, name.partition("+")[0])
    return Case(name, make, arguments, branches=branches)


def _inpaint() -> dict[str, Any]:
    given = _guided(image=picture(**_SIZE), mask_image=mask(**_SIZE))
    return {name: value for name, value in given.items() if name not in _SIZE} | PARTIAL


CASES = available(
    _case("Flux2Pipeline", _prompts),
    _case("Flux2Pipeline+image", lambda: _prompts(image=photo(64, 80))),
    _case("Flux2KleinPipeline", _guided, branches=2),
    _case("Flux2KleinPipeline+images", lambda: _guided(image=[photo(64, 80), photo(80, 64)]), 2),
    _case("Flux2KleinKVPipeline", _prompts),
    _case("Flux2KleinInpaintPipeline", _inpaint, branches=2),
    # The first step sees the picture's tokens, the others only their keys and values.
    _case("Flux2KleinKVPipeline+image", lambda: _prompts(image=photo(64, 80)), branches=0),
)
