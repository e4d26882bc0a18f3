"""ACE-Step 1.5: music."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

LENGTH = 27


def _ace_step() -> nn.Module:
    return diffusers_class("AceStepTransformer1DModel")(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        in_channels=18,
        audio_acoustic_hidden_dim=6,
        patch_size=2,
        sliding_window=4,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, LENGTH, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 32, generator=generator),
        "context_latents": torch.randn(batch, LENGTH, 12, generator=generator),
    }


def _time(sigma: float, batch: int) -> Arguments:
    timestep = torch.full((batch,), sigma)
    return {"timestep": timestep, "timestep_r": timestep}


MODELS = available(Tiny("AceStepTransformer1DModel", _ace_step, _inputs, _time))
