"""ERNIE-Image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """In the blocks' own layout, (tokens, batch, width); their attention turns it around."""
    shift, scale = (part.float() for part in arguments["temb"][:2])
    modulated: Tensor = block.adaLN_sa_ln(hidden).float() * (1 + scale) + shift
    return modulated.to(hidden.dtype)


SPECS = (
    BackboneSpec(
        name="ErnieImageTransformer2DModel",
        blocks=(Blocks("layers", ("x",)),),
        streams=(Stream("final_norm", "x", probe=_probe, attention="self_attention"),),
        idle=("text_proj?", "pos_embed"),
        conditioning=("text_bth",),
        hazards=(
            "Its blocks take (tokens, batch, width), so what is called the batch of a feature are "
            "its tokens."
        ),
    ),
)
