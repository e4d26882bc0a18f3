"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="SD3Transformer2DModel",
        blocks=(Blocks("transformer_blocks", ("encoder_hidden_states", "hidden_states")),),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder", "time_text_embed.text_embedder?"),
        conditioning=("encoder_hidden_states", "pooled_projections", "skip_layers"),
        between=("block_controlnet_hidden_states",),
        hazards=(
            "Skip-layer guidance adds a third call, on some of the steps, with a history of its "
            "own; with layer 0 among the skipped it cannot be accelerated."
        ),
    ),
)
