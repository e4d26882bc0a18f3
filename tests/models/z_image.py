"""Z-Image, its ControlNet and Z-Image-Omni: latents and prompts come as lists of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

DIM = 32


def _z_image(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "in_channels": 4,
        "dim": DIM,
        "n_layers": 3,
        "n_refiner_layers": 2,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 20,
        "axes_dims": [4, 6, 6],
        "axes_lens": [256, 16, 16],
    }
    model = diffusers_class("ZImageTransformer2DModel")(**config | changes)
    for name, parameter in model.named_parameters():
        if name.endswith("pad_token"):  # left unset by diffusers 0.36
            nn.init.normal_(parameter)
    return model


def _latents(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(4, 1, 6, 10, generator=generator)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    lengths = (9, 35)[:batch]  # padded to 32 and 64
    return {
        "x": [_latents(generator) for _ in range(batch)],
        "cap_feats": [torch.randn(length, 20, generator=generator) for length in lengths],
    }


def _controlled(generator: torch.Generator, batch: int) -> Arguments:
    arguments = _inputs(generator, batch)
    tokens = 32 + max(32 * -(-len(text) // 32) for text in arguments["cap_feats"])
    residuals = {layer: torch.randn(batch, tokens, DIM, generator=generator) for layer in (0, 2)}
    return arguments | {"controlnet_block_samples": residuals}


def _omni() -> nn.Module:
    return _z_image(siglip_feat_dim=12)


def _omni_inputs(generator: torch.Generator, batch: int) -> Arguments:
    """One clean image, then the noisy one."""
    return {
        "x": [[_latents(generator), _latents(generator)] for _ in range(batch)],
        "cap_feats": [
            [torch.randn(length, 20, generator=generator) for length in (5, 3, 4)]
            for _ in range(batch)
        ],
        "siglip_feats": [[torch.randn(3, 4, 12, generator=generator), None] for _ in range(batch)],
        "image_noise_mask": [[0, 1] for _ in range(batch)],
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"t": torch.full((batch,), 1 - sigma)}


MODELS = available(
    Tiny("ZImageTransformer2DModel", _z_image, _inputs, _time, ("x",)),
    Tiny(
        "ZImageTransformer2DModel+controlnet",
        _z_image,
        _controlled,
        _time,
        ("x",),
        since=(0, 37),
    ),
    Tiny("ZImageTransformer2DModel+omni", _omni, _omni_inputs, _time, ("x",), since=(0, 37)),
)
