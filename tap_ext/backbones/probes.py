"""Probe formulas that several families share (eq. 5, arXiv 2603.03792)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext.modulation import Modulation

__all__ = [
    "ada_norm_joint",
    "ada_norm_single",
    "ada_norm_zero",
    "ada_norm_zero_modulation",
    "layer_norm_modulation",
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


_OF_DIFFUSERS = "diffusers.models.normalization"
_ADA_NORMS = ("AdaLayerNormZero", "AdaLayerNormZeroSingle", "SD35AdaLayerNormZeroX")
"""Norms of one kind: the first two parts of what their linear layer makes are shift and scale."""


def ada_norm_zero_modulation(
    block: Any, hidden: Tensor, arguments: Mapping[str, Any]
) -> Modulation | None:
    """What makes ``ada_norm_zero`` of a hidden state.

    Args:
        block: the first main block.
        hidden: (B, N, D), what enters it.
        arguments: its arguments; ``temb`` is read.

    Returns:
        None where the norm is not diffusers' own, is hooked, or embeds more than ``temb``.
    """
    norm = block.norm1
    name = type(norm).__name__ if type(norm).__module__ == _OF_DIFFUSERS else ""
    if name not in _ADA_NORMS or not _bare(norm) or getattr(norm, "emb", None) is not None:
        return None
    if not _plain(norm.norm, hidden):
        return None
    parts = norm.linear(norm.silu(arguments["temb"]))
    return layer_norm_modulation(norm.norm, hidden, parts)


def layer_norm_modulation(norm: Any, hidden: Tensor, parts: Tensor) -> Modulation | None:
    """The modulation by a LayerNorm, and a shift and a scale that lie side by side.

    Args:
        norm: the block's first norm.
        hidden: (B, N, D), what enters it.
        parts: (B or 1, D * k) with k >= 2, or that with an axis of one token between: the shift,
            the scale, and whatever else.

    Returns:
        None where the norm has weights or hooks, or tokens, dtypes or autocast differ: then the
        probe is something else.
    """
    width = hidden.shape[-1]
    parts = parts.squeeze(1) if parts.dim() == 3 and parts.shape[1] == 1 else parts
    if not _plain(norm, hidden) or parts.dim() != 2 or parts.dtype != hidden.dtype:
        return None
    if parts.shape[0] not in (1, hidden.shape[0]) or torch.is_autocast_enabled(hidden.device.type):
        return None
    parts = parts.expand(len(hidden), -1)
    return Modulation(parts[:, :width], parts[:, width : 2 * width], float(norm.eps))


def _plain(norm: Any, hidden: Tensor) -> bool:
    """Whether ``norm`` is a LayerNorm over the channels of (B, N, D), without weights or hooks."""
    kind = type(norm)
    known = kind is nn.LayerNorm or (
        kind.__name__ == "FP32LayerNorm" and kind.__module__ == _OF_DIFFUSERS
    )
    return (
        known
        and norm.weight is None
        and norm.bias is None
        and tuple(norm.normalized_shape) == hidden.shape[-1:]
        and hidden.dim() == 3
        and _bare(norm)
    )


def _bare(module: nn.Module) -> bool:
    """Whether a call of a module is the forward that its class was written with, and no more."""
    own, kind = module.__dict__, type(module)
    replaced = "forward" in own or kind.forward.__module__ != kind.__module__
    return not (replaced or own["_forward_hooks"] or own["_forward_pre_hooks"])


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
