"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7


def _alpha(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "sample_size": 8,
        "num_layers": 3,
        "patch_size": 2,
        "attention_head_dim": 12,
        "num_attention_heads": 2,
        "in_channels": 4,
        "out_channels": 8,
        "cross_attention_dim": 24,
        "caption_channels": 20,
        "use_additional_conditions": True,
    }
    return diffusers_class("PixArtTransformer2DModel")(**config | changes)


def _alpha_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _sigma_inputs(generator, batch) | {
        "added_cond_kwargs": {
            "resolution": torch.tensor([[48.0, 80.0]]).repeat(batch, 1),
            "aspect_ratio": torch.tensor([[0.6]]).repeat(batch, 1),
        }
    }


def _sigma() -> nn.Module:
    return _alpha(use_additional_conditions=False)


def _sigma_inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -2:] = 0
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "encoder_attention_mask": mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _plain() -> nn.Module:
    return _alpha(use_additional_conditions=False, caption_channels=None, cross_attention_dim=20)


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), int(1000 * sigma))}


MODELS = available(
    Tiny("PixArtTransformer2DModel", _alpha, _alpha_inputs, _time),
    Tiny("PixArtTransformer2DModel+sigma", _sigma, _sigma_inputs, _time),
    Tiny("PixArtTransformer2DModel+unprojected", _plain, _sigma_inputs, _time),
)
