"""DiT, conditioned on a class."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class


def _dit() -> nn.Module:
    return diffusers_class("DiTTransformer2DModel")(
        sample_size=6,
        num_layers=3,
        patch_size=2,
        attention_head_dim=12,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=10,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 6, 6, generator=generator),
        "class_labels": torch.arange(3, 3 + batch),
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), int(1000 * sigma))}


MODELS = available(Tiny("DiTTransformer2DModel", _dit, _inputs, _time))
