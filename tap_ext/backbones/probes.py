"""Probe formulas that several families share (eq. 5, arXiv 2603.03792)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = [
    "ada_norm_joint",
    "ada_norm_single",
    "ada_norm_zero",
    "modulate",
    "plain_norm",
    "rms_norm_zero",
    "wan",
]


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


def modulate(block: Any, hidden: Tensor, shift_scale: Tensor, dim: int) -> Tensor:
    """The block's first norm in fp32, scaled and shifted.

    Args:
        block: the first main block.
        hidden: (B, N, D), what enters it.
        shift_scale: shift and scale as 2 slices along ``dim``, each (B, D) or (B, N, D).
        dim: where they lie.

    Returns:
        (B, N, D).
    """
    shift, scale = shift_scale.unbind(dim)
    if shift.ndim < hidden.ndim:
        shift, scale = shift[:, None], scale[:, None]
    modulated: Tensor = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    return modulated


def wan(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Wan's: scale and shift are a table plus the time embedding, of the sample or per token.

    Args:
        block: the first main block.
        hidden: (B, N, D), what enters it.
        arguments: its arguments; ``temb`` is read, (B, 6, D) or (B, N, 6, D).

    Returns:
        (B, N, D).
    """
    shift_scale = block.scale_shift_table[:, :2] + arguments["temb"][..., :2, :].float()
    return modulate(block, hidden, shift_scale, -2)


def ada_norm_joint(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """CogVideoX's: one norm of picture and text, scaled and shifted from the time embedding.

    Args:
        block: the first main block.
        hidden: (B, N, D), what enters it.
        arguments: its arguments; ``encoder_hidden_states`` and ``temb`` are read.

    Returns:
        (B, N, D).
    """
    text = arguments["encoder_hidden_states"]
    modulated: Tensor = block.norm1(hidden, text, arguments["temb"])[0]
    return modulated


def ada_norm_single(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """LayerNorm, then scale and shift from the block's own table plus a shared time embedding."""
    time = arguments["timestep"].reshape(len(hidden), 6, -1)
    shift, scale = (block.scale_shift_table[None] + time).chunk(6, dim=1)[:2]
    modulated: Tensor = block.norm1(hidden) * (1 + scale) + shift
    return modulated.to(hidden.dtype)


def plain_norm(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """The block's first norm, where the time enters as a token instead of by modulation."""
    normed: Tensor = block.norm1(hidden)
    return normed


def rms_norm_zero(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """RMSNorm, then scale from the time embedding, by the block's own first norm."""
    modulated: Tensor = block.norm1(hidden, arguments["temb"])[0]
    return modulated
