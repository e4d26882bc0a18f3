"""The AuraFlow pipeline."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import SIZE, STEPS, assemble, build, flow, vae


def _make() -> Any:
    transformer = build(
        "AuraFlowTransformer2DModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return assemble("AuraFlowPipeline", scheduler=flow(), vae=vae(), transformer=transformer)


def _arguments() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "prompt_attention_mask": torch.ones(1, 7, dtype=torch.long),
        "negative_prompt_embeds": noise(1, 7, 24, seed=20),
        "negative_prompt_attention_mask": torch.ones(1, 7, dtype=torch.long),
        "guidance_scale": 3.0,
        **SIZE,
        **STEPS,
    }


CASES = available(Case("AuraFlowPipeline", _make, _arguments))
