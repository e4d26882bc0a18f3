"""OmniGen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    normed: Tensor = block.input_layernorm(hidden)
    return normed


SPECS = (
    BackboneSpec(
        name="OmniGenTransformer2DModel",
        blocks=(Blocks("layers"),),
        streams=(Stream("norm", probe=_probe, attention="self_attn"),),
        idle=("embed_tokens", "rope"),
        rising=True,
        conditioning=("input_ids", "input_img_latents"),
        graphs="skip",
        hazards=(
            "The time enters as a token, so the probe is a plain norm; the head is given the "
            "prompt's tokens too, and they are predicted with the image's."
        ),
    ),
)
