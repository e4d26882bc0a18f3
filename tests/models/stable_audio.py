"""Stable Audio and Stable Audio 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 6
LENGTH = 21


def _audio() -> nn.Module:
    return diffusers_class("StableAudioDiTModel")(
        sample_size=LENGTH,
        in_channels=6,
        out_channels=6,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=16,
        cross_attention_input_dim=20,
        global_states_input_dim=12,
        time_proj_dim=16,
    )


def _audio_inputs(generator: torch.Generator, batch: int) -> Arguments:
    angles = torch.outer(torch.arange(LENGTH + 1.0), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    angles = torch.cat([angles, angles], dim=-1)
    return {
        "hidden_states": torch.randn(batch, 6, LENGTH, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "global_hidden_states": torch.randn(batch, 1, 12, generator=generator),
        "rotary_embedding": (angles.cos(), angles.sin()),
    }


def _audio_time(sigma: float, batch: int) -> Arguments:
    """One timestep for the whole batch."""
    return {"timestep": torch.tensor([sigma])}


def _audio3(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "io_channels": 6,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "cond_token_dim": 20,
        "global_cond_dim": 12,
        "local_add_cond_dim": 7,
        "timestep_features_dim": 16,
        "ff_mult": 2.0,
        "num_memory_tokens": 3,
    }
    return diffusers_class("StableAudio3DiTModel")(**config | changes)


def _audio3_inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -2:] = False
    return {
        "hidden_states": torch.randn(batch, 6, LENGTH, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "global_hidden_states": torch.randn(batch, 12, generator=generator),
        "encoder_attention_mask": mask,
    }


def _inpaint_inputs(generator: torch.Generator, batch: int) -> Arguments:
    local = torch.randn(batch, 7, LENGTH, generator=generator)
    return _audio3_inputs(generator, batch) | {"local_add_cond": local}


def _patched() -> nn.Module:
    return _audio3(patch_size=3, num_memory_tokens=0, use_differential_attention=False)


def _audio3_time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), sigma)}


MODELS = available(
    Tiny("StableAudioDiTModel", _audio, _audio_inputs, _audio_time),
    Tiny("StableAudio3DiTModel", _audio3, _audio3_inputs, _audio3_time),
    Tiny("StableAudio3DiTModel+inpaint", _audio3, _inpaint_inputs, _audio3_time),
    Tiny("StableAudio3DiTModel+patched", _patched, _audio3_inputs, _audio3_time),
)
