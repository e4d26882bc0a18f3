"""Mochi, whose time rises over a run; Allegro and Latte, with the schedulers of their time."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from torch import nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    flow,
    prompts,
    tiny,
)

FRAMES = 13
"""Of Mochi: 6 frames are one of latents."""


@functools.cache
def _mochi_vae() -> nn.Module:
    return tiny(
        "AutoencoderKLMochi",
        seed=1,
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


@functools.cache
def _allegro_vae() -> nn.Module:
    return tiny(
        "AutoencoderKLAllegro",
        seed=1,
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


@functools.cache
def _latte_vae() -> nn.Module:
    return tiny(
        "AutoencoderKL",
        seed=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _mochi() -> Any:
    transformer = tiny(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=TEXT,
        time_embed_dim=16,
        max_sequence_length=5,
    )
    return assembled(
        "MochiPipeline",
        scheduler=flow(shift=1.0, invert_sigmas=True),
        vae=_mochi_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _allegro() -> Any:
    transformer = tiny(
        "AllegroTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        cross_attention_dim=48,
        caption_channels=TEXT,
        sample_width=WIDTH // 8,
        sample_height=HEIGHT // 8,
        sample_frames=3,
    )
    return assembled(
        "AllegroPipeline",
        # So little noise that what the model says shows in the end.
        scheduler=EulerAncestralDiscreteScheduler(beta_end=0.002),
        vae=_allegro_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _latte() -> Any:
    transformer = tiny(
        "LatteTransformer3DModel",
        sample_size=HEIGHT // 8,
        num_layers=2,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=16,
        caption_channels=TEXT,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=3,
    )
    return assembled(
        "LattePipeline",
        scheduler=DDIMScheduler(),
        vae=_latte_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _given(masked: bool = True, **changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=masked),
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case("MochiPipeline", _mochi, lambda: _given(num_frames=FRAMES), output="frames"),
    Case(
        "AllegroPipeline",
        _allegro,
        lambda: _given(num_frames=12, negative_prompt=None),
        output="frames",
    ),
    Case(
        "LattePipeline",
        _latte,
        lambda: _given(
            masked=False,
            negative_prompt=None,
            video_length=3,
            height=HEIGHT,
            width=HEIGHT,
            clean_caption=False,
        ),
        output="frames",
        loose=0.3,
    ),
)
