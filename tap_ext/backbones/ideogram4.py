"""Ideogram 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    scale = 1.0 + block.adaln_modulation(arguments["adaln_input"]).chunk(4, dim=-1)[0]
    modulated: Tensor = block.attention_norm1(hidden) * scale
    return modulated


SPECS = (
    BackboneSpec(
        name="Ideogram4Transformer2DModel",
        blocks=(Blocks("layers"),),
        streams=(Stream("final_layer", probe=_probe, attention="attention"),),
        idle=("llm_cond_norm", "llm_cond_proj", "embed_image_indicator", "rotary_emb"),
        rising=True,
        hazards=(
            "Guidance calls a second model, unconditional_transformer, which is accelerated and "
            "remembered on its own."
        ),
    ),
)
