"""The ERNIE-Image pipeline."""

from __future__ import annotations

from typing import Any

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow


def _make() -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    transformer = build(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=3,
        ffn_hidden_size=64,
        in_channels=8,
        out_channels=8,
        text_in_dim=24,
        rope_axes_dim=(8, 4, 4),
    )
    return assemble("ErnieImagePipeline", scheduler=flow(), transformer=transformer)


def _arguments() -> dict[str, Any]:
    return {
        "prompt_embeds": [noise(7, 24, seed=10)],
        "negative_prompt_embeds": [noise(4, 24, seed=20)],
        "guidance_scale": 3.0,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(Case("ErnieImagePipeline", _make, _arguments))
