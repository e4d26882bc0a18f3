"""The OmniGen pipeline; its timestep rises."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.zoo.base import Case, available
from tests.zoo.parts import STEPS, assemble, build, flow, vae

_SIZE = {"height": 80, "width": 48}
"""Pixels; its processor counts a token for 16 x 16 of them."""


class _Words:
    """Stands in for a tokenizer: a token per word."""

    model_max_length = 64

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[3 + len(word) for word in text.split()][:9])


def _make() -> Any:
    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

    transformer = build(
        "OmniGenTransformer2DModel",
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        num_layers=3,
        pad_token_id=0,
        vocab_size=64,
        time_step_dim=16,
        pos_embed_max_size=8,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
    )
    processor = processor_omnigen.OmniGenMultiModalProcessor
    with (  # only pictures need torchvision, and none is given
        mock.patch.object(processor_omnigen, "transforms", mock.Mock(), create=True),
        mock.patch.object(pipeline_omnigen, processor.__name__, processor, create=True),
    ):
        return assemble(
            "OmniGenPipeline",
            scheduler=flow(invert_sigmas=True, num_train_timesteps=1, shift=1.0),
            vae=vae(halvings=3),
            transformer=transformer,
            tokenizer=_Words(),
        )


def _arguments() -> dict[str, Any]:
    return {"prompt": "a cat on a mat", "guidance_scale": 3.0, **_SIZE, **STEPS}


CASES = available(Case("OmniGenPipeline", _make, _arguments))
