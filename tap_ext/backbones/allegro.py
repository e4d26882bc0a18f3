"""Allegro."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    temb = arguments["temb"].unflatten(-1, (6, -1))
    shift, scale = (block.scale_shift_table[None] + temb)[:, :2].split(1, dim=1)
    modulated: Tensor = block.norm1(hidden) * (1 + scale) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="AllegroTransformer3DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("caption_projection",),
    ),
)
