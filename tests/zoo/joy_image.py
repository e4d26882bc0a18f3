"""JoyImage editing pipelines."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, Pooling, assemble, build, flow, photo


def _make(name: str, model: str) -> Any:
    """Pictures are scaled to a megapixel, of which a token stands for 256 x 256."""
    transformer = build(
        model,
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=24,
        num_layers=3,
        rope_dim_list=[4, 6, 6],
    )
    return assemble(name, scheduler=flow(), vae=Pooling(4, halvings=7), transformer=transformer)


def _plus() -> Any:
    pipe = _make("JoyImageEditPlusPipeline", "JoyImageEditPlusTransformer3DModel")

    def read(prompt: list[str], **_: Any) -> tuple[Tensor, Tensor]:
        length = len(prompt[0].split())
        return noise(1, length, 24, seed=length), torch.ones(1, length, dtype=torch.long)

    # It takes no embeddings without words.
    pipe.encode_prompt_multiple_images = read
    return pipe


def _arguments(**more: Any) -> dict[str, Any]:
    return {"guidance_scale": 3.0, "height": 1280, "width": 768, **STEPS, **more}


def _embedded() -> dict[str, Any]:
    return _arguments(
        image=photo(80, 48),
        prompt_embeds=noise(1, 7, 24, seed=10),
        prompt_embeds_mask=torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
        negative_prompt_embeds=noise(1, 4, 24, seed=20),
        negative_prompt_embeds_mask=torch.ones(1, 4, dtype=torch.long),
    )


def _worded() -> dict[str, Any]:
    return _arguments(images=[photo(80, 48)], prompt="a cat on a mat", negative_prompt="no dogs")


CASES = available(
    Case(
        "JoyImageEditPipeline",
        functools.partial(_make, "JoyImageEditPipeline", "JoyImageEditTransformer3DModel"),
        _embedded,
        branches=2,
    ),
    Case("JoyImageEditPlusPipeline", _plus, _worded),
)
