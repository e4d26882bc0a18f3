"""Tiny EasyAnimate models: from text, and inpainting with a second text encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "EasyAnimateTransformer3DModel"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "num_layers": 3,
        "mmdit_layers": 2,
        "text_embed_dim": 12,
        "time_embed_dim": 16,
    }
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
    }


def _inpaint(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "encoder_hidden_states_t5": torch.randn(batch, 5, 12, generator=generator),
        "inpaint_latents": torch.randn(batch, 5, 3, 6, 10, generator=generator),
    }


MODELS = available(
    Tiny(NAME, _make(), _inputs),
    Tiny(
        f"{NAME}+inpaint",
        _make(in_channels=9, text_embed_dim_t5=12, add_norm_text_encoder=True, after_norm=True),
        _inpaint,
    ),
)
