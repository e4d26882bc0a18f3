"""PixArt and DiT pipelines."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, vae

_SIZES: dict[str, Any] = {
    "sample_size": 8,
    "num_layers": 3,
    "patch_size": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "in_channels": 4,
    "out_channels": 8,
}


def _pixart(name: str) -> Any:
    options = {"pag_applied_layers": "blocks.1"} if "PAG" in name else {}
    return assemble(
        name,
        # With this prediction, what random weights make keeps its bounds.
        scheduler=DPMSolverMultistepScheduler(prediction_type="v_prediction"),
        vae=vae(halvings=2),
        transformer=build(
            "PixArtTransformer2DModel", caption_channels=24, cross_attention_dim=32, **_SIZES
        ),
        **options,
    )


def _case(name: str, **more: Any) -> Case:
    def arguments() -> dict[str, Any]:
        return {
            "prompt_embeds": noise(1, 7, 24, seed=10),
            "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
            "negative_prompt": None,
            "negative_prompt_embeds": noise(1, 7, 24, seed=20),
            "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0]]),
            "guidance_scale": 3.0,
            "use_resolution_binning": False,
            "height": 40,
            "width": 24,
            **STEPS,
            **more,
        }

    return Case(name, functools.partial(_pixart, name), arguments)


def _dit() -> Any:
    return assemble(
        "DiTPipeline",
        scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        vae=vae(),
        transformer=build("DiTTransformer2DModel", norm_type="ada_norm_zero", **_SIZES),
    )


def _classes() -> dict[str, Any]:
    return {"class_labels": [7], "num_inference_steps": 8, "output_type": "pt"}


CASES = available(
    _case("PixArtAlphaPipeline"),
    _case("PixArtSigmaPipeline"),
    _case("PixArtSigmaPAGPipeline", pag_scale=0.7),
    Case("DiTPipeline", _dit, _classes),
)
