"""Tiny CogVideoX models (1.0, 1.5) and ConsisID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

COGVIDEOX = "CogVideoXTransformer3DModel"
CONSISID = "ConsisIDTransformer3DModel"


def _make(name: str, **changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 16,
        "text_embed_dim": 12,
        "num_layers": 3,
        "sample_width": 10,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": 7,
    }
    return lambda: diffusers_class(name)(**sizes | changes)


def _inputs(channels: int, frames: int) -> Callable[[torch.Generator, int], Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        return {
            "hidden_states": torch.randn(batch, frames, channels, 6, 10, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
        }

    return inputs


def _newer(generator: torch.Generator, batch: int) -> Arguments:
    """Version 1.5 from an image: patches of two frames, rotary positions, an offset."""
    angles = torch.rand(30, 16, generator=generator)
    return _inputs(8, 4)(generator, batch) | {
        "image_rotary_emb": (angles.cos(), angles.sin()),
        "ofs": torch.full((1,), 2.0),
    }


def _face(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs(4, 3)(generator, batch) | {
        "id_cond": torch.randn(batch, 6, generator=generator),
        "id_vit_hidden": [torch.randn(batch, 4, 8, generator=generator)],
    }


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), round(999 * sigma))}


MODELS = available(
    Tiny(COGVIDEOX, _make(COGVIDEOX), _inputs(4, 3), _steps),
    Tiny(
        f"{COGVIDEOX}+1.5",
        _make(
            COGVIDEOX,
            in_channels=8,
            patch_size_t=2,
            ofs_embed_dim=16,
            patch_bias=False,
            use_rotary_positional_embeddings=True,
        ),
        _newer,
        _steps,
    ),
    Tiny(
        CONSISID,
        _make(
            CONSISID,
            is_train_face=True,
            cross_attn_interval=2,
            cross_attn_dim_head=8,
            cross_attn_num_heads=2,
            num_layers=4,
            LFE_id_dim=6,
            LFE_vit_dim=8,
            LFE_depth=2,
            LFE_dim_head=8,
            LFE_num_heads=2,
            LFE_num_id_token=2,
            LFE_num_querie=3,
            LFE_output_dim=21,
            LFE_ff_mult=1,
            LFE_num_scale=1,
        ),
        _face,
        _steps,
    ),
)
