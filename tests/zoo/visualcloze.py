"""VisualCloze: FLUX.1 Fill on a grid of pictures, of which the last is to be made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow, photo, vae, words


def _make() -> Any:
    transformer = build(
        "FluxTransformer2DModel",
        in_channels=48,
        out_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipe = assemble(
        "VisualClozeGenerationPipeline",
        scheduler=flow(use_dynamic_shifting=True),
        vae=vae(),
        transformer=transformer,
        resolution=16,
    )

    def read(*_: Any, task_prompt: list[str], **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        tokens = words(task_prompt[0], 24)
        return tokens, noise(1, 20, seed=11), torch.zeros(tokens.shape[1], 3)

    pipe.encode_prompt = read
    return pipe


def _arguments() -> dict[str, Any]:
    return {
        "task_prompt": "from edges to a picture",
        "content_prompt": "a cat",
        "image": [[photo(16, 16), photo(16, 16)], [photo(16, 16), None]],
        **STEPS,
    }


CASES = available(Case("VisualClozeGenerationPipeline", _make, _arguments))
