"""Z-Image pipelines: pictures and prompts come in lists, both prompts' in one call."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from tests.versions import DIFFUSERS_VERSION
from tests.zoo.base import Case, available, noise
from tests.zoo.parts import (
    PARTIAL,
    STEPS,
    Stub,
    assemble,
    build,
    flow,
    mask,
    photo,
    picture,
    vae,
)

_SIZE = {"height": 80, "width": 48}
"""Pixels; 5 x 3 tokens. They take no picture to look at with a side below 64."""


class _Processor:
    """Stands in for Siglip's; 2 x 3 patches of any picture."""

    def __call__(self, images: list[Any], return_tensors: str) -> BatchFeature:
        patches = noise(1, 6, 20, seed=40)
        return BatchFeature({"patches": patches, "spatial_shapes": torch.tensor([[2, 3]])})


class _Siglip(Stub):
    def forward(self, patches: Tensor, spatial_shapes: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=patches)


def _make(name: str) -> Any:
    sizes = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    omni = "Omni" in name
    parts = {
        "scheduler": flow(),
        "vae": vae(halvings=3),
        "transformer": build(
            "ZImageTransformer2DModel",
            **sizes,
            in_channels=4,
            n_layers=3,
            cap_feat_dim=24,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
            **({"siglip_feat_dim": 20} if omni else {}),
        ),
    }
    for token in ("x_pad_token", "cap_pad_token"):  # some versions leave them unset
        nn.init.normal_(getattr(parts["transformer"], token), std=0.1)
    if "ControlNet" in name:
        parts["controlnet"] = build(
            "ZImageControlNetModel",
            seed=2,
            **sizes,
            control_layers_places=[0, 2],
            control_refiner_layers_places=[0],
            control_in_dim=9 if "Inpaint" in name else 4,
        )
    if omni:
        # It casts pictures to this precision whatever the autoencoder's.
        parts["vae"] = copy.deepcopy(vae(halvings=3)).bfloat16()
        parts |= {"siglip": _Siglip(), "siglip_processor": _Processor()}
    return assemble(name, **parts)


def _case(name: str, **more: Any) -> Case:
    def arguments() -> dict[str, Any]:
        positive, negative = noise(7, 24, seed=10), noise(4, 24, seed=20)
        given = {
            "prompt_embeds": [positive],
            "negative_prompt_embeds": [negative],
            "guidance_scale": 3.0,
            **_SIZE,
            **STEPS,
            **more,
        }
        if "Omni" in name:  # the words before, between and after the pictures
            parts = (noise(3, 24, seed=12), positive, noise(2, 24, seed=13))
            given["prompt_embeds"] = [list(parts) if "image" in more else [positive]]
            parts = (noise(3, 24, seed=12), negative, noise(2, 24, seed=13))
            given["negative_prompt_embeds"] = [list(parts) if "image" in more else [negative]]
        return given

    return Case(name, functools.partial(_make, name.partition("+")[0]), arguments)


CASES = available(
    _case("ZImagePipeline"),
    _case("ZImagePipeline+unguided", guidance_scale=0.0),
    _case("ZImageImg2ImgPipeline", **PARTIAL, image=picture(**_SIZE)),
    _case("ZImageInpaintPipeline", **PARTIAL, image=picture(**_SIZE), mask_image=mask(**_SIZE)),
    _case("ZImageControlNetPipeline", control_image=picture(**_SIZE)),
    _case(
        "ZImageControlNetInpaintPipeline",
        image=picture(**_SIZE, seed=31),
        mask_image=mask(**_SIZE),
        control_image=picture(**_SIZE),
    ),
    _case("ZImageOmniPipeline"),
    _case("ZImageOmniPipeline+image", image=photo(64, 80)),
)
if DIFFUSERS_VERSION >= (0, 37):  # its timesteps were others: too few are left without guidance
    # Guidance ends before the run does: two prompts in a call, then one.
    truncated = _case("ZImagePipeline+truncated", cfg_truncation=0.4)
    CASES += (replace(truncated, branches=0),)
