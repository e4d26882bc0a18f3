"""Mochi."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    modulated: Tensor = block.norm1(hidden, arguments["temb"])[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="MochiTransformer3DModel",
        blocks=(Blocks("transformer_blocks", ("hidden_states", "encoder_hidden_states")),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("rope", "time_embed.pooler", "time_embed.caption_proj"),
        rising=True,
        graphs="skip",
        hazards="The timestep rises from 0, and every attention reads the text's length from the "
        "device.",
    ),
)
