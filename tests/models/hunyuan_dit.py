"""Hunyuan-DiT: the later blocks take what the earlier ones gave."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 5
T5 = 6
DIM = 32


def _hunyuan(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 6,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "hidden_size": DIM,
        "cross_attention_dim": 12,
        "cross_attention_dim_t5": 16,
        "pooled_projection_dim": 8,
        "text_len": TEXT,
        "text_len_t5": T5,
    }
    return diffusers_class("HunyuanDiT2DModel")(**config | changes)


def _new_inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -2:] = 0
    angles = torch.randn(15, 8, generator=generator).repeat_interleave(2, dim=1)
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 12, generator=generator),
        "text_embedding_mask": mask,
        "encoder_hidden_states_t5": torch.randn(batch, T5, 16, generator=generator),
        "text_embedding_mask_t5": torch.ones(batch, T5, dtype=torch.long),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    sizes = torch.tensor([[1024.0, 1024.0, 48.0, 80.0, 0.0, 0.0]])
    return _new_inputs(generator, batch) | {
        "image_meta_size": sizes.repeat(batch, 1),
        "style": torch.zeros(batch, dtype=torch.long),
    }


def _new() -> nn.Module:
    return _hunyuan(use_style_cond_and_image_meta_size=False)


def _controlled_time(sigma: float, batch: int) -> Arguments:
    """A ControlNet runs at every step, and the model uses up the list that it gives."""
    grid = torch.linspace(-1, 1, 15 * DIM).view(1, 15, DIM).repeat(batch, 1, 1)
    return {
        "timestep": torch.full((batch,), 1000 * sigma),
        "controlnet_block_samples": [grid * sigma, grid.square()],
    }


MODELS = available(
    Tiny("HunyuanDiT2DModel", _hunyuan, _inputs),
    Tiny("HunyuanDiT2DModel+1.2", _new, _new_inputs),
    Tiny("HunyuanDiT2DModel+controlnet", _hunyuan, _inputs, _controlled_time),
)
