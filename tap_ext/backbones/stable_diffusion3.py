"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero
from tap_ext.backbones.spec import BackboneSpec, Blocks

SPECS = (
    BackboneSpec(
        name="SD3Transformer2DModel",
        blocks=(Blocks("transformer_blocks", "eh"),),
        head="norm_out",
        probe=ada_norm_zero,
        idle=("context_embedder",),
        conditioning=("encoder_hidden_states", "pooled_projections"),
        between=("block_controlnet_hidden_states",),
    ),
)
