"""JoyImage-Edit and JoyImage-Edit-Plus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    shift, scale = block.img_mod(arguments["temb"])[:2]
    modulated: Tensor = block.img_norm1(hidden) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    return modulated


_BLOCKS = (Blocks("double_blocks", ("hidden_states", "encoder_hidden_states")),)
_STREAMS = (Stream("norm_out", probe=_probe),)
_IDLE = ("condition_embedder.text_embedder",)
_HAZARDS = (
    "The tokens of the images to edit enter the blocks too, so they are forecast; the position "
    "table is made on the CPU at every step."
)

SPECS = (
    BackboneSpec(
        name="JoyImageEditTransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=_IDLE,
        graphs="skip",
        hazards=_HAZARDS,
    ),
    BackboneSpec(
        name="JoyImageEditPlusTransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=_IDLE,
        conditioning=("encoder_hidden_states", "encoder_hidden_states_mask"),
        graphs="none",
        hazards=_HAZARDS,
    ),
)
