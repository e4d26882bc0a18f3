"""Tiny Helios models: with history in front of the tokens, and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "HeliosTransformer3DModel"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 48,
        "num_layers": 3,
        "rope_dim": (8, 8, 8),
    }
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _plain(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


def _history(generator: torch.Generator, batch: int) -> Arguments:
    """Four old frames in coarse patches, two newer ones in finer ones, two in the finest."""

    def frames(count: int) -> torch.Tensor:
        return torch.randn(batch, 4, count, 6, 10, generator=generator)

    def places(start: int, count: int) -> torch.Tensor:
        return torch.arange(start, start + count)[None].repeat(batch, 1)

    return _plain(generator, batch) | {
        "indices_latents_history_long": places(1, 4),
        "indices_latents_history_mid": places(5, 2),
        "indices_latents_history_short": torch.tensor([[0, 7]] * batch),
        "indices_hidden_states": places(8, 3),
        "latents_history_long": frames(4),
        "latents_history_mid": frames(2),
        "latents_history_short": frames(2),
    }


MODELS = available(
    Tiny(NAME, _make(), _history),
    Tiny(
        f"{NAME}+amplified",
        _make(is_amplify_history=True, zero_history_timestep=False, guidance_cross_attn=False),
        _history,
        dtypes=(torch.float32,),  # its float32 scale of the keys meets bfloat16 queries
    ),
    Tiny(f"{NAME}+first", _make(), _plain),
)
