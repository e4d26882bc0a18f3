"""Qwen-Image with its edit and layered variants, and Qwen-Image 2.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import layer_norm_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream
from tap_ext.modulation import Modulation


def _qwen(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    shift_scale_gate = block.img_mod(arguments["temb"]).chunk(2, dim=-1)[0]
    normed = block.img_norm1(hidden)
    index = arguments.get("modulate_index")
    given = () if index is None else (index,)  # diffusers 0.36 knows of none
    modulated: Tensor = block._modulate(normed, shift_scale_gate, *given)[0]
    return modulated


def _qwen_modulation(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Modulation | None:
    """Reference images that are modulated as if at time 0 have parts of their own."""
    known = type(block).__module__.startswith("diffusers.") and "_modulate" not in vars(block)
    if not known or arguments.get("modulate_index") is not None:
        return None
    return layer_norm_modulation(block.img_norm1, hidden, block.img_mod(arguments["temb"]))


def _qwen21(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    scale_gate = arguments["modulation"].chunk(2, dim=-1)[0]
    normed = block.img_norm1(hidden)
    target = arguments.get("target_token_mask")
    modulated: Tensor = block._modulate(normed, scale_gate, target)[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="QwenImageTransformer2DModel",
        blocks=(Blocks("transformer_blocks", ("encoder_hidden_states", "hidden_states")),),
        streams=(Stream("norm_out", probe=_qwen, modulation=_qwen_modulation),),
        idle=("txt_norm", "txt_in", "pos_embed"),
        between=("controlnet_block_samples",),
        hazards=(
            "The tokens of a reference image enter the blocks with the image's, so they are "
            "forecast too. Padded prompts and Qwen-Image-Edit 2511 copy from the host at every "
            "step, which keeps it out of CUDA graphs."
        ),
    ),
    BackboneSpec(
        name="QwenImage21Transformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_qwen21),),
        idle=("txt_in", "pos_embed"),
        graphs="none",
        hazards=(
            "With its cache of the prompt, the first step has other tokens than those that follow, "
            "so the warm-up begins after it; without it, the prompt's tokens are forecast too."
        ),
    ),
)
