"""Bria 3.2 and FIBO 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tap_ext.backbones.probes import ada_norm_zero, ada_norm_zero_modulation
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BOTH = ("encoder_hidden_states", "hidden_states")


def _fibo2(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    def scale(name: str) -> Tensor:
        modulation: Tensor = block.adaLN_modulation(arguments[name])
        return 1.0 + modulation.unsqueeze(1).chunk(4, dim=2)[0]

    noisy = arguments["noise_mask"]
    if noisy is None:
        factor = scale("adaln_input")
    else:
        factor = torch.where(noisy.unsqueeze(-1) == 1, scale("adaln_noisy"), scale("adaln_clean"))
    modulated: Tensor = block.attention_norm1(hidden) * factor
    return modulated


SPECS = (
    BackboneSpec(
        name="BriaTransformer2DModel",
        blocks=(Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks", _BOTH)),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder", "pos_embed"),
        between=("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
    BackboneSpec(
        name="BriaFiboTransformer2DModel",
        blocks=(Blocks("transformer_blocks", _BOTH), Blocks("single_transformer_blocks")),
        streams=(Stream("norm_out", probe=ada_norm_zero, modulation=ada_norm_zero_modulation),),
        idle=("context_embedder", "pos_embed", "caption_projection.*"),
        hazards="The tokens of an image to edit enter the blocks too, so they are forecast.",
    ),
    BackboneSpec(
        name="BriaFibo2Transformer2DModel",
        # The refiner sees the image alone; the gist of the text joins it for the other blocks.
        blocks=(Blocks("noise_refiner", ("x",)), Blocks("layers", ("x",))),
        streams=(
            Stream("final_layer", hidden="x", probe=_fibo2, attention="attention", tokens="first"),
        ),
        idle=("perceiver",),
        hazards=(
            "Where the pipeline changes the caption on its way, to one with images of its text, "
            "the warm-up begins anew. A batch of prompts of unequal length keeps a step out of "
            "CUDA graphs."
        ),
    ),
)
