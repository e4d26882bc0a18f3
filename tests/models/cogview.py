"""Tiny CogView 3 Plus and CogView 4 models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

COGVIEW3 = "CogView3PlusTransformer2DModel"
COGVIEW4 = "CogView4Transformer2DModel"


def _make(name: str, **changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "text_embed_dim": 12,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "pos_embed_max_size": 8,
        "sample_size": 8,
    }
    return lambda: diffusers_class(name)(**sizes | changes)


def _inputs(channels: int = 4) -> Callable[[torch.Generator, int], Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        return {
            "hidden_states": torch.randn(batch, channels, 10, 14, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
            "original_size": torch.tensor([[80.0, 112.0]] * batch),
            "target_size": torch.tensor([[80.0, 112.0]] * batch),
            "crop_coords": torch.zeros(batch, 2),
        }

    return inputs


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), round(999 * sigma))}


MODELS = available(
    Tiny(COGVIEW3, _make(COGVIEW3), _inputs(), _steps),
    Tiny(COGVIEW4, _make(COGVIEW4, rope_axes_dim=(8, 8)), _inputs()),
    Tiny(
        f"{COGVIEW4}+control",
        _make(COGVIEW4, in_channels=8, rope_axes_dim=(8, 8)),
        _inputs(channels=8),
    ),
)
