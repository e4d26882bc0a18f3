"""A tiny Mochi model."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "MochiTransformer3DModel"


def _make() -> nn.Module:
    return diffusers_class(NAME)(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        pooled_projection_dim=24,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=16,
        max_sequence_length=7,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, 7, dtype=torch.bool)
    mask[0, 4:] = False
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        "encoder_attention_mask": mask,
    }


def _rising(sigma: float, batch: int) -> Arguments:
    """Mochi counts its timesteps from noise to picture."""
    return {"timestep": torch.full((batch,), 1000 * (1 - sigma))}


MODELS = available(Tiny(NAME, _make, _inputs, _rising))
