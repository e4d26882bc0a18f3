"""PRX, in the space of latents and of pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7


def _prx(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "in_channels": 4,
        "patch_size": 2,
        "context_in_dim": 20,
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 3,
        "axes_dim": [8, 8],
    }
    return diffusers_class("PRXTransformer2DModel")(**config | changes)


def _pixel() -> nn.Module:
    return _prx(bottleneck_size=8, resolution_embeds=True)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -2:] = False
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "attention_mask": mask,
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), sigma)}


MODELS = available(
    Tiny("PRXTransformer2DModel", _prx, _inputs, _time),
    Tiny("PRXTransformer2DModel+pixel", _pixel, _inputs, _time, since=(0, 39)),
)
