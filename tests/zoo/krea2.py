"""The Krea 2 pipeline."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow


def _make() -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    transformer = build(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        timestep_embed_dim=16,
        text_hidden_dim=24,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    )
    scheduler = flow(use_dynamic_shifting=True)
    return assemble("Krea2Pipeline", scheduler=scheduler, transformer=transformer)


def _arguments() -> dict[str, Any]:
    mask = torch.tensor([[True] * 5 + [False] * 2])
    return {
        "prompt_embeds": noise(1, 7, 3, 24, seed=10),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": noise(1, 7, 3, 24, seed=20),
        "negative_prompt_embeds_mask": mask.logical_or(mask.flip(1)),
        "guidance_scale": 2.0,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(Case("Krea2Pipeline", _make, _arguments, branches=2))
