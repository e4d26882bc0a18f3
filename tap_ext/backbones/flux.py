"""FLUX.1 (dev, schnell, Fill, Kontext, Control, ControlNet), Ovis-Image, LongCat-Image."""

from __future__ import annotations

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BOTH = ("encoder_hidden_states", "hidden_states")
_BLOCKS = (Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks", _BOTH))
_STREAMS = (Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),)
_REFERENCE = (
    "The tokens of a reference image enter the blocks with the image's, so they are forecast too."
)

SPECS = (
    BackboneSpec(
        name="FluxTransformer2DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=("context_embedder", "pos_embed", "time_text_embed.text_embedder?"),
        conditioning=("encoder_hidden_states", "pooled_projections"),
        between=("controlnet_block_samples", "controlnet_single_block_samples"),
        hazards=_REFERENCE,
    ),
    BackboneSpec(
        name="OvisImageTransformer2DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=("context_embedder_norm", "context_embedder", "pos_embed"),
    ),
    BackboneSpec(
        name="LongCatImageTransformer2DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=("context_embedder", "pos_embed"),
        hazards=_REFERENCE,
    ),
)
