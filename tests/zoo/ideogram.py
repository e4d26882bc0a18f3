"""The Ideogram 4 pipeline: guidance has a transformer of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, Stub, assemble, build, flow


class _Words:
    """Stands in for a tokenizer: a token per word."""

    def apply_chat_template(self, messages: list[Any], **_: Any) -> str:
        return str(messages[0]["content"][0]["text"])

    def __call__(self, text: str, **_: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[len(word) for word in text.split()]])}


def _transformer(seed: int) -> Any:
    return build(
        "Ideogram4Transformer2DModel",
        seed=seed,
        in_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=64,
        adaln_dim=16,
        llm_features_dim=24,
        mrope_section=(4, 2, 2),
    )


def _make() -> Any:
    """Without an autoencoder a token stands for 16 x 16 pixels."""
    pipe = assemble(
        "Ideogram4Pipeline",
        scheduler=flow(shift=1.0),
        transformer=_transformer(0),
        unconditional_transformer=_transformer(1),
        tokenizer=_Words(),
        text_encoder=Stub(),
    )
    pipe._get_text_encoder_hidden_states = lambda _, tokens, *__: [
        noise(*tokens.shape, 12, seed=seed) for seed in (10, 11)
    ]
    return pipe


def _arguments() -> dict[str, Any]:
    return {
        "prompt": "a cat on a mat at home",
        "max_sequence_length": 9,
        "guidance_scale": 3.0,
        "guidance_schedule": None,
        "height": 80,
        "width": 48,
        **STEPS,
    }


CASES = available(
    Case(
        "Ideogram4Pipeline",
        _make,
        _arguments,
        models=("transformer", "unconditional_transformer"),
    )
)
