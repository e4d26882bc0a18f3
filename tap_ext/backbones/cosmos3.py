"""Cosmos 3, which makes video, sound and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    normed: Tensor = block.input_layernorm_moe_gen(hidden)
    return normed


SPECS = (
    BackboneSpec(
        name="Cosmos3OmniTransformer",
        blocks=(Blocks("layers", ("und_seq", "gen_seq")),),
        # The other stream is the text's. It never sees what is made, so its end is the same at
        # every step, and no prediction reads it.
        streams=(Stream("norm_moe_gen", "gen_seq", _probe, "self_attn.add_q_proj"),),
        idle=("embed_tokens", "rotary_emb", "norm"),
        latents="vision_tokens",
        timestep="vision_timesteps",
        conditioning=("input_ids",),
        hazards="Tokens have no batch dimension, and the time is added to them before the first "
        "block, so the probe is a plain norm. Actions read the device at every call.",
    ),
)
