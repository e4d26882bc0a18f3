"""AuraFlow."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="AuraFlowTransformer2DModel",
        blocks=(
            Blocks("joint_transformer_blocks", ("encoder_hidden_states", "hidden_states")),
            Blocks("single_transformer_blocks"),
        ),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder",),
    ),
)
