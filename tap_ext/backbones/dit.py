"""DiT, conditioned on a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    time, label = arguments["timestep"], arguments["class_labels"]
    modulated: Tensor = block.norm1(hidden, time, label, hidden_dtype=hidden.dtype)[0]
    return modulated


SPECS = (
    BackboneSpec(
        name="DiTTransformer2DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        conditioning=("class_labels",),
        hazards=(
            "Every block embeds the time itself, and the head reads the first block's embedding."
        ),
    ),
)
