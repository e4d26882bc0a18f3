"""MiniMax-H3 (video with sound, one packed sequence) and MiniMax-Music 3."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT, AUDIO, GIVEN, VIDEO = 5, 4, 3, 12
"""Rows of the packed sequence; ``GIVEN`` of the video's come from a given image."""

IS_VIDEO, IS_TEXT, IS_AUDIO = 0, 1, 2


def _h3() -> nn.Module:
    return diffusers_class("MiniMaxH3Transformer3DModel")(
        num_attention_heads=2,
        attention_head_dim=16,
        hidden_size=24,
        num_layers=3,
        num_refiner_layers=2,
        ffn_dim=40,
        in_channels=4,
        audio_in_channels=6,
        patch_size=(1, 2, 2),
        text_dim=20,
        freq_dim=16,
        time_embed_hidden_dim=24,
        time_embed_dim=16,
        rope_freq_dim=2,
    )


def _h3_inputs(generator: torch.Generator, batch: int) -> Arguments:
    rows = torch.arange(TEXT + AUDIO + VIDEO)
    text, audio, video = rows.split([TEXT, AUDIO, VIDEO])
    tags = torch.tensor([IS_TEXT] * TEXT + [IS_AUDIO] * AUDIO + [IS_VIDEO] * VIDEO)
    positions = torch.zeros(len(rows), 3)
    positions[:, 0] = rows
    positions[video, 1] = (video % 4).float()
    return {
        "hidden_states": torch.randn(batch, VIDEO, 16, generator=generator),
        "audio_hidden_states": torch.randn(batch, AUDIO, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "token_tags": tags,
        "position_ids": positions,
        "video_indices": video,
        "audio_indices": audio,
        "text_indices": text,
    }


def _h3_time(sigma: float, batch: int, *, given: int = 0) -> Arguments:
    """The distinct timesteps; sound and video begin at the same one and go their own ways."""
    times = torch.full((TEXT + AUDIO + VIDEO,), 1 - _shifted(sigma, 12))
    times[TEXT : TEXT + AUDIO] = 1 - _shifted(sigma, 3)
    times[TEXT + AUDIO : TEXT + AUDIO + given] = 0.99
    distinct, indices = torch.unique(times, return_inverse=True)
    return {"timestep": distinct, "timestep_indices": indices}


def _shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _given_time(sigma: float, batch: int) -> Arguments:
    return _h3_time(sigma, batch, given=GIVEN)


def _music() -> nn.Module:
    return diffusers_class("MiniMaxMusic3Transformer1DModel")(
        in_channels=6,
        condition_dim=20,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        ff_inner_dim=48,
        rotary_dim=8,
        fourier_embedding_dim=16,
    )


def _music_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 6, 21, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 21, 20, generator=generator),
    }


def _music_time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1 - sigma)}


BOTH = ("hidden_states", "audio_hidden_states")

MODELS = available(
    Tiny("MiniMaxH3Transformer3DModel", _h3, _h3_inputs, _h3_time, BOTH),
    Tiny("MiniMaxH3Transformer3DModel+i2v", _h3, _h3_inputs, _given_time, BOTH),
    Tiny("MiniMaxMusic3Transformer1DModel", _music, _music_inputs, _music_time),
)
