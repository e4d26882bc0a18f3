"""Hunyuan-DiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    modulated: Tensor = block.norm1(hidden, arguments["temb"])
    return modulated


SPECS = (
    BackboneSpec(
        name="HunyuanDiT2DModel",
        blocks=(Blocks("blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=("text_embedder", "time_extra_emb.pooler"),
        conditioning=("encoder_hidden_states", "encoder_hidden_states_t5"),
        hazards=(
            "The model empties the list of ControlNet residuals that it is given; they go into the "
            "long skip connections, which only the blocks read."
        ),
    ),
)
