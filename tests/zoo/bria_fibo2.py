"""The Bria FIBO 2 pipeline."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow


def _make() -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    transformer = build(
        "BriaFibo2Transformer2DModel",
        in_channels=4,
        dim=32,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=24,
        injection_layer_ids=(1, 2),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=2,
        gist_min_text_len=4,
        gist_max_text_len=16,
        axes_dims=(8, 4, 4),
        axes_lens=(64, 32, 32),
    )
    scheduler = flow(use_dynamic_shifting=True)
    return assemble("BriaFibo2Pipeline", scheduler=scheduler, transformer=transformer)


def _arguments() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 3, 9, 24, seed=10),
        "prompt_embeds_mask": torch.tensor([[True] * 7 + [False] * 2]),
        "negative_prompt_embeds": noise(1, 3, 5, 24, seed=20),
        "guidance_scale": 3.0,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(Case("BriaFibo2Pipeline", _make, _arguments, branches=2))
