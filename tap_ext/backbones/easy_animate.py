"""EasyAnimate."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_joint
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="EasyAnimateTransformer3DModel",
        blocks=(Blocks("transformer_blocks", ("hidden_states", "encoder_hidden_states")),),
        streams=(Stream("norm_final", probe=ada_norm_joint, attention="attn1"),),
        idle=("rope_embedding", "text_proj", "text_proj_t5?"),
        conditioning=("encoder_hidden_states", "encoder_hidden_states_t5"),
        graphs="skip",
        hazards="The rotary table is made on the CPU and every block copies it to the device.",
    ),
)
