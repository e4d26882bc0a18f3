"""Stable Audio 1 and 3: guidance is one call of twice the batch; arguments are positional."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import EDMDPMSolverMultistepScheduler
from torch import nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import STEPS, assembled, filled, flow, tiny

TEXT = 16
LENGTH = 13
"""Latents of the sound."""


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderOobleck",
        seed=1,
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )


@functools.cache
def _same_vae() -> nn.Module:
    return tiny(
        "AutoencoderSAME",
        seed=1,
        audio_channels=2,
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        use_differential_attention=False,
        dim_heads=4,
        ff_mult=2,
        sampling_rate=16,
    )


def _stable_audio() -> Any:
    from diffusers import StableAudioProjectionModel

    torch.manual_seed(2)
    projection = StableAudioProjectionModel(
        text_encoder_dim=TEXT, conditioning_dim=TEXT, min_value=0, max_value=32
    )
    transformer = tiny(
        "StableAudioDiTModel",
        sample_size=LENGTH,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=TEXT,
        cross_attention_input_dim=TEXT,
        time_proj_dim=8,
        global_states_input_dim=2 * TEXT,
    )
    return assembled(
        "StableAudioPipeline",
        scheduler=EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, prediction_type="v_prediction"
        ),
        vae=_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        projection_model=filled(projection),
    )


def _stable_audio_3(name: str, **scheduler: Any) -> Any:
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    torch.manual_seed(2)
    embedder = StableAudio3DurationEmbedder(output_dim=TEXT, fourier_dim=16)
    transformer = tiny(
        "StableAudio3DiTModel",
        io_channels=4,
        patch_size=1,
        embed_dim=32,
        depth=3,
        num_heads=2,
        cond_token_dim=TEXT,
        global_cond_dim=TEXT,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        ff_mult=2,
        num_memory_tokens=3,
        use_differential_attention=False,
    )
    return assembled(
        name,
        scheduler=flow(num_train_timesteps=1, shift=1.0, **scheduler),
        vae=_same_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        duration_embedder=filled(embedder),
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        "prompt_embeds": noise(1, 5, TEXT, seed=10),
        "negative_prompt_embeds": noise(1, 5, TEXT, seed=20),
        "guidance_scale": 3.0,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _refined() -> dict[str, Any]:
    given = _given(duration=3.0, audio=noise(1, 2, 40, seed=30).tanh(), init_noise_level=0.8)
    return {name: given[name] for name in given if "negative" not in name and "scale" not in name}


def _inpainted() -> dict[str, Any]:
    seconds = {"mask_start_seconds": 1.0, "mask_end_seconds": 2.0}
    given = _refined() | seconds
    del given["init_noise_level"]
    return given


CASES: tuple[Case, ...] = available(
    Case("StableAudioPipeline", _stable_audio, _given, output="audios"),
    Case(
        "StableAudio3Pipeline",
        functools.partial(_stable_audio_3, "StableAudio3Pipeline"),
        functools.partial(_given, duration=3.0),
        output="audios",
    ),
    Case(
        "StableAudio3Pipeline+distilled",
        functools.partial(_stable_audio_3, "StableAudio3Pipeline", stochastic_sampling=True),
        functools.partial(_given, duration=3.0, guidance_scale=1.0),
        output="audios",
        loose=0.3,
    ),
    Case(
        "StableAudio3AudioToAudioPipeline",
        functools.partial(_stable_audio_3, "StableAudio3AudioToAudioPipeline"),
        _refined,
        output="audios",
    ),
    Case(
        "StableAudio3InpaintPipeline",
        functools.partial(_stable_audio_3, "StableAudio3InpaintPipeline"),
        _inpainted,
        output="audios",
    ),
)
