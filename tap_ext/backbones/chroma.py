"""Chroma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    modulated: Tensor = block.norm1(hidden, emb=arguments["temb"][:, :6])[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="ChromaTransformer2DModel",
        blocks=(
            Blocks("transformer_blocks", ("encoder_hidden_states", "hidden_states")),
            Blocks("single_transformer_blocks"),
        ),
        streams=(Stream("norm_out", probe=_probe),),
        idle=("context_embedder", "pos_embed"),
        conditioning=("encoder_hidden_states", "attention_mask"),
        between=("controlnet_block_samples", "controlnet_single_block_samples"),
        graphs="none",
        hazards=(
            "The network that makes every block's modulation runs on skip steps too, and copies "
            "from the host."
        ),
    ),
)
