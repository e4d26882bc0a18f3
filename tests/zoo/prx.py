"""PRX pipelines."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import SIZE, STEPS, Stub, assemble, build, flow, vae

_SIZES: dict[str, Any] = {
    "patch_size": 2,
    "context_in_dim": 24,
    "hidden_size": 32,
    "num_heads": 2,
    "depth": 3,
    "axes_dim": [8, 8],
}


def _latent() -> Any:
    transformer = build("PRXTransformer2DModel", in_channels=4, **_SIZES)
    return assemble("PRXPipeline", scheduler=flow(), vae=vae(), transformer=transformer)


def _pixel() -> Any:
    transformer = build(
        "PRXTransformer2DModel",
        in_channels=3,
        bottleneck_size=8,
        resolution_embeds=True,
        **_SIZES,
    )
    return assemble(
        "PRXPixelPipeline", scheduler=flow(), transformer=transformer, text_encoder=Stub()
    )


def _arguments(**size: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool),
        "negative_prompt_embeds": noise(1, 7, 24, seed=20),
        "negative_prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool),
        "guidance_scale": 3.0,
        "use_resolution_binning": False,
        **size,
        **STEPS,
    }


CASES = available(
    Case("PRXPipeline", _latent, lambda: _arguments(**SIZE)),
    Case("PRXPixelPipeline", _pixel, lambda: _arguments(height=10, width=6)),
)
