"""LTX-Video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    table = block.scale_shift_table
    temb = arguments["temb"].unflatten(-1, (table.shape[0], -1))
    shift, scale = (table[:2] + temb[..., :2, :]).unbind(-2)
    modulated: Tensor = block.norm1(hidden) * (1 + scale) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="LTXVideoTransformer3DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("rope", "caption_projection"),
    ),
)
