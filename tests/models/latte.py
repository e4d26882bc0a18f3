"""Tiny Latte models: a video, one frame, and frames without blocks over time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "LatteTransformer3DModel"


def _make() -> nn.Module:
    return diffusers_class(NAME)(
        sample_size=8,
        num_layers=3,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=12,
        in_channels=4,
        cross_attention_dim=32,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=5,
    )


def _inputs(frames: int, over_time: bool = True) -> Callable[[torch.Generator, int], Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        return {
            "hidden_states": torch.randn(batch, 4, frames, 6, 6, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
            "enable_temporal_attentions": over_time,
        }

    return inputs


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), round(999 * sigma))}


MODELS = available(
    Tiny(NAME, _make, _inputs(5), _steps),
    Tiny(f"{NAME}+image", _make, _inputs(1), _steps),
    Tiny(f"{NAME}+space", _make, _inputs(5, over_time=False), _steps),
)
