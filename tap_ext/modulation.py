"""A probe that is known by what makes it of the hidden state, and so need not be written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tap_ext import reference

__all__ = ["Modulation"]


@dataclass(frozen=True)
class Modulation:
    """Stands for the probe ``LayerNorm(hidden) * (1 + scale) + shift`` of any hidden state.

    The norm is over the D channels of a token and has no weights of its own.

    Attributes:
        shift: (B, D), the same for all tokens of a batch row, in the dtype of the hidden state.
        scale: (B, D), likewise.
        eps: added to the variance.
    """

    shift: Tensor
    scale: Tensor
    eps: float

    def of(self, hidden: Tensor) -> Tensor:
        """The probe of ``hidden`` (B, N, D), written: rounded once, where a model rounds often."""
        return reference.modulate(hidden, self.shift, self.scale, self.eps)
