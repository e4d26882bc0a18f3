"""ERNIE-Image: its blocks take (tokens, batch, width)."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7


def _ernie() -> nn.Module:
    return diffusers_class("ErnieImageTransformer2DModel")(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=3,
        ffn_hidden_size=48,
        in_channels=4,
        out_channels=4,
        patch_size=1,
        text_in_dim=20,
        rope_axes_dim=(4, 6, 6),
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 5, generator=generator),
        "text_bth": torch.randn(batch, TEXT, 20, generator=generator),
        "text_lens": torch.tensor([TEXT, 4][:batch]),
    }


MODELS = available(Tiny("ErnieImageTransformer2DModel", _ernie, _inputs))
