"""HunyuanImage 2.1 pipelines."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow

_SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "text_embed_dim": 24,
}


def _make(distilled: bool = False) -> Any:
    """Without an autoencoder a token stands for 32 x 32 pixels."""
    transformer = build(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        patch_size=(1, 1),
        text_embed_2_dim=20,
        rope_axes_dim=(8, 8),
        guidance_embeds=distilled,
        use_meanflow=distilled,
        **_SIZES,
    )
    guiders = {}
    if not distilled:
        guider = diffusers.AdaptiveProjectedMixGuidance
        guiders = {
            "guider": guider(adaptive_projected_guidance_start_step=2),
            "ocr_guider": guider(adaptive_projected_guidance_start_step=3),
        }
    return assemble(
        "HunyuanImagePipeline", scheduler=flow(), transformer=transformer, vae=None, **guiders
    )


def _refiner() -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    transformer = build(
        "HunyuanImageTransformer2DModel",
        in_channels=8,
        out_channels=4,
        patch_size=(1, 1, 1),
        rope_axes_dim=(4, 6, 6),
        guidance_embeds=True,
        **_SIZES,
    )
    return assemble("HunyuanImageRefinerPipeline", scheduler=flow(), transformer=transformer)


def _prompt(name: str, tokens: int, seed: int) -> dict[str, Any]:
    return {
        f"{name}_embeds": noise(1, tokens, 24, seed=seed),
        f"{name}_embeds_mask": torch.ones(1, tokens, dtype=torch.long),
    }


def _second(name: str, tokens: int, seed: int) -> dict[str, Any]:
    """The letters that the picture is to show; the last one is padding."""
    mask = torch.ones(1, tokens, dtype=torch.long)
    mask[:, -1] = 0
    return {
        f"{name}_embeds_2": noise(1, tokens, 20, seed=seed),
        f"{name}_embeds_mask_2": mask,
    }


def _arguments() -> dict[str, Any]:
    return {
        **_prompt("prompt", 7, 10),
        **_second("prompt", 4, 11),
        **_prompt("negative_prompt", 5, 20),
        **_second("negative_prompt", 3, 21),
        "height": 160,
        "width": 96,
        **STEPS,
    }


def _distilled() -> dict[str, Any]:
    return {
        **_prompt("prompt", 7, 10),
        **_second("prompt", 4, 11),
        "distilled_guidance_scale": 3.0,
        "height": 160,
        "width": 96,
        **STEPS,
    }


def _refining() -> dict[str, Any]:
    return {
        **_prompt("prompt", 7, 10),
        "image": noise(1, 4, 1, 5, 3, seed=30),
        "distilled_guidance_scale": 3.0,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(
    Case("HunyuanImagePipeline", _make, _arguments, branches=2),
    Case("HunyuanImagePipeline+distilled", lambda: _make(distilled=True), _distilled),
    Case("HunyuanImageRefinerPipeline", _refiner, _refining),
)
