"""The Nucleus-Image pipeline, dense and with experts."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow


def _make(**options: Any) -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    transformer = build(
        "NucleusMoEImageTransformer2DModel",
        in_channels=16,
        out_channels=4,
        num_layers=5,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(8, 4, 4),
        **options,
    )
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".experts." in name:  # its constructor leaves them unset
                parameter.normal_(std=0.1)
    return assemble("NucleusMoEImagePipeline", scheduler=flow(), transformer=transformer)


def _arguments() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
        "negative_prompt_embeds": noise(1, 4, 24, seed=20),
        "negative_prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long),
        "guidance_scale": 3.0,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(
    Case(
        "NucleusMoEImagePipeline",
        functools.partial(_make, num_experts=4, capacity_factors=2.0, moe_intermediate_dim=32),
        _arguments,
        branches=2,
    ),
    Case(
        "NucleusMoEImagePipeline+dense",
        functools.partial(_make, moe_enabled=False),
        _arguments,
        branches=2,
    ),
)
