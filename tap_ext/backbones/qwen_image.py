"""Qwen-Image and its edit and layered variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    shift_scale_gate = block.img_mod(arguments["temb"]).chunk(2, dim=-1)[0]
    normed = block.img_norm1(hidden)
    index = arguments.get("modulate_index")
    modulated: Tensor = block._modulate(normed, shift_scale_gate, index)[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="QwenImageTransformer2DModel",
        blocks=(Blocks("transformer_blocks", "eh"),),
        head="norm_out",
        probe=_probe,
        idle=("txt_norm", "txt_in", "pos_embed"),
        between=("controlnet_block_samples",),
    ),
)
