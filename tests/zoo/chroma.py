"""Chroma pipelines."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import PARTIAL, SIZE, STEPS, assemble, build, flow, mask, picture, vae


def _make(name: str) -> Any:
    transformer = build(
        "ChromaTransformer2DModel",
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    # As in the published configurations; inpainting asks for it.
    transformer.register_to_config(guidance_embeds=False)
    return assemble(name, scheduler=flow(), vae=vae(), transformer=transformer)


def _case(name: str, negative: int = 4, **pictures: Any) -> Case:
    """The prompts' lengths differ wherever the pipeline allows it."""

    def arguments() -> dict[str, Any]:
        return {
            "prompt_embeds": noise(1, 7, 24, seed=10),
            "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool),
            "negative_prompt_embeds": noise(1, negative, 24, seed=20),
            "negative_prompt_attention_mask": torch.ones(1, negative, dtype=torch.bool),
            "guidance_scale": 3.0,
            **SIZE,
            **(PARTIAL if pictures else STEPS),
            **pictures,
        }

    return Case(name, functools.partial(_make, name), arguments, branches=2)


CASES = available(
    _case("ChromaPipeline"),
    _case("ChromaImg2ImgPipeline", image=picture()),
    _case("ChromaInpaintPipeline", negative=7, image=picture(), mask_image=mask()),
)
