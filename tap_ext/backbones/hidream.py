"""HiDream-I1 and HiDream-E1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    inner = block.block
    shift, scale = inner.adaLN_modulation(arguments["temb"])[:, None].chunk(12, dim=-1)[:2]
    modulated: Tensor = inner.norm1_i(hidden).to(hidden.dtype) * (1 + scale) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="HiDreamImageTransformer2DModel",
        blocks=(
            Blocks("double_stream_blocks", ("hidden_states", "encoder_hidden_states")),
            Blocks("single_stream_blocks"),
        ),
        streams=(Stream("final_layer", probe=_probe, attention="block.attn1"),),
        idle=("caption_projection.*", "pe_embedder"),
        timestep="timesteps",
        conditioning=(
            "encoder_hidden_states_t5",
            "encoder_hidden_states_llama3",
            "pooled_embeds",
        ),
        graphs="none",
        hazards=(
            "An image that is no square is padded to the most tokens the model takes, and the "
            "padding is forecast too."
        ),
    ),
)
