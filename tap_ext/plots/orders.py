"""Which order each token took, out of a trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tap_ext.report import Choice

__all__ = ["grid", "orders", "shares"]


def orders(choice: Choice) -> Tensor:
    """The order (B, N) that each token took in one skip step.

    The order of a row is that of the highest plane with a weight: at distance zero all orders of
    the Taylor family reuse the last full step.
    """
    return _by_row(choice)[choice.index.cpu().long()]


def shares(trace: Sequence[Choice]) -> Tensor:
    """(B, N, K): the share of the skip steps in which each token took each order 0..K-1."""
    planes = trace[0].rows.difference.shape[1]
    counts = torch.stack([one_hot(orders(choice), planes) for choice in trace]).sum(0)
    return counts / len(trace)


def grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens of a picture of this shape; None: they form no such grid."""
    rows = round((tokens * height / width) ** 0.5)
    return (rows, tokens // rows) if rows and tokens % rows == 0 else None


def _by_row(choice: Choice) -> Tensor:
    weights = torch.from_numpy(choice.rows.difference.copy())
    used = weights.abs() > 1e-9 * weights.abs().amax(1, keepdim=True)
    return (used * torch.arange(used.shape[1])).amax(1)
