"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class


def _sd3(dual: tuple[int, ...] = (), norm: str | None = None) -> nn.Module:
    model: nn.Module = diffusers_class("SD3Transformer2DModel")(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
        qk_norm=norm,
    )
    return model


def _sd35() -> nn.Module:
    """A second attention in the first blocks, to the image alone."""
    return _sd3((0, 1), "rms_norm")


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 5, 24, generator=generator),
        "pooled_projections": torch.randn(batch, 20, generator=generator),
    }


def _controlled(generator: Generator, batch: int) -> Arguments:
    residuals = [torch.randn(batch, 15, 32, generator=generator) for _ in range(2)]
    return _inputs(generator, batch) | {"block_controlnet_hidden_states": residuals}


def _without_layers(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {"skip_layers": [1, 2]}


MODELS = available(
    Tiny("SD3Transformer2DModel", _sd3, _inputs),
    Tiny("SD3Transformer2DModel+controlnet", _sd3, _controlled),
    Tiny("SD3Transformer2DModel+skip_layers", _sd3, _without_layers),
    Tiny("SD3Transformer2DModel+dual_attention", _sd35, _inputs),
)
