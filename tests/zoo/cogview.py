"""CogView3-Plus, CogView4 and GLM-Image pipelines."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, Pooling, assemble, build, flow, photo, picture, seeded, vae

_SIZE = {"height": 80, "width": 48}
_SIZES: dict[str, Any] = {
    "patch_size": 2,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "text_embed_dim": 24,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "out_channels": 4,
}


def _prompts(negative: int = 7) -> dict[str, Any]:
    """``negative`` is how many tokens the other prompt has."""
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "negative_prompt_embeds": noise(1, negative, 24, seed=20),
        "guidance_scale": 3.0,
        **_SIZE,
        **STEPS,
    }


def _three() -> Any:
    transformer = build(
        "CogView3PlusTransformer2DModel",
        in_channels=4,
        pos_embed_max_size=8,
        sample_size=8,
        **_SIZES,
    )
    return assemble(
        "CogView3PlusPipeline",
        scheduler=diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
        vae=vae(halvings=3),
        transformer=transformer,
    )


def _four(name: str) -> Any:
    transformer = build(
        "CogView4Transformer2DModel",
        in_channels=8 if "Control" in name else 4,
        sample_size=8,
        rope_axes_dim=(16, 16),
        **_SIZES,
    )
    scheduler = flow(use_dynamic_shifting=True, time_shift_type="linear")
    return assemble(name, scheduler=scheduler, vae=vae(halvings=3), transformer=transformer)


def _glm() -> Any:
    transformer = build(
        "GlmImageTransformer2DModel",
        in_channels=4,
        prior_vq_quantizer_codebook_size=32,
        **_SIZES,
    )
    scheduler = flow(use_dynamic_shifting=True, time_shift_type="linear")
    return assemble(
        "GlmImagePipeline", scheduler=scheduler, vae=Pooling(4, halvings=3), transformer=transformer
    )


def _prior() -> dict[str, Any]:
    tokens = torch.arange(24) * 7 % 32
    return _prompts() | {"height": 96, "width": 64, "prior_token_ids": tokens[None]}


def _pictured() -> dict[str, Any]:
    tokens = torch.arange(24) * 5 % 32
    return _prior() | {
        "image": [photo(96, 64)],
        "prior_token_image_ids": [tokens],
        "source_image_grid_thw": [torch.tensor([[1, 6, 4]])],
    }


CASES = available(
    Case("CogView3PlusPipeline", _three, _prompts),
    Case(
        "CogView4Pipeline",
        functools.partial(_four, "CogView4Pipeline"),
        lambda: _prompts(4),
        branches=2,
    ),
    Case(
        "CogView4ControlPipeline",
        functools.partial(_four, "CogView4ControlPipeline"),
        lambda: seeded(**_prompts(), control_image=picture(**_SIZE)),
        branches=2,
    ),
    Case("GlmImagePipeline", _glm, _prior, branches=2),
    # The model reads the picture once before the first step, which sees its keys and values.
    Case("GlmImagePipeline+image", _glm, _pictured, branches=0),
)
