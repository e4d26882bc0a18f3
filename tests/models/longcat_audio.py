"""LongCat-AudioDiT: what entered the blocks is added once more before the head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

LENGTH, TEXT = 21, 7


def _longcat(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "dit_dim": 32,
        "dit_depth": 3,
        "dit_heads": 2,
        "dit_text_dim": 20,
        "latent_dim": 6,
        "ff_mult": 2.0,
    }
    return diffusers_class("LongCatAudioDiTTransformer")(**config | changes)


def _local() -> nn.Module:
    return _longcat(adaln_type="local", long_skip=False, text_conv=False)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -2:] = False
    return {
        "hidden_states": torch.randn(batch, LENGTH, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "encoder_attention_mask": mask,
        "latent_cond": torch.randn(batch, LENGTH, 6, generator=generator),
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1 - sigma)}


MODELS = available(
    Tiny("LongCatAudioDiTTransformer", _longcat, _inputs, _time),
    Tiny("LongCatAudioDiTTransformer+local", _local, _inputs, _time),
)
