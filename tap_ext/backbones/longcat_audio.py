"""LongCat-AudioDiT."""

from __future__ import annotations

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="LongCatAudioDiTTransformer",
        blocks=(Blocks("blocks"),),
        streams=(Stream("norm_out", attention="self_attn"),),
        idle=("text_embed", "text_conv_layer?", "latent_embed?", "rotary_embed"),
        rising=True,
        adds=True,
        hazards="What entered the blocks is added once more to what left them.",
    ),
)
