"""The Qwen-Image 2.1 pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow


class _Processor:
    """Stands in for the reader of prompts, of which the pipeline only asks some token ids."""

    tokenizer = SimpleNamespace(encode=lambda _: [1])

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]


def _make() -> Any:
    """A token stands for 16 x 16 pixels."""
    transformer = build(
        "QwenImage21Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=24,
        axes_dims_rope=(4, 6, 6),
    )
    return assemble(
        "QwenImage21Pipeline",
        scheduler=flow(use_dynamic_shifting=True),
        transformer=transformer,
        processor=_Processor(),
    )


def _arguments(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
        "negative_prompt_embeds": noise(1, 4, 24, seed=20),
        "negative_prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long),
        "true_cfg_scale": 3.0,
        "height": 160,
        "width": 96,
        **STEPS,
        **more,
    }


CASES = available(
    Case(
        "QwenImage21Pipeline+uncached",
        _make,
        lambda: _arguments(use_kv_cache=False),
        branches=2,
    ),
    # The first step sees the prompt, the others only its keys and values.
    Case("QwenImage21Pipeline", _make, _arguments, branches=0),
)
