"""Chroma."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import IMAGE, TEXT, positions, unit_time


def _chroma() -> nn.Module:
    model: nn.Module = diffusers_class("ChromaTransformer2DModel")(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return model


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, IMAGE, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_ids": positions(),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def _masked(generator: Generator, batch: int) -> Arguments:
    """The last text token of the first prompt is padding that nothing may look at."""
    mask = torch.ones(batch, TEXT + IMAGE, dtype=torch.bool)
    mask[0, TEXT - 1] = False
    return _inputs(generator, batch) | {"attention_mask": mask}


def _controlled(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "controlnet_block_samples": [torch.randn(batch, IMAGE, 32, generator=generator)],
        "controlnet_single_block_samples": [torch.randn(batch, IMAGE, 32, generator=generator)],
    }


MODELS = available(
    Tiny("ChromaTransformer2DModel", _chroma, _inputs, unit_time),
    Tiny("ChromaTransformer2DModel+mask", _chroma, _masked, unit_time),
    Tiny("ChromaTransformer2DModel+controlnet", _chroma, _controlled, unit_time),
)
