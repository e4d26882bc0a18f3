"""Hunyuan-DiT pipelines."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, picture, seeded, vae

_SIZE = {"height": 80, "width": 48}
_SIZES: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "cross_attention_dim": 20,
    "cross_attention_dim_t5": 24,
    "pooled_projection_dim": 16,
    "text_len": 7,
    "text_len_t5": 9,
}


def _make(name: str, sampler: Any = DDIMScheduler) -> Any:
    parts = {
        "scheduler": sampler(
            beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False
        ),
        "vae": vae(halvings=3),
        "transformer": build("HunyuanDiT2DModel", num_layers=4, **_SIZES),
        "requires_safety_checker": False,
    }
    if "ControlNet" in name:
        parts["controlnet"] = build(
            "HunyuanDiT2DControlNetModel", seed=2, transformer_num_layers=4, **_SIZES
        )
    if "PAG" in name:
        parts["pag_applied_layers"] = "blocks.1"
    return assemble(name, **parts)


def _arguments(**more: Any) -> dict[str, Any]:
    given = {**_SIZE, **STEPS, **more, "use_resolution_binning": False, "guidance_scale": 3.0}
    for seed, prompt in ((10, "prompt"), (20, "negative_prompt")):
        for suffix, tokens, width in (("", 7, 20), ("_2", 9, 24)):
            given[f"{prompt}_embeds{suffix}"] = noise(1, tokens, width, seed=seed)
            given[f"{prompt}_attention_mask{suffix}"] = torch.ones(1, tokens, dtype=torch.long)
    return seeded(**given)


def _case(name: str, **more: Any) -> Case:
    return Case(name, functools.partial(_make, name), lambda: _arguments(**more))


CASES = available(
    _case("HunyuanDiTPipeline"),
    Case(
        "HunyuanDiTPipeline+noisy",
        functools.partial(_make, "HunyuanDiTPipeline", DDPMScheduler),
        _arguments,
        loose=0.6,  # its sampler adds noise in every step, which no history foretells
    ),
    _case("HunyuanDiTControlNetPipeline", control_image=picture(**_SIZE)),
    _case("HunyuanDiTPAGPipeline", pag_scale=0.7),
)
