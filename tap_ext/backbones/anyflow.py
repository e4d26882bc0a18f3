"""AnyFlow, and its causal variant that makes a video chunk by chunk."""

from __future__ import annotations

from tap_ext.backbones.probes import wan
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_STREAMS = (Stream("norm_out", probe=wan, attention="attn1"),)
_IDLE = ("rope", "condition_embedder.text_embedder", "condition_embedder.image_embedder?")

SPECS = (
    BackboneSpec(
        name="AnyFlowTransformer3DModel",
        blocks=(Blocks("blocks"),),
        streams=_STREAMS,
        idle=_IDLE,
        hazards="Made for few steps; with so few there is little to predict.",
    ),
    BackboneSpec(
        name="AnyFlowFARTransformer3DModel",
        blocks=(Blocks("blocks"),),
        streams=_STREAMS,
        idle=_IDLE,
        conditioning=("encoder_hidden_states", "kv_cache_flag"),
        graphs="skip",
        hazards="Every chunk is a run of its own, and after it one call fills the K/V cache and "
        "returns no sample: that call is passed on untouched.",
    ),
)
