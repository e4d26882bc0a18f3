"""Latte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    timestep = arguments["timestep"].unflatten(-1, (6, -1))
    shift, scale = (block.scale_shift_table[None] + timestep)[:, :2].split(1, dim=1)
    modulated: Tensor = block.norm1(hidden) * (1 + scale) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="LatteTransformer3DModel",
        blocks=(Blocks("transformer_blocks"), Blocks("temporal_transformer_blocks")),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("caption_projection",),
        adds=True,
        hazards="Blocks over space and over time take turns, each with the other axes in its "
        "batch; between the first two the position in time is added.",
    ),
)
