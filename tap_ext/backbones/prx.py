"""PRX, in the space of latents and of pixels."""

from __future__ import annotations

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="PRXTransformer2DModel",
        blocks=(Blocks("blocks"),),
        streams=(Stream("final_layer", attention="attention"),),
        idle=("txt_in", "pe_embedder", "resolution_embedder?"),
    ),
)
