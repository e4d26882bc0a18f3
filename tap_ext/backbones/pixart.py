"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_single
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="PixArtTransformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=ada_norm_single, attention="attn1"),),
        idle=("caption_projection?",),
    ),
)
