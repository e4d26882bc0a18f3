"""Tiny LTX models: one timestep for all tokens, and one for each."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "LTXVideoTransformer3DModel"


def _make() -> nn.Module:
    return diffusers_class(NAME)(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=16,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, 7)
    mask[:, 5:] = 0
    return {
        "hidden_states": torch.randn(batch, 45, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        "encoder_attention_mask": mask,
        "num_frames": 3,
        "height": 3,
        "width": 5,
        "rope_interpolation_scale": (0.32, 32.0, 32.0),
    }


def _conditioned(generator: torch.Generator, batch: int) -> Arguments:
    arguments = _inputs(generator, batch)
    for name in ("num_frames", "height", "width", "rope_interpolation_scale"):
        del arguments[name]
    return arguments | {"video_coords": torch.rand(batch, 3, 45, generator=generator)}


def _steps_of_tokens(sigma: float, batch: int) -> Arguments:
    """The first frame is given and has none."""
    timestep = torch.full((batch, 45), 1000 * sigma)
    timestep[:, :15] = 0
    return {"timestep": timestep}


MODELS = available(
    Tiny(NAME, _make, _inputs),
    Tiny(f"{NAME}+tokens", _make, _conditioned, _steps_of_tokens),
)
