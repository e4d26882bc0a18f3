"""FLUX.1: dev, schnell, Fill, Kontext, Control, ControlNet."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero
from tap_ext.backbones.spec import BackboneSpec, Blocks

SPECS = (
    BackboneSpec(
        name="FluxTransformer2DModel",
        blocks=(Blocks("transformer_blocks", "eh"), Blocks("single_transformer_blocks", "eh")),
        head="norm_out",
        probe=ada_norm_zero,
        idle=("context_embedder", "pos_embed"),
        conditioning=("encoder_hidden_states", "pooled_projections"),
        between=("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
)
