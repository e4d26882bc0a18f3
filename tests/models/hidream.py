"""HiDream-I1."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

LAYERS = (0, 2, 1, 3, 3)


def _hidream() -> nn.Module:
    model: nn.Module = diffusers_class("HiDreamImageTransformer2DModel")(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[24, 20],
        text_emb_dim=12,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(8, 12),
        llama_layers=list(LAYERS),
    )
    return model


def _call(generator: Generator, batch: int, size: tuple[int, int]) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, *size, generator=generator),
        "encoder_hidden_states_t5": torch.randn(batch, 5, 24, generator=generator),
        "encoder_hidden_states_llama3": torch.randn(4, batch, 3, 20, generator=generator),
        "pooled_embeds": torch.randn(batch, 12, generator=generator),
    }


def _inputs(generator: Generator, batch: int) -> Arguments:
    return _call(generator, batch, (8, 8))


def _oblong(generator: Generator, batch: int) -> Arguments:
    """An image that is no square is filled up to the most tokens that the model takes."""
    return _call(generator, batch, (6, 10))


def _time(sigma: float, batch: int) -> Arguments:
    return {"timesteps": torch.full((batch,), 1000 * sigma)}


MODELS = available(
    Tiny("HiDreamImageTransformer2DModel", _hidream, _inputs, _time),
    Tiny("HiDreamImageTransformer2DModel+oblong", _hidream, _oblong, _time),
)
