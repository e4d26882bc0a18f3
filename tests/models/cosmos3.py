"""Tiny Cosmos 3 models: video alone, and video from an image with sound and actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "Cosmos3OmniTransformer"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    sizes: Arguments = {
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "latent_channel": 4,
        "patch_latent_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "rope_axes_dim": [4, 2, 2],
        "vocab_size": 32,
    }
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _video(generator: torch.Generator, batch: int) -> Arguments:
    """Seven tokens of text, then three frames of 3 by 5 patches."""
    places = torch.arange(7, 52)
    return {
        "input_ids": torch.randint(0, 32, (7,), generator=generator),
        "text_indexes": torch.arange(7),
        "position_ids": torch.arange(52).repeat(3, 1),
        "und_len": 7,
        "sequence_length": 52,
        "vision_tokens": [torch.randn(1, 4, 3, 6, 10, generator=generator)],
        "vision_token_shapes": [(3, 3, 5)],
        "vision_sequence_indexes": places,
        "vision_mse_loss_indexes": places,
        "vision_noisy_frame_indexes": [torch.arange(3)],
    }


def _everything(generator: torch.Generator, batch: int) -> Arguments:
    """The first frame is given; five tokens of sound and four of action follow the frames."""
    sound, action = torch.arange(52, 57), torch.arange(57, 61)
    return _video(generator, batch) | {
        "position_ids": torch.arange(61).repeat(3, 1),
        "sequence_length": 61,
        "vision_mse_loss_indexes": torch.arange(22, 52),
        "vision_noisy_frame_indexes": [torch.arange(1, 3)],
        "sound_tokens": [torch.randn(6, 5, generator=generator)],
        "sound_token_shapes": [(5, 1, 1)],
        "sound_sequence_indexes": sound,
        "sound_mse_loss_indexes": sound,
        "sound_noisy_frame_indexes": [torch.arange(5)],
        "action_tokens": [torch.randn(4, 3, generator=generator)],
        "action_token_shapes": [(4, 1, 1)],
        "action_sequence_indexes": action,
        "action_mse_loss_indexes": action,
        "action_noisy_frame_indexes": [torch.arange(4)],
        "action_domain_ids": [torch.tensor(1)],
    }


def _video_steps(sigma: float, batch: int) -> Arguments:
    return {"vision_timesteps": torch.full((45,), 1000 * sigma)}


def _all_steps(sigma: float, batch: int) -> Arguments:
    return {
        "vision_timesteps": torch.full((30,), 1000 * sigma),
        "sound_timesteps": torch.full((5,), 1000 * sigma),
        "action_timesteps": torch.full((4,), 1000 * sigma),
    }


MODELS = available(
    Tiny(NAME, _make(), _video, _video_steps, latents=("vision_tokens",), batches=(1,)),
    Tiny(
        f"{NAME}+everything",
        _make(
            sound_gen=True,
            sound_dim=6,
            action_gen=True,
            action_dim=3,
            num_embodiment_domains=2,
            hidden_act="relu2",
            qk_norm_for_text=False,
            use_und_k_norm_for_gen=True,
        ),
        _everything,
        _all_steps,
        latents=("vision_tokens", "sound_tokens", "action_tokens"),
        batches=(1,),
    ),
)
