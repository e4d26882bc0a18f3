"""Cosmos 1, 2 and 2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    position = arguments.get("extra_pos_emb")
    if position is not None:
        hidden = hidden + position
    embedded, temb = arguments["embedded_timestep"], arguments.get("temb")
    modulated: Tensor = block.norm1(hidden, embedded, temb)[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="CosmosTransformer3DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("rope", "learnable_pos_embed?", "crossattn_proj?", "img_context_proj?"),
        hazards="Given frames keep a small timestep of their own. ControlNet residuals are added "
        "inside the blocks.",
    ),
)
