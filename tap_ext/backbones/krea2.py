"""Krea 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    time = arguments["temb"].unflatten(-1, (6, -1))
    scale, shift = (time + block.scale_shift_table).unbind(-2)[:2]
    modulated: Tensor = (1.0 + scale) * block.norm1(hidden) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="Krea2Transformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("final_layer", probe=_probe, tokens="last"),),
        idle=("text_fusion", "txt_in", "rotary_emb"),
    ),
)
