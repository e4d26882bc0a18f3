"""LTX-2, which makes video and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _modulated(normed: Tensor, block: Any, table: Tensor, temb: Tensor) -> Tensor:
    shift, scale = block.get_mod_params(table, temb, normed.shape[0])[:2]
    modulated: Tensor = normed * (1 + scale) + shift
    return modulated


def _video(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return _modulated(block.norm1(hidden), block, block.scale_shift_table, arguments["temb"])


def _audio(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    table, temb = block.audio_scale_shift_table, arguments["temb_audio"]
    return _modulated(block.audio_norm1(hidden), block, table, temb)


SPECS = (
    BackboneSpec(
        name="LTX2VideoTransformer3DModel",
        blocks=(Blocks("transformer_blocks", ("hidden_states", "audio_hidden_states")),),
        streams=(
            Stream("norm_out", probe=_video, attention="attn1"),
            Stream("audio_norm_out", "audio_hidden_states", _audio, "audio_attn1"),
        ),
        idle=(
            "rope",
            "audio_rope",
            "cross_attn_rope",
            "cross_attn_audio_rope",
            "caption_projection?",
            "audio_caption_projection?",
            "av_cross_attn_video_scale_shift",
            "av_cross_attn_audio_scale_shift",
            "av_cross_attn_video_a2v_gate",
            "av_cross_attn_audio_v2a_gate",
            "prompt_adaln?",
            "audio_prompt_adaln?",
        ),
        conditioning=(
            "encoder_hidden_states",
            "audio_encoder_hidden_states",
            "isolate_modalities",
            "spatio_temporal_guidance_blocks",
            "perturbation_mask",
        ),
        hazards="Two streams, each with its own history; the video's decides on the steps. "
        "Spatio-temporal and modality guidance are branches of their own.",
    ),
)
