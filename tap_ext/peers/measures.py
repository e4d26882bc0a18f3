"""What the decisions of a run are made from: one number per batch row, read from the device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["change", "error", "per_row"]


def per_row(values: Tensor) -> list[float]:
    """Mean of (B, N) over the tokens, in float32, as B floats."""
    means: list[float] = values.float().mean(1).tolist()
    return means


def change(probe: Tensor, previous: Tensor) -> list[float]:
    """TeaCache's relative L1 change of (B, N, D), per batch row: ``mean |a - b| / mean |b|``."""
    now, before = probe.float(), previous.float()
    size = before.abs().mean((1, 2))
    ratio: list[float] = ((now - before).abs().mean((1, 2)) / size).tolist()
    return ratio


def error(predicted: Tensor, true: Tensor) -> list[float]:
    """SpeCa's relative error of (B, N, D), per batch row: ``mean |p - t| / (|t| + 1e-10)``."""
    miss = (predicted.float() - true.float()).abs() / (true.float().abs() + 1e-10)
    mean: list[float] = torch.mean(miss, (1, 2)).tolist()
    return mean
