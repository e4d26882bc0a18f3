"""Lumina-Next and Lumina Image 2.0 pipelines; the timestep that reaches their models rises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow, vae

_SIZE = {"height": 80, "width": 48}
_SIZES: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_kv_heads": 2,
    "multiple_of": 16,
}


def _next(name: str) -> Any:
    transformer = build(
        "LuminaNextDiT2DModel", num_layers=2, cross_attention_dim=24, qk_norm=True, **_SIZES
    )
    return assemble(name, scheduler=flow(), vae=vae(halvings=3), transformer=transformer)


def _two(name: str) -> Any:
    transformer = build(
        "Lumina2Transformer2DModel",
        num_layers=2,
        num_refiner_layers=1,
        axes_dim_rope=(8, 4, 4),
        axes_lens=(64, 16, 16),
        cap_feat_dim=24,
        **_SIZES,
    )
    return assemble(name, scheduler=flow(), vae=vae(halvings=3), transformer=transformer)


def _case(name: str, make: Callable[[str], Any], branches: int, **more: Any) -> Case:
    def arguments() -> dict[str, Any]:
        return {
            "prompt_embeds": noise(1, 7, 24, seed=10),
            "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
            "negative_prompt_embeds": noise(1, 7, 24, seed=20),
            "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0]]),
            "guidance_scale": 3.0,
            **_SIZE,
            **STEPS,
            **more,
        }

    make = functools.partial(make, name.partition("+")[0])
    return Case(name, make, arguments, branches=branches)


CASES = available(
    _case("LuminaPipeline", _next, branches=1),
    _case("Lumina2Pipeline", _two, branches=2),
    # Guidance ends before the run does: two calls in a step, then one.
    _case("Lumina2Pipeline+truncated", _two, branches=0, cfg_trunc_ratio=0.5),
)
