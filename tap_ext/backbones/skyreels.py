"""SkyReels V2, with and without diffusion forcing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import modulate
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream


def _probe(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    temb = arguments["temb"]  # (B, 6, D), or per token (B, 6, N, D)
    table = block.scale_shift_table[:, :2]
    shift_scale = (table if temb.ndim == 3 else table.unsqueeze(2)) + temb[:, :2].float()
    return modulate(block, hidden, shift_scale, 1)


SPECS = (
    BackboneSpec(
        name="SkyReelsV2Transformer3DModel",
        blocks=(Blocks("blocks"),),
        streams=(Stream("norm_out", probe=_probe, attention="attn1"),),
        idle=(
            "rope",
            "condition_embedder.text_embedder",
            "condition_embedder.image_embedder?",
            "fps_embedding?",
            "fps_projection?",
        ),
        hazards="Asynchronous diffusion forcing gives every block of frames its own timestep. A "
        "model that is told the frame rate copies it to the device at every call, so no CUDA graph "
        "can hold it.",
    ),
)
