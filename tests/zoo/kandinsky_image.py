"""Kandinsky 5 image pipelines."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow, photo, vae


def _make(name: str) -> Any:
    transformer = build(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=24,
        in_text_dim2=20,
        time_dim=16,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=3,
        axes_dims=(8, 4, 4),
        visual_cond="I2I" in name,
    )
    pipe = assemble(name, scheduler=flow(), vae=vae(halvings=3), transformer=transformer)
    pipe.resolutions = [(48, 80)]  # it takes the nearest of these
    return pipe


def _case(name: str, **more: Any) -> Case:
    def arguments() -> dict[str, Any]:
        given = {"guidance_scale": 3.0, "height": 80, "width": 48, **STEPS, **more}
        for sign, tokens in (("", 7), ("negative_", 4)):
            given[f"{sign}prompt_embeds_qwen"] = noise(1, tokens, 24, seed=tokens)
            given[f"{sign}prompt_embeds_clip"] = noise(1, 20, seed=tokens)
            given[f"{sign}prompt_cu_seqlens"] = torch.tensor([0, tokens], dtype=torch.int32)
        return given

    return Case(name, functools.partial(_make, name), arguments, branches=2, output="image")


CASES = available(
    _case("Kandinsky5T2IPipeline"),
    _case("Kandinsky5I2IPipeline", image=photo(80, 48)),
)
