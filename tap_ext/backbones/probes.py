"""Probe formulas that several families share (eq. 5, arXiv 2603.03792)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["ada_norm_zero"]


def ada_norm_zero(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """LayerNorm, then scale and shift from the time embedding, by the block's own first norm.

    Args:
        block: the first main block.
        hidden: (B, N, D), what enters it.
        arguments: its arguments; ``temb`` is read.

    Returns:
        (B, N, D).
    """
    modulated: Tensor = block.norm1(hidden, emb=arguments["temb"])[0]
    return modulated
