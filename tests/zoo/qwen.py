"""Qwen-Image pipelines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.versions import DIFFUSERS_VERSION
from tests.zoo.base import Case, available, noise
from tests.zoo.parts import (
    PARTIAL,
    STEPS,
    Pooling,
    Stub,
    assemble,
    build,
    flow,
    mask,
    photo,
    picture,
    seeded,
)

_SIZE = {"height": 40, "width": 24}
"""Pixels; 5 x 3 tokens."""
_SIZES: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 4, 4),
}


@functools.cache
def _vae() -> Any:
    return build(
        "AutoencoderKLQwenImage",
        seed=1,
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * 4,
        latents_std=[0.5] * 4,
    )


def _transformer(**options: Any) -> Any:
    return build("QwenImageTransformer2DModel", **_SIZES, **options)


def _controlnet(extra: int = 0) -> Any:
    sizes = {**_SIZES, "num_layers": 1, "extra_condition_channels": extra}
    return build("QwenImageControlNetModel", seed=2, **sizes)


def _make(name: str, halvings: int = 0) -> Any:
    """With ``halvings``, the autoencoder is one that costs nothing on large pictures."""
    parts = {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": Pooling(4, halvings) if halvings else _vae(),
        "transformer": _transformer(),
    }
    if "Layered" in name:
        parts["transformer"] = _transformer(use_additional_t_cond=True, use_layer3d_rope=True)
        parts["text_encoder"] = Stub()
    if "ControlNet" in name:
        parts["controlnet"] = _controlnet(4 if "Inpaint" in name else 0)
    return assemble(name, **parts)


def _prompts() -> dict[str, Any]:
    """Prompts of different lengths, the first with padding where diffusers takes it."""
    padding = [1, 1] if DIFFUSERS_VERSION < (0, 37) else [0, 0]
    return {
        "prompt_embeds": noise(1, 7, 24, seed=10),
        "prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 1, *padding]]),
        "negative_prompt_embeds": noise(1, 4, 24, seed=20),
        "negative_prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long),
        "true_cfg_scale": 3.0,
    }


def _case(name: str, arguments: Callable[[], dict[str, Any]], halvings: int = 0) -> Case:
    return Case(
        name,
        functools.partial(_make, name, halvings),
        lambda: _prompts() | arguments(),
        branches=2,
    )


CASES = available(
    _case("QwenImagePipeline", lambda: {**STEPS, **_SIZE}),
    _case("QwenImageImg2ImgPipeline", lambda: {**PARTIAL, **_SIZE, "image": picture(**_SIZE)}),
    _case(
        "QwenImageInpaintPipeline",
        lambda: {**PARTIAL, **_SIZE, "image": picture(**_SIZE), "mask_image": mask(**_SIZE)},
    ),
    _case(
        "QwenImageEditPipeline",
        lambda: {**STEPS, "height": 384, "width": 640, "image": photo(16, 16)},
        halvings=6,
    ),
    _case(
        "QwenImageEditInpaintPipeline",
        lambda: {**PARTIAL, "image": photo(16, 16), "mask_image": mask(16, 16)},
        halvings=7,
    ),
    _case(
        "QwenImageEditPlusPipeline",
        lambda: {**STEPS, "height": 384, "width": 640, "image": [photo(16, 16), photo(9, 16)]},
        halvings=6,
    ),
    _case(
        "QwenImageControlNetPipeline",
        lambda: {**STEPS, **_SIZE, "control_image": picture(**_SIZE)},
    ),
    _case(
        "QwenImageControlNetInpaintPipeline",
        lambda: seeded(
            **STEPS, **_SIZE, control_image=picture(**_SIZE), control_mask=mask(**_SIZE)
        ),
    ),
    _case(
        "QwenImageLayeredPipeline",
        # Its output of type "latent" is a bug in diffusers.
        lambda: {
            **STEPS,
            "prompt": "a cat",
            "image": photo(16, 16),
            "layers": 2,
            "resolution": 640,
            "output_type": "pt",
        },
        halvings=6,
    ),
)
