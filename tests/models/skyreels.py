"""Tiny SkyReels V2 models: plain, from an image, and diffusion forcing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "SkyReelsV2Transformer3DModel"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
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
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


def _image_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 10, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        "encoder_hidden_states_image": torch.randn(batch, 5, 16, generator=generator),
    }


def _forcing_inputs(generator: torch.Generator, batch: int) -> Arguments:
    forcing = {"enable_diffusion_forcing": True, "fps": [1] * batch}
    return _inputs(generator, batch) | forcing


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), round(1000 * sigma))}


def _steps_of_frames(sigma: float, batch: int) -> Arguments:
    """Later frames are noisier."""
    frames = torch.tensor([round(1000 * sigma**power) for power in (2.0, 1.0, 0.5)])
    return {"timestep": frames.repeat(batch, 1)}


MODELS = available(
    Tiny(NAME, _make(), _inputs, _steps),
    Tiny(
        f"{NAME}+i2v",
        _make(in_channels=10, image_dim=16, added_kv_proj_dim=48),
        _image_inputs,
        _steps,
    ),
    Tiny(
        f"{NAME}+forcing",
        _make(inject_sample_info=True, num_frame_per_block=3),
        _forcing_inputs,
        _steps_of_frames,
        # With the frame rate given, diffusers itself fails on more.
        batches=(1,),
    ),
)
