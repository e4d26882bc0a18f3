"""Ovis-Image, LongCat-Image and Bria 3.2 and FIBO pipelines: blocks as in FLUX.1."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import (
    SIZE,
    STEPS,
    Pooling,
    Stub,
    assemble,
    build,
    flow,
    photo,
    vae,
    words,
)

_SIZES: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 4, 8),
}
_WORDS = {"prompt": "a cat on a mat at home", "negative_prompt": "no dogs please"}

_EDIT = '{"edit_instruction": "let the cat sleep"}'


class _Processor(Stub):
    image_processor = None


def _ovis() -> Any:
    transformer = build(
        "OvisImageTransformer2DModel",
        in_channels=16,
        out_channels=16,
        joint_attention_dim=24,
        **_SIZES,
    )
    return assemble("OvisImagePipeline", scheduler=flow(), vae=vae(), transformer=transformer)


def _longcat(name: str) -> Any:
    transformer = build(
        "LongCatImageTransformer2DModel",
        in_channels=64,
        joint_attention_dim=24,
        pooled_projection_dim=24,
        **_SIZES,
    )
    edits = "Edit" in name
    pipe = assemble(
        name,
        scheduler=flow(),
        # Pictures to edit are scaled to a megapixel.
        vae=Pooling(16, halvings=7) if edits else vae(latent_channels=16),
        transformer=transformer,
        text_processor=_Processor(),
    )
    pipe._encode_prompt = lambda prompt, *_: words(prompt[0], 24)
    return pipe


def _bria() -> Any:
    transformer = build("BriaTransformer2DModel", in_channels=16, joint_attention_dim=24, **_SIZES)
    return assemble("BriaPipeline", scheduler=flow(), vae=vae(), transformer=transformer)


def _fibo(name: str) -> Any:
    transformer = build(
        "BriaFiboTransformer2DModel",
        in_channels=16,
        joint_attention_dim=40,
        text_encoder_dim=20,
        **_SIZES,
    )

    def read(prompt: list[str], **_: Any) -> tuple[Tensor, list[Tensor], Tensor]:
        layers = [words(prompt[0], 20, seed=seed) for seed in range(3)]
        return torch.cat(layers[-2:], dim=-1), layers, torch.ones(layers[0].shape[:2])

    pipe = assemble(
        name,
        scheduler=flow(use_dynamic_shifting=True),
        vae=Pooling(16, halvings=4),
        transformer=transformer,
        text_encoder=Stub(),
    )
    pipe.get_prompt_embeds = read
    return pipe


def _embedded() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "negative_prompt": None,
        "negative_prompt_embeds": noise(1, 7, 24, seed=20),
        "guidance_scale": 3.0,
        **SIZE,
        **STEPS,
    }


def _worded(**more: Any) -> dict[str, Any]:
    return {**_WORDS, "guidance_scale": 3.0, **STEPS, **more}


def _sized(**more: Any) -> dict[str, Any]:
    return {**_worded(height=80, width=48), **more}


CASES = available(
    Case("OvisImagePipeline", _ovis, _embedded, branches=2),
    Case(
        "LongCatImagePipeline",
        functools.partial(_longcat, "LongCatImagePipeline"),
        lambda: _worded(enable_prompt_rewrite=False, **SIZE),
        branches=2,
    ),
    Case(
        "LongCatImageEditPipeline",
        functools.partial(_longcat, "LongCatImageEditPipeline"),
        lambda: _worded(image=photo(16, 16)),
        branches=2,
    ),
    Case("BriaPipeline", _bria, _embedded),
    Case("BriaFiboPipeline", functools.partial(_fibo, "BriaFiboPipeline"), _sized),
    Case(
        "BriaFiboEditPipeline",
        functools.partial(_fibo, "BriaFiboEditPipeline"),
        lambda: _sized(prompt=_EDIT, image=photo(80, 48)),
    ),
)
