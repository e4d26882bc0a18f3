"""Kandinsky 6 makes pictures and sound, and enlarges clips tile by tile."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    clip,
    flow,
    picture,
    tiny,
)

POOLED = 16
SOUND = 6
"""Channels of the latents of sound."""


@functools.cache
def _sound() -> dict[str, nn.Module]:
    return {
        "audio_vae": tiny(
            "MMAudioVAE",
            seed=2,
            mel_bins=8,
            latent_channels=SOUND,
            hidden_channels=16,
            layers_per_block=1,
        ),
        "vocoder": tiny(
            "MMAudioVocoder",
            seed=3,
            num_mels=8,
            upsample_initial_channel=64,
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3, 5),),
        ),
    }


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLHunyuanVideo",
        seed=1,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def _pipe() -> Any:
    transformer = tiny(
        "Kandinsky6Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=TEXT,
        in_text_dim2=POOLED,
        time_dim=16,
        patch_size=(1, 2, 2),
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=3,
        axes_dims=(4, 6, 6),
        in_audio_dim=SOUND,
        out_audio_dim=SOUND,
        model_dim_a=32,
        visual_cond=True,
        visual_token_type_num_embeddings=2,
    )
    return assembled(
        "Kandinsky6TI2VAPipeline",
        scheduler=flow(shift=5.0),
        vae=_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        **_sound(),
    )


def _given(**changes: Any) -> dict[str, Any]:
    """The two prompts have different lengths."""
    given: dict[str, Any] = {
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    for seed, prefix, tokens in ((10, "", 5), (20, "negative_", 3)):
        given[f"{prefix}prompt_embeds"] = noise(1, tokens, TEXT, seed=seed)
        given[f"{prefix}pooled_prompt_embeds"] = noise(1, POOLED, seed=seed + 1)
    return {**given, **changes}


def _enlarge() -> Any:
    """One tile of 8 x 8 latents; the autoencoder makes one latent of 4 x 4 pixels."""
    transformer = tiny(
        "Kandinsky6SRTransformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        model_dim=32,
        ff_dim=48,
        num_visual_blocks=3,
        axes_dims=(4, 6, 6),
        tile_sizes=((32, 32),),
    )
    vae = tiny(
        "Kandinsky6SRVAE",
        seed=1,
        latent_channels=4,
        encoder_block_out_channels=(16, 32, 32),
        decoder_block_out_channels=(16, 32, 32),
        layers_per_block=1,
    )
    return assembled(
        "Kandinsky6SRPipeline", scheduler=flow(shift=5.0), vae=vae, transformer=transformer
    )


def _enlarge_given() -> dict[str, Any]:
    return {
        "video": clip(5, 16, 16),
        "resolution_scale": 2,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }


CASES: tuple[Case, ...] = available(
    Case("Kandinsky6TI2VAPipeline", _pipe, _given, branches=2, output="frames"),
    Case("Kandinsky6TI2VAPipeline+audio", _pipe, _given, branches=2, output="audio"),
    Case(
        "Kandinsky6TI2VAPipeline+silent",
        _pipe,
        functools.partial(_given, sample_audio=False, guidance_scale=1.0),
        output="frames",
    ),
    Case(
        "Kandinsky6TI2VAPipeline+image",
        _pipe,
        lambda: _given(image=picture()),
        branches=2,
        output="frames",
    ),
    Case("Kandinsky6SRPipeline", _enlarge, _enlarge_given, output="frames"),
)
