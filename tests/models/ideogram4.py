"""Ideogram 4: prompt and image packed into one sequence, or the image alone."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 6
HEIGHT, WIDTH = 3, 5
TOKENS = TEXT + HEIGHT * WIDTH
IS_IMAGE, IS_TEXT = 2, 3
FIRST_PIXEL = 65536


def _ideogram() -> nn.Module:
    return diffusers_class("Ideogram4Transformer2DModel")(
        in_channels=12,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=48,
        adaln_dim=16,
        llm_features_dim=20,
        rope_theta=10_000,
        mrope_section=(4, 2, 2),
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    positions = torch.zeros(batch, TOKENS, 3, dtype=torch.long)
    positions[:, :TEXT] = torch.arange(TEXT)[:, None]
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    grid = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)
    positions[:, TEXT:] = FIRST_PIXEL + grid
    segments = torch.ones(batch, TOKENS, dtype=torch.long)
    roles = torch.full((batch, TOKENS), IS_IMAGE)
    roles[:, :TEXT] = IS_TEXT
    segments[0, :2], roles[0, :2] = -1, 0  # a shorter prompt is padded on the left
    latents = torch.randn(batch, TOKENS, 12, generator=generator)
    latents[:, :TEXT] = 0
    return {
        "hidden_states": latents,
        "encoder_hidden_states": torch.randn(batch, TOKENS, 20, generator=generator),
        "position_ids": positions,
        "segment_ids": segments,
        "indicator": roles,
    }


def _image_inputs(generator: torch.Generator, batch: int) -> Arguments:
    arguments = {name: tensor[:, TEXT:] for name, tensor in _inputs(generator, batch).items()}
    return arguments | {"encoder_hidden_states": torch.zeros(batch, HEIGHT * WIDTH, 20)}


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1 - sigma)}


def _token_time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch, TOKENS), 1 - sigma)}


MODELS = available(
    Tiny("Ideogram4Transformer2DModel", _ideogram, _inputs, _time),
    Tiny("Ideogram4Transformer2DModel+unconditional", _ideogram, _image_inputs, _time),
    Tiny("Ideogram4Transformer2DModel+token_times", _ideogram, _inputs, _token_time),
)
