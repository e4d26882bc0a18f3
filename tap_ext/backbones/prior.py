"""The priors of unCLIP, Kandinsky 2 and Shap-E."""

from __future__ import annotations

from tap_ext.backbones.probes import plain_norm
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="PriorTransformer",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=plain_norm, attention="attn1"),),
        idle=("embedding_proj_norm?", "embedding_proj", "encoder_hidden_states_proj?"),
        conditioning=("proj_embedding", "encoder_hidden_states"),
        hazards="The time enters as a token, so the probe is a plain norm.",
    ),
)
