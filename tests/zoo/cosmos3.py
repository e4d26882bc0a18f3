"""Cosmos 3: text, pictures and sound in one sequence; tokens in lists, prompts as indices."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import ModelMixin
from torch import Tensor, nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    WIDTH,
    assembled,
    photo,
    tiny,
    unipc,
    wan_vae,
)

SOUND = 6
"""Channels of the latents of sound."""


class _Words:
    """Stands in for the tokenizer, of which no more is asked once prompts are numbers."""

    eos_token_id = 1

    def convert_tokens_to_ids(self, _: str) -> int:
        return 2


class _Sound(ModelMixin):
    """Stands in for the autoencoder of sound."""

    class config:
        sampling_rate = 1600

    _hop_size = 64

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def _pipe(sound: bool = False) -> Any:
    transformer = tiny(
        "Cosmos3OmniTransformer",
        head_dim=16,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=3,
        latent_channel=4,
        latent_patch_size=2,
        patch_latent_dim=16,
        rope_axes_dim=[4, 2, 2],
        vocab_size=32,
        sound_gen=sound,
        sound_dim=SOUND if sound else None,
    )
    pipe = assembled(
        "Cosmos3OmniPipeline",
        scheduler=unipc(),
        vae=wan_vae(),
        transformer=transformer,
        text_tokenizer=_Words(),
        sound_tokenizer=_Sound() if sound else None,
        enable_safety_checker=False,
    )
    pipe.tokenize_prompt = lambda *_, **__: ([5, 6, 7, 8, 9, 2], [5, 9, 2])
    return pipe


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        "prompt": "a hare",
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case("Cosmos3OmniPipeline", _pipe, _given, branches=2, output="video"),
    Case(
        "Cosmos3OmniPipeline+image",
        _pipe,
        lambda: _given(image=photo(), guidance_scale=1.0),
        output="video",
    ),
    Case(
        "Cosmos3OmniPipeline+sound",
        functools.partial(_pipe, sound=True),
        functools.partial(_given, enable_sound=True),
        branches=2,
        output="sound",
    ),
)
