"""Kandinsky 5 to video: channels come last, and the latents are changed in place."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    flow,
    picture,
    tiny,
)

POOLED = 16


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


def _pipe(name: str, seen: bool) -> Any:
    transformer = tiny(
        "Kandinsky5Transformer3DModel",
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
        visual_cond=seen,
        attention_type="regular",
    )
    return assembled(
        name,
        scheduler=flow(shift=5.0),
        vae=_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


def _given(guidance: float = 3.0, **changes: Any) -> dict[str, Any]:
    """The two prompts have different lengths."""
    given: dict[str, Any] = {
        "guidance_scale": guidance,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    for seed, prefix, tokens in ((10, "", 5), (20, "negative_", 3)):
        given[f"{prefix}prompt_embeds_qwen"] = noise(1, tokens, TEXT, seed=seed)
        given[f"{prefix}prompt_embeds_clip"] = noise(1, POOLED, seed=seed + 1)
        given[f"{prefix}prompt_cu_seqlens"] = torch.tensor([0, tokens], dtype=torch.int32)
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case(
        "Kandinsky5T2VPipeline",
        functools.partial(_pipe, "Kandinsky5T2VPipeline", seen=False),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "Kandinsky5T2VPipeline+distilled",
        functools.partial(_pipe, "Kandinsky5T2VPipeline", seen=True),
        functools.partial(_given, guidance=1.0),
        output="frames",
    ),
    Case(
        "Kandinsky5I2VPipeline",
        functools.partial(_pipe, "Kandinsky5I2VPipeline", seen=True),
        lambda: _given(image=picture(), num_frames=21),
        branches=2,
        output="frames",
    ),
)
