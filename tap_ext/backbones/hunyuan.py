"""HunyuanVideo, its image-to-video forms, FramePack, HunyuanVideo 1.5 and HunyuanImage 2.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream
from tap_ext.modulation import Modulation

_BOTH = ("hidden_states", "encoder_hidden_states")
_BLOCKS = (Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks", _BOTH))
_POOLED = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections")
_GLYPHS = (
    "encoder_hidden_states",
    "encoder_attention_mask",
    "encoder_hidden_states_2",
    "encoder_attention_mask_2",
)


def _video(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Where the first frame is given, its tokens are modulated as if at time 0."""
    if "num_tokens" not in arguments:
        return ada_norm_zero(block, hidden, arguments)
    names = ("temb", "token_replace_emb", "num_tokens")
    modulated: Tensor = block.norm1(hidden, *(arguments[name] for name in names))[0]
    return modulated


def _video_modulation(
    block: Any, hidden: Tensor, arguments: Mapping[str, Any]
) -> Modulation | None:
    if "num_tokens" in arguments:
        return None
    return ada_norm_zero_modulation(block, hidden, arguments)


SPECS = (
    BackboneSpec(
        name="HunyuanVideoTransformer3DModel",
        blocks=_BLOCKS,
        streams=(Stream("norm_out", probe=_video, modulation=_video_modulation),),
        idle=("context_embedder", "rope", "time_text_embed.text_embedder?"),
        conditioning=_POOLED,
    ),
    BackboneSpec(
        name="HunyuanVideoFramepackTransformer3DModel",
        blocks=_BLOCKS,
        # Before the frames to be made stand earlier ones.
        streams=(
            Stream(
                "norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation, tokens="last"
            ),
        ),
        idle=(
            "context_embedder",
            "image_projection",
            "clean_x_embedder",
            "rope",
            "time_text_embed.text_embedder?",
        ),
        conditioning=_POOLED,
        graphs="none",
        hazards="Every section of a video is denoised by itself, each with a warm-up.",
    ),
    BackboneSpec(
        name="HunyuanVideo15Transformer3DModel",
        blocks=(Blocks("transformer_blocks", _BOTH),),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=(
            "context_embedder",
            "context_embedder_2",
            "image_embedder",
            "cond_type_embed",
            "rope",
        ),
        conditioning=_GLYPHS,
        graphs="none",
        hazards="The order of its text tokens is found on the host, on skip steps too.",
    ),
    BackboneSpec(
        name="HunyuanImageTransformer2DModel",
        blocks=_BLOCKS,
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder", "rope"),
        conditioning=_GLYPHS,
        graphs="none",
        hazards="The order of its text tokens is found on the host, on skip steps too.",
    ),
)
