"""GLM-Image."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_joint
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="GlmImageTransformer2DModel",
        blocks=(Blocks("transformer_blocks", ("hidden_states", "encoder_hidden_states")),),
        streams=(Stream("norm_out", probe=ada_norm_joint, attention="attn1"),),
        idle=(
            "rope",
            "glyph_projector",
            "prior_projector",
            "time_condition_embed.condition_proj",
            "time_condition_embed.condition_embedder",
        ),
        conditioning=("encoder_hidden_states", "prior_token_id", "prior_token_drop"),
        graphs="none",
        hazards="Every call reads a mask from the device. For each reference image one call at "
        "timestep 0 fills a K/V cache before the first step, and must be a full step.",
    ),
)
