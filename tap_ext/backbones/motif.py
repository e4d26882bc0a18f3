"""Motif-Video."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BOTH = ("hidden_states", "encoder_hidden_states")

SPECS = (
    BackboneSpec(
        name="MotifVideoTransformer3DModel",
        blocks=(Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks", _BOTH)),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder", "rope"),
        conditioning=("encoder_hidden_states", "encoder_attention_mask"),
        hazards=(
            "Its decoder blocks start from the embedded latents again, so what enters the first "
            "block is what the head sees without any."
        ),
    ),
)
