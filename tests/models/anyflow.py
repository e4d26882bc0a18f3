"""Tiny AnyFlow models: of the whole video, and chunk by chunk with a K/V cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

SIZES: Arguments = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}


def _make(name: str) -> Callable[[], nn.Module]:
    return lambda: diffusers_class(name)(**SIZES)


def _inputs(frames: int) -> Callable[[torch.Generator, int], Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        return {
            "hidden_states": torch.randn(batch, frames, 4, 6, 10, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        }

    return inputs


def _chunks(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs(3)(generator, batch) | {"chunk_partition": [1, 2]}


def _cached(generator: torch.Generator, batch: int) -> Arguments:
    """The second chunk, of two frames, after a first one of one frame in the cache."""
    cache = {
        layer: {
            "full_cache": torch.randn(2, batch, 2, 90, 24, generator=generator),
            "compressed_cache": torch.randn(2, batch, 2, 12, 24, generator=generator),
        }
        for layer in range(3)
    }
    return _inputs(2)(generator, batch) | {
        "chunk_partition": [1, 2],
        "kv_cache": cache,
        "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
    }


def _steps(frames: int) -> Callable[[float, int], Arguments]:
    def steps(sigma: float, batch: int) -> Arguments:
        now = torch.full((batch, frames), 1000 * sigma)
        return {"timestep": now, "r_timestep": (now - 125).clamp(min=0)}

    return steps


FAR = "AnyFlowFARTransformer3DModel"

MODELS = available(
    Tiny("AnyFlowTransformer3DModel", _make("AnyFlowTransformer3DModel"), _inputs(3), _steps(3)),
    Tiny(FAR, _make(FAR), _chunks, _steps(3)),
    Tiny(f"{FAR}+cached", _make(FAR), _cached, _steps(2)),
)
