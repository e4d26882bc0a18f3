"""Stable Audio and Stable Audio 3."""

from __future__ import annotations

from tap_ext.backbones.probes import plain_norm
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="StableAudioDiTModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("proj_out", probe=plain_norm, attention="attn1"),),
        idle=("cross_attention_proj", "global_proj"),
        hazards="The time enters as a token, so the probe is a plain norm.",
    ),
    BackboneSpec(
        name="StableAudio3DiTModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("proj_out", attention="self_attn", tokens="last"),),
        idle=("to_cond_embed", "to_global_embed", "rotary_pos_emb"),
        hazards="Its sampler adds new noise at every step, which makes forecasts less sure.",
    ),
)
