"""Z-Image: Turbo, Base, ControlNet, Omni."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    noisy = arguments.get("noise_mask")
    if noisy is None:
        scale = _scale(block, arguments["adaln_input"])
    else:  # an image that is given is modulated as one without noise
        own, clean = (_scale(block, arguments[name]) for name in ("adaln_noisy", "adaln_clean"))
        scale = torch.where(noisy.unsqueeze(-1) == 1, own, clean)
    modulated: Tensor = block.attention_norm1(hidden) * scale
    return modulated


def _scale(block: Any, time: Tensor) -> Tensor:
    scale: Tensor = 1.0 + block.adaLN_modulation(time).unsqueeze(1).chunk(4, dim=2)[0]
    return scale


SPECS = (
    BackboneSpec(
        name="ZImageTransformer2DModel",
        blocks=(Blocks("layers", ("x",)),),
        streams=(Stream("all_final_layer.*", "x", probe=_probe, attention="attention"),),
        idle=("cap_embedder", "context_refiner.*", "siglip_embedder?", "siglip_refiner.*?"),
        latents="x",
        timestep="t",
        rising=True,
        conditioning=("cap_feats",),
        between=("controlnet_block_samples",),
        hazards=(
            "The two blocks that refine the image alone run on skip steps too; with cfg_truncation "
            "the batch is halved in mid-run; Omni moves its masks from the host at every call, so "
            "a CUDA graph cannot hold it."
        ),
    ),
)
