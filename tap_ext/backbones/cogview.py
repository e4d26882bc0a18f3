"""CogView 3 Plus and CogView 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import ada_norm_joint
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BLOCKS = (Blocks("transformer_blocks", ("hidden_states", "encoder_hidden_states")),)
_IDLE = (
    "patch_embed.text_proj",
    "time_condition_embed.condition_proj",
    "time_condition_embed.condition_embedder",
)


def _cogview3(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return ada_norm_joint(block, hidden, {**arguments, "temb": arguments["emb"]})


SPECS = (
    BackboneSpec(
        name="CogView3PlusTransformer2DModel",
        blocks=_BLOCKS,
        streams=(Stream("norm_out", probe=_cogview3, attention="attn1"),),
        idle=_IDLE,
    ),
    BackboneSpec(
        name="CogView4Transformer2DModel",
        blocks=_BLOCKS,
        streams=(Stream("norm_out", probe=ada_norm_joint, attention="attn1"),),
        idle=("rope", *_IDLE),
        graphs="skip",
        hazards="The rotary table is made on the CPU and every block copies it to the device.",
    ),
)
