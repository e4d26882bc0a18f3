"""Kandinsky 5 (image, video), 6 (video with sound) and the super-resolution model of 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, ProbeFormula, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return _modulated(block, hidden, arguments["time_embed"])


def _modulated(block: Any, hidden: Tensor, time: Tensor) -> Tensor:
    own = block.visual_modulation(time).unsqueeze(1).chunk(3, dim=-1)[0]
    shift, scale = own.float().chunk(3, dim=-1)[:2]
    modulated: Tensor = block.self_attention_norm(hidden.float()) * (scale + 1.0) + shift
    return modulated.to(hidden.dtype)


def _part_probe(name: str, number: int) -> ProbeFormula:
    def probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        return _modulated(getattr(block, name), hidden, arguments["time_embed"][number])

    return probe


SPECS = (
    BackboneSpec(
        name="Kandinsky5Transformer3DModel",
        blocks=(Blocks("visual_transformer_blocks", ("visual_embed",)),),
        streams=(Stream("", "visual_embed", _probe, "self_attention"),),
        bypassed=(Blocks("text_transformer_blocks", ("x",)),),
        idle=(
            "text_embeddings",
            "pooled_text_embeddings",
            "text_rope_embeddings",
            "visual_rope_embeddings",
        ),
        conditioning=("encoder_hidden_states", "pooled_projections"),
        graphs="none",
        hazards="It moves the frequencies of its time embedding from the host at every call.",
    ),
    BackboneSpec(
        name="Kandinsky6Transformer3DModel",
        blocks=(Blocks("visual_transformer_blocks", ("vis", "aud")),),
        streams=(
            Stream(
                "out_layer",
                "vis",
                _part_probe("video_dec_block", 0),
                "video_dec_block.self_attention",
            ),
            Stream(
                "audio_out_layer",
                "aud",
                _part_probe("audio_dec_block", 1),
                "audio_dec_block.self_attention",
            ),
        ),
        bypassed=(
            Blocks("video_text_transformer_blocks", ("x",)),
            Blocks("audio_text_transformer_blocks", ("x",)),
        ),
        idle=(
            "video_text_embeddings",
            "audio_text_embeddings",
            "video_pooled_text_embeddings",
            "audio_pooled_text_embeddings",
            "video_text_rope_embeddings",
            "audio_text_rope_embeddings",
            "visual_rope_embeddings",
            "audio_rope_embeddings",
            "visual_token_type_embeddings?",
        ),
        conditioning=("encoder_hidden_states", "pooled_projections"),
    ),
    BackboneSpec(
        name="Kandinsky6SRTransformer3DModel",
        blocks=(Blocks("visual_transformer_blocks"),),
        streams=(Stream("", attention="self_attention"),),
        idle=("visual_rope_embeddings",),
        conditioning=(),
        graphs="skip",
        hazards=(
            "Its pipeline runs the denoising loop once per chunk of tiles, and the released models "
            "take so few steps that little is left to skip."
        ),
    ),
)
