"""Stable Diffusion 3 pipelines: guidance makes one batch of both prompts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import (
    PARTIAL,
    SIZE,
    STEPS,
    assemble,
    build,
    flow,
    mask,
    picture,
    seeded,
    vae,
)

_SIZES: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 16,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 8,
}


def _make(name: str, **options: Any) -> Any:
    parts = {
        "scheduler": flow(),
        "vae": vae(latent_channels=16),
        "transformer": build(
            "SD3Transformer2DModel", num_layers=3, out_channels=16, **_SIZES, **options
        ),
    }
    if "ControlNet" in name:
        extra = 1 if "Inpainting" in name else 0
        parts["controlnet"] = build(
            "SD3ControlNetModel",
            seed=2,
            num_layers=1,
            extra_conditioning_channels=extra,
            **_SIZES,
        )
    return assemble(name, **parts)


def _prompts() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "pooled_prompt_embeds": noise(1, 20, seed=11),
        "negative_prompt_embeds": noise(1, 7, 24, seed=20),
        "negative_pooled_prompt_embeds": noise(1, 20, seed=21),
        "guidance_scale": 3.0,
        **SIZE,
    }


def _case(name: str, arguments: Callable[[], dict[str, Any]], **options: Any) -> Case:
    return Case(
        name,
        functools.partial(_make, name.partition("+")[0], **options),
        lambda: _prompts() | arguments(),
    )


def _skipping(name: str, start: float, stop: float) -> Case:
    """Guided away from what the model makes without its second block, in some of the steps."""
    return Case(
        name,
        functools.partial(_make, name.partition("+")[0]),
        lambda: {
            **_prompts(),
            **STEPS,
            "skip_guidance_layers": [1],
            "skip_layer_guidance_start": start,
            "skip_layer_guidance_stop": stop,
        },
        branches=2,
    )


def _pag(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "pag_scale": 0.7}


CASES = available(
    _case("StableDiffusion3Pipeline", lambda: STEPS),
    _case(
        "StableDiffusion3Pipeline+dual",
        lambda: STEPS,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    ),
    _skipping("StableDiffusion3Pipeline+skip_layers", start=-1.0, stop=2.0),
    _case("StableDiffusion3Img2ImgPipeline", lambda: {**PARTIAL, "image": picture()}),
    _case(
        "StableDiffusion3InpaintPipeline",
        lambda: {**PARTIAL, "image": picture(), "mask_image": mask()},
    ),
    _case(
        "StableDiffusion3ControlNetPipeline",
        lambda: seeded(**STEPS, height=24, width=8, control_image=picture(24, 8)),
    ),
    _case(
        "StableDiffusion3ControlNetInpaintingPipeline",
        lambda: seeded(**STEPS, control_image=picture(), control_mask=mask()),
    ),
    _case("StableDiffusion3PAGPipeline", lambda: _pag(STEPS)),
    _case("StableDiffusion3PAGImg2ImgPipeline", lambda: _pag({**PARTIAL, "image": picture()})),
    replace(
        _skipping("StableDiffusion3Pipeline+skip_layers_early", start=0.1, stop=0.6), branches=0
    ),
)
