"""FLUX.2 (dev, klein, klein KV) and FLUX.3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import layer_norm_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream
from tap_ext.modulation import Modulation

_BOTH = ("encoder_hidden_states", "hidden_states")


def _flux2(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    modulation = arguments.get("temb_mod_img")
    if modulation is None:  # diffusers 0.36 hands over the parts
        shift, scale = arguments["temb_mod_params_img"][0][:2]
    else:
        modulation = modulation.unsqueeze(1) if modulation.ndim == 2 else modulation
        shift, scale = modulation.chunk(6, dim=-1)[:2]
    modulated: Tensor = (1 + scale) * block.norm1(hidden) + shift
    return modulated


def _flux2_modulation(
    block: Any, hidden: Tensor, arguments: Mapping[str, Any]
) -> Modulation | None:
    parts = arguments.get("temb_mod_img")
    return None if parts is None else layer_norm_modulation(block.norm1, hidden, parts)


def _flux3(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    shift, scale, _ = arguments["temb_mod"].chunk(3, dim=-1)
    modulated: Tensor = (1 + scale) * block.norm(hidden) + shift
    return modulated


SPECS = (
    BackboneSpec(
        name="Flux2Transformer2DModel",
        blocks=(Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks")),
        # Before the image's tokens stand those of reference images, where the call caches them.
        streams=(Stream("norm_out", probe=_flux2, tokens="last", modulation=_flux2_modulation),),
        idle=(
            "context_embedder",
            "pos_embed",
            "double_stream_modulation_txt",
            "single_stream_modulation",
        ),
        hazards=(
            "The step that caches keys and values of reference images has other tokens than those "
            "that follow, so the warm-up begins after it."
        ),
    ),
    BackboneSpec(
        name="Flux3Transformer2DModel",
        blocks=(Blocks("mode_blocks.image"), Blocks("single_transformer_blocks", _BOTH)),
        streams=(Stream("norm_out", probe=_flux3),),
        bypassed=(Blocks("txt_mode_blocks"), Blocks("mode_blocks.image_cond")),
        idle=(
            "context_embedder",
            "pos_embed",
            "x_embedders.image_cond",
            "early_stream_modulations.txt",
            "early_stream_modulations.image_cond",
            "single_stream_modulations.*",
        ),
        hazards="The text and the reference images have blocks of their own, left out as well.",
    ),
)
