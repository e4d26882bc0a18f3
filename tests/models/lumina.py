"""Lumina-Image 2.0 and Lumina-Next."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7


def _lumina2() -> nn.Module:
    return diffusers_class("Lumina2Transformer2DModel")(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=3,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(32, 16, 16),
        cap_feat_dim=20,
    )


def _lumina2_inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -2:] = 0  # prompts are padded; in a batch of two their lengths differ
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "encoder_attention_mask": mask,
    }


def _next() -> nn.Module:
    return diffusers_class("LuminaNextDiT2DModel")(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=20,
    )


def _next_inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -2:] = 0
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "encoder_mask": mask,
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 16, 16),
        "cross_attention_kwargs": {},
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1 - sigma)}


MODELS = available(
    Tiny("Lumina2Transformer2DModel", _lumina2, _lumina2_inputs, _time),
    Tiny("LuminaNextDiT2DModel", _next, _next_inputs, _time),
)
