"""The HiDream-I1 pipeline."""

from __future__ import annotations

from typing import Any

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import SIZE, STEPS, assemble, build, flow, vae


def _make() -> Any:
    transformer = build(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[24, 20],
        text_emb_dim=12,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(8, 8),
        llama_layers=[0, 1, 2, 3],
    )
    pipe = assemble("HiDreamImagePipeline", scheduler=flow(), vae=vae(), transformer=transformer)
    pipe.default_sample_size = 8  # it scales every picture to this area
    return pipe


def _arguments() -> dict[str, Any]:
    given: dict[str, Any] = {"guidance_scale": 3.0, **SIZE, **STEPS}
    for seed, sign in ((10, ""), (20, "negative_")):
        given[f"{sign}prompt_embeds_t5"] = noise(1, 5, 24, seed=seed)
        given[f"{sign}prompt_embeds_llama3"] = noise(4, 1, 5, 20, seed=seed)
        given[f"{sign}pooled_prompt_embeds"] = noise(1, 12, seed=seed)
    return given


CASES = available(Case("HiDreamImagePipeline", _make, _arguments))
