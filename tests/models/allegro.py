"""A tiny Allegro model."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "AllegroTransformer3DModel"


def _make() -> nn.Module:
    return diffusers_class(NAME)(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=3,
        cross_attention_dim=48,
        sample_height=6,
        sample_width=10,
        sample_frames=3,
        caption_channels=12,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, 7)
    mask[:, 5:] = 0
    angles = torch.rand(3, 5, 8, generator=generator)
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(5)).T
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
        "encoder_attention_mask": mask,
        "image_rotary_emb": (
            tuple((angle.cos(), angle.sin()) for angle in angles),
            tuple(place[None] for place in places),
        ),
    }


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), round(999 * sigma))}


MODELS = available(Tiny(NAME, _make, _inputs, _steps))
