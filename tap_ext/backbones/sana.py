"""Sana, Sana-Sprint, Sana-Video and SANA-WM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import ada_norm_single
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _video_probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """As for images, with one time embedding for all tokens or one for each."""
    time = arguments["timestep"].unflatten(-1, (6, -1))
    shift, scale = (block.scale_shift_table[None, None] + time).unbind(dim=2)[:2]
    modulated: Tensor = block.norm1(hidden) * (1 + scale) + shift
    return modulated.to(hidden.dtype)


SPECS = (
    BackboneSpec(
        name="SanaTransformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=ada_norm_single, attention="attn1"),),
        idle=("caption_projection", "caption_norm"),
        between=("controlnet_block_samples",),
        hazards="Sprint takes one to four steps, which leaves nothing to skip.",
    ),
    BackboneSpec(
        name="SanaVideoTransformer3DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_video_probe, attention="attn1"),),
        idle=("rope", "caption_projection", "caption_norm"),
        between=("controlnet_block_samples",),
        hazards=(
            "With a given first frame there is one timestep per token, 0 for those of the frame."
        ),
    ),
    BackboneSpec(
        name="SanaWMTransformer3DModel",
        blocks=(Blocks("blocks", ("x",)),),
        streams=(Stream("final_layer", "x"),),
        idle=("y_embedder", "attention_y_norm?", "rope?", "plucker_embedder?", "raymap_embedder"),
        graphs="skip",
        hazards=(
            "There is one timestep per frame, 0 for the given one; the camera's rays are computed "
            "anew at every call, on skip steps too."
        ),
    ),
)
