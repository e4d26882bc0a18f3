"""CogVideoX 1.0 and 1.5, and ConsisID."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_joint
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BLOCKS = (Blocks("transformer_blocks", ("hidden_states", "encoder_hidden_states")),)

SPECS = (
    BackboneSpec(
        name="CogVideoXTransformer3DModel",
        blocks=_BLOCKS,
        streams=(Stream("norm_final", probe=ada_norm_joint, attention="attn1"),),
        idle=("patch_embed.text_proj", "ofs_embedding?"),
    ),
    BackboneSpec(
        name="ConsisIDTransformer3DModel",
        blocks=_BLOCKS,
        # norm_final is given text and video together.
        streams=(Stream("norm_out", probe=ada_norm_joint, attention="attn1"),),
        bypassed=(Blocks("perceiver_cross_attention"),),
        idle=("patch_embed.text_proj", "local_facial_extractor"),
        adds=True,
        hazards="The face is added between the blocks.",
    ),
)
