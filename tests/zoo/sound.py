"""ACE-Step, whose guided call has twice the batch, and LongCat-AudioDiT, whose time rises."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import STEPS, assembled, filled, flow, tiny

TEXT = 16
SOUND = 8
"""Channels of the latents."""


@functools.cache
def _oobleck() -> nn.Module:
    return tiny(
        "AutoencoderOobleck",
        seed=1,
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=4,
        decoder_input_channels=SOUND,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )


@functools.cache
def _longcat_vae() -> nn.Module:
    return tiny(
        "LongCatAudioDiTVae",
        seed=1,
        in_channels=1,
        channels=16,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=SOUND,
        encoder_latent_dim=16,
        downsampling_ratio=2,
        sample_rate=24000,
    )


_ATTENTION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 4,
}


@functools.cache
def _condition_encoder() -> nn.Module:
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    torch.manual_seed(2)
    return filled(
        AceStepConditionEncoder(
            text_hidden_dim=TEXT,
            timbre_hidden_dim=SOUND,
            num_lyric_encoder_hidden_layers=1,
            num_timbre_encoder_hidden_layers=1,
            **_ATTENTION,
        )
    )


def _ace_step() -> Any:
    """It reads its prompts itself: words of what to play and words to sing."""

    def encode(**_: Any) -> tuple[Tensor, ...]:
        text, lyrics = noise(1, 5, TEXT, seed=10), noise(1, 4, TEXT, seed=11)
        return text, torch.ones(1, 5), lyrics, torch.ones(1, 4)

    transformer = tiny(
        "AceStepTransformer1DModel",
        num_hidden_layers=4,
        in_channels=3 * SOUND,
        audio_acoustic_hidden_dim=SOUND,
        patch_size=2,
        **_ATTENTION,
    )
    pipe = assembled(
        "AceStepPipeline",
        scheduler=flow(num_train_timesteps=1, shift=1.0),
        vae=_oobleck(),
        transformer=transformer,
        condition_encoder=_condition_encoder(),
        text_encoder=None,
        tokenizer=None,
    )
    pipe.encode_prompt = encode
    return pipe


def _longcat() -> Any:
    """It reads its prompts itself; their lengths differ."""

    def encode(prompt: Any, *_: Any) -> tuple[Tensor, Tensor]:
        text = prompt[0] if isinstance(prompt, list) else prompt
        length = len(text.split())
        return noise(1, length, TEXT, seed=len(text)), torch.tensor([length])

    transformer = tiny(
        "LongCatAudioDiTTransformer",
        dit_dim=32,
        dit_depth=3,
        dit_heads=2,
        dit_text_dim=TEXT,
        latent_dim=SOUND,
        text_conv=False,
    )
    pipe = assembled(
        "LongCatAudioDiTPipeline",
        scheduler=flow(shift=1.0, invert_sigmas=True),
        vae=_longcat_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )
    pipe.encode_prompt = encode
    return pipe


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        "prompt": "a slow tune on a harp",
        "guidance_scale": 3.0,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case(
        "AceStepPipeline",
        _ace_step,
        functools.partial(_given, audio_duration=9.0),
        output="audios",
    ),
    Case(
        "AceStepPipeline+unguided",
        _ace_step,
        functools.partial(_given, audio_duration=9.0, guidance_scale=1.0),
        output="audios",
    ),
    Case(
        "LongCatAudioDiTPipeline",
        _longcat,
        functools.partial(_given, negative_prompt="noise", latents=noise(1, 15, SOUND, seed=3)),
        branches=2,
        output="audios",
    ),
)
