"""Tiny LTX-2 models, which make video and sound: 2.0, and 2.3 with its other options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "LTX2VideoTransformer3DModel"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "audio_in_channels": 6,
        "audio_out_channels": 6,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 16,
        "num_layers": 3,
        "caption_channels": 24,
    }
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _inputs(text: int, audio_text: int) -> Callable[[torch.Generator, int], Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        mask = torch.ones(batch, 7)
        mask[:, 5:] = 0
        return {
            "hidden_states": torch.randn(batch, 45, 4, generator=generator),
            "audio_hidden_states": torch.randn(batch, 11, 6, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, text, generator=generator),
            "audio_encoder_hidden_states": torch.randn(batch, 7, audio_text, generator=generator),
            "encoder_attention_mask": mask,
            "audio_encoder_attention_mask": mask,
            "num_frames": 3,
            "height": 3,
            "width": 5,
            "fps": 25.0,
            "audio_num_frames": 11,
        }

    return inputs


def _newer(generator: torch.Generator, batch: int) -> Arguments:
    """A perturbed middle block, as for spatio-temporal guidance."""
    return _inputs(32, 16)(generator, batch) | {
        "use_cross_timestep": True,
        "spatio_temporal_guidance_blocks": [1],
    }


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1000 * sigma)}


def _steps_of_tokens(sigma: float, batch: int) -> Arguments:
    """The first frame is given and has none."""
    now = torch.full((batch,), 1000 * sigma)
    tokens = now[:, None].repeat(1, 45)
    tokens[:, :15] = 0
    return {"timestep": tokens, "audio_timestep": now, "sigma": now, "audio_sigma": now}


STREAMS = ("hidden_states", "audio_hidden_states")

MODELS = available(
    Tiny(NAME, _make(), _inputs(24, 24), _steps, latents=STREAMS),
    Tiny(
        f"{NAME}+newer",
        _make(
            gated_attn=True,
            cross_attn_mod=True,
            audio_gated_attn=True,
            audio_cross_attn_mod=True,
            rope_type="split",
            use_prompt_embeddings=False,
            perturbed_attn=True,
        ),
        _newer,
        _steps_of_tokens,
        latents=STREAMS,
    ),
)
