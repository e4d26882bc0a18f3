"""Krea 2: the prompt's tokens go in front of the image's and are cut off before the head."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 6
HEIGHT, WIDTH = 3, 5


def _krea2() -> nn.Module:
    return diffusers_class("Krea2Transformer2DModel")(
        in_channels=12,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=24,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    positions = torch.zeros(TEXT + HEIGHT * WIDTH, 3)
    positions[TEXT:, 1] = torch.arange(HEIGHT).repeat_interleave(WIDTH)
    positions[TEXT:, 2] = torch.arange(WIDTH).repeat(HEIGHT)
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -1] = False
    return {
        "hidden_states": torch.randn(batch, HEIGHT * WIDTH, 12, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 3, 16, generator=generator),
        "position_ids": positions,
        "encoder_attention_mask": mask,
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), sigma)}


MODELS = available(Tiny("Krea2Transformer2DModel", _krea2, _inputs, _time))
