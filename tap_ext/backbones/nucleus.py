"""Nucleus-Image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    scale = block.img_mod(arguments["temb"]).unsqueeze(1).chunk(4, dim=-1)[0]
    modulated: Tensor = block.pre_attn_norm(hidden) * (1 + scale)
    return modulated


SPECS = (
    BackboneSpec(
        name="NucleusMoEImageTransformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_probe),),
        idle=("txt_norm", "pos_embed"),
        graphs="skip",
        hazards=(
            "The position table and, by default, the experts wait for the device; with padded "
            "prompts, so do skip steps."
        ),
    ),
)
