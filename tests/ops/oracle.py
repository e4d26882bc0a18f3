"""The ops in float64 numpy, from their definitions: slow, direct, and sharing no code with tap_ext.

What is rounded comes as ``Exact``: the value and the size of what was added up to get it, so that
a test can ask for errors of a few roundings where terms cancel as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.tolerances import COMBINED, DIVIDED, SMALLEST_STEP, SUMMED, UNIT_ROUNDOFF

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Exact:
    """A float64 result and the largest error of a float32 computation of it."""

    value: Array
    error: Array

    def assert_rounded(self, actual: Tensor, accumulator: torch.dtype = torch.float32) -> None:
        """``actual`` is this, computed in ``accumulator`` and rounded once to its own dtype."""
        dtype = actual.dtype
        error = self.error * (UNIT_ROUNDOFF[accumulator] / UNIT_ROUNDOFF[torch.float32])
        allowed = UNIT_ROUNDOFF[dtype] * (np.abs(self.value) + error) + error + SMALLEST_STEP[dtype]
        got = numbers(actual)
        assert got.shape == self.value.shape
        np.testing.assert_array_equal(np.isnan(got), np.isnan(self.value))
        wrong = ~(np.abs(got - self.value) <= allowed) & ~np.isnan(self.value)
        assert not wrong.any(), (
            f"{wrong.sum()} of {wrong.size} beyond rounding; first at {np.argwhere(wrong)[0]}: "
            f"got {got[wrong][0]!r}, expected {self.value[wrong][0]!r} +- {allowed[wrong][0]:.2e}"
        )


def numbers(tensor: Tensor) -> Array:
    """Exactly the stored values."""
    return tensor.detach().cpu().double().numpy()


def stack_update(stack: Tensor, feature: Tensor, gaps: Tensor, minus: Tensor | None) -> Exact:
    """The new stack: D_0' = feature - minus, D_i' = (D_{i-1}' - D_{i-1}) / gaps[i-1]."""
    unit = UNIT_ROUNDOFF[torch.float32]
    old, gap = numbers(stack), numbers(gaps)
    value, error = np.zeros_like(old), np.zeros_like(old)
    value[0] = numbers(feature) - (0 if minus is None else numbers(minus))
    error[0] = unit * np.abs(value[0])
    for i in range(1, len(old)):
        if np.isinf(gap[i - 1]):
            continue  # a plane of zeros
        value[i] = (value[i - 1] - old[i - 1]) / gap[i - 1]
        error[i] = error[i - 1] / abs(gap[i - 1]) + DIVIDED * unit * np.abs(value[i])
    return Exact(value, error)


def predict(stack: Tensor, rows: Tensor) -> Exact:
    """All candidates, (M, B, N, D)."""
    planes, weights = numbers(stack), numbers(rows)
    value = np.stack([_combine(planes, row) for row in weights])
    return Exact(value, np.stack([_rounding(planes, row) for row in weights]))


def gather_rows(stack: Tensor, rows: Tensor, index: Tensor, base: Tensor | None) -> Exact:
    """base + sum_s rows[index, s] * stack[s], token by token."""
    planes, weights, taken = numbers(stack), numbers(rows), index.cpu().numpy()
    value = np.zeros(planes.shape[1:]) if base is None else numbers(base).copy()
    error = COMBINED * UNIT_ROUNDOFF[torch.float32] * np.abs(value)
    for m, row in enumerate(weights):
        tokens = taken == m
        value[tokens] += _combine(planes[:, tokens], row)
        error[tokens] += _rounding(planes[:, tokens], row)
    return Exact(value, error)


def _combine(planes: Array, row: Array) -> Array:
    """sum_s row[s] * planes[s] over the planes of non-zero weight."""
    value = np.zeros(planes.shape[1:])
    for weight, plane in zip(row, planes, strict=True):
        if weight != 0:
            value += weight * plane
    return value


def _rounding(planes: Array, row: Array) -> Array:
    """What float32 may be off in ``_combine``."""
    return COMBINED * UNIT_ROUNDOFF[torch.float32] * _combine(np.abs(planes), np.abs(row))


@dataclass(frozen=True)
class Distances:
    """All distances of all tokens, (B, N, M), and how far off float32 may be about each."""

    value: Array
    error: Array

    def assert_chosen(
        self, index: Tensor, distance: Tensor, accumulator: torch.dtype = torch.float32
    ) -> None:
        """The choice is the nearest row up to rounding, and exactly it where rounding allows.

        Judged by regret, the distance chosen minus the smallest: two rows that differ by less
        than an error are as good as one another.
        """
        assert index.dtype == torch.int32
        assert index.shape == distance.shape == self.value.shape[:-1]
        if not index.numel():
            return
        error = self.error * (UNIT_ROUNDOFF[accumulator] / UNIT_ROUNDOFF[torch.float32])
        taken = index.cpu().numpy()[..., None].astype(np.int64)
        assert taken.min() >= 0
        known = np.isfinite(self.value)
        value = np.where(known, self.value, np.inf)
        error = np.where(known, error, 0)

        best = value.argmin(-1)[..., None]
        least = np.take_along_axis(value, best, -1)
        chosen = np.take_along_axis(value, taken, -1)
        slack = np.take_along_axis(error, taken, -1) + np.take_along_axis(error, best, -1)
        some = known.any(-1, keepdims=True)
        assert (np.where(some, chosen, 0) <= np.where(some, least, 0) + slack).all()

        rivals = value - error <= least + np.take_along_axis(error, best, -1)
        clear = (rivals.sum(-1, keepdims=True) == 1) & some
        np.testing.assert_array_equal(taken[clear], best[clear])

        # Where nothing is known it is row 0, at distance NaN.
        assert (taken[~some] == 0).all()
        got = numbers(distance)[..., None]
        np.testing.assert_array_equal(np.isnan(got), ~some)
        allowed = np.take_along_axis(error, taken, -1) + UNIT_ROUNDOFF[distance.dtype] * np.abs(
            np.where(some, chosen, 0)
        )
        assert (np.abs(got - chosen)[some] <= allowed[some]).all()


def distances(candidates: Tensor, target: Tensor, metric: str) -> Distances:
    """Of materialised candidates (M, B, N, D), whose differences are exact up to one rounding."""
    v, u = numbers(candidates), numbers(target)
    return _distances(v, u, _norm(u - v), metric)


def row_distances(stack: Tensor, target: Tensor, rows: Tensor, metric: str) -> Distances:
    """Of rows scored from inner products: their errors grow with the basis they combine."""
    planes, u, weights = numbers(stack), numbers(target), numbers(rows)
    v = np.stack([_combine(planes, row) for row in weights])
    basis = np.stack([_norm(u - planes[0]), *_norm(planes[1:]), _norm(u)])
    c = np.abs(np.concatenate([weights, 1 - weights[:, :1]], axis=1))
    spread = np.stack([_combine(basis, row) for row in c])
    return _distances(v, u, spread, metric)


def modulated(hidden: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Array:
    """LayerNorm without weights, scaled and shifted per batch row, (B, N, D)."""
    x = numbers(hidden)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float32(eps))
    return normed * (1 + numbers(scale)[:, None]) + numbers(shift)[:, None]


def modulated_distances(stack: Tensor, u: Array, rows: Tensor, metric: str) -> Distances:
    """``row_distances`` from a float64 probe (B, N, D) that float32 has to make for itself.

    It gets there up to about as many roundings as an inner product takes: its mean and variance
    are sums over the channels.
    """
    planes, weights = numbers(stack), numbers(rows)
    v = np.stack([_combine(planes, row) for row in weights])
    basis = np.stack([_norm(u - planes[0]), *_norm(planes[1:]), _norm(u)])
    c = np.abs(np.concatenate([weights, 1 - weights[:, :1]], axis=1))
    spread = np.stack([_combine(basis, row) for row in c]) + _norm(u)
    return _distances(v, u, spread, metric)


def _distances(v: Array, u: Array, spread: Array, metric: str) -> Distances:
    """Distances of v (M, B, N, D) from u (B, N, D).

    ``spread`` (M, B, N) bounds |d| with all terms that d = u - v is summed from taken as if
    aligned: inner products with d are off by roundings of spread times the other norm.
    """
    unit = SUMMED * UNIT_ROUNDOFF[torch.float32]
    if metric == "l1":
        value = np.abs(u - v).sum(-1)
        error = unit * value
    elif metric == "l2":
        value = ((u - v) ** 2).sum(-1)
        error = unit * spread**2
    else:
        un, vn = np.broadcast_to(_norm(u), spread.shape), _norm(v)
        zero = (un == 0) | (vn == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(zero, un != vn, 1 - (u * v).sum(-1) / (un * vn))
            # Of the numerator |d|^2 - (|u| - |v|)^2, then of |v| in the denominator.
            numerator = spread**2 + 2 * spread**2 * (2 * un + spread) / (un + vn)
            relative = (un + spread) ** 2 / vn**2
            error = unit * (numerator / (2 * un * vn) + value * relative)
        # A cosine of float64 norms is itself off by a few 2^-53.
        error = np.where(zero, 0, error + 16 * UNIT_ROUNDOFF[torch.float64])
    return Distances(np.moveaxis(value, 0, -1), np.moveaxis(error, 0, -1))


def _norm(x: Array) -> Array:
    return np.sqrt((x * x).sum(-1))
