"""Tiny random models of real classes, and a sampler that drives them without a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from torch import Tensor, nn

from tests.versions import DIFFUSERS_VERSION

TEXT = 6
GRID = 4


@dataclass(frozen=True)
class Tiny:
    """A model class with a tiny configuration.

    Attributes:
        make: builds the model from the global random state.
        inputs: (seed, batch) -> the call's keyword arguments without the timestep.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], dict[str, Any]]


def _flux() -> nn.Module:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


def _flux_inputs(generator: torch.Generator, batch: int) -> dict[str, Any]:
    ids = torch.zeros(GRID, GRID, 3)
    ids[..., 1] += torch.arange(GRID)[:, None]
    ids[..., 2] += torch.arange(GRID)
    return {
        "hidden_states": torch.randn(batch, GRID * GRID, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 32, generator=generator),
        "pooled_projections": torch.randn(batch, 32, generator=generator),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def _sd3() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )


def _sd3_inputs(generator: torch.Generator, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 32, generator=generator),
        "pooled_projections": torch.randn(batch, 32, generator=generator),
    }


def _qwen() -> nn.Module:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        guidance_embeds=False,
        axes_dims_rope=(4, 4, 8),
    )


def _qwen_inputs(generator: torch.Generator, batch: int) -> dict[str, Any]:
    # Before diffusers 0.37 the model was told how long the prompts are.
    lengths = {"txt_seq_lens": [TEXT] * batch} if DIFFUSERS_VERSION < (0, 37) else {}
    return lengths | {
        "hidden_states": torch.randn(batch, GRID * GRID, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 32, generator=generator),
        "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.long),
        "img_shapes": [[(1, GRID, GRID)]] * batch,
    }


MODELS = (
    Tiny("flux", _flux, _flux_inputs),
    Tiny("sd3", _sd3, _sd3_inputs),
    Tiny("qwen", _qwen, _qwen_inputs),
)


def build(tiny: Tiny, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model whose every parameter is random, zero-initialised ones included."""
    torch.manual_seed(seed)
    model = tiny.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.to(dtype)


def inputs(
    tiny: Tiny, seed: int = 1, batch: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Arguments of one call, without the timestep."""
    generator = torch.Generator().manual_seed(seed)
    arguments = tiny.inputs(generator, batch)
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


@torch.no_grad()
def sample(
    model: nn.Module, arguments: dict[str, Any], steps: int, stop: int | None = None
) -> Tensor:
    """Euler steps of rectified flow from noise level 1 to 0; ``stop`` gives up before that step."""
    arguments = dict(arguments)
    latents = arguments["hidden_states"]
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    for step, (now, after) in enumerate(pairwise(sigmas)):
        if step == stop:
            break
        arguments["hidden_states"] = latents
        timestep = torch.full((latents.shape[0],), now, dtype=latents.dtype)
        velocity = model(**arguments, timestep=timestep, return_dict=False)[0]
        latents = latents + (after - now) * velocity
    return latents
