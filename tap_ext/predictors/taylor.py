"""The paper's candidates, and the predictors that expand about the newest full step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import hermite

from tap_ext import _arguments
from tap_ext.predictors.base import Family
from tap_ext.predictors.positions import MAX_HISTORY, Array, to_raw

MAX_ORDER = MAX_HISTORY - 1
_MAX_STEPS_BACK = 256


@dataclass(frozen=True)
class Reuse(Family):
    """The newest value, unchanged: order 0."""

    @property
    def history(self) -> int:
        """One full step."""
        return 1

    def _weights(self, past: Array, target: float) -> Array:
        raise AssertionError("one point is reused before this is asked")


@dataclass(frozen=True)
class Taylor(Family):
    """The paper's predictor: sum_{i<=order} u^i D_i, with D_i = f[x_0..x_i].

    On uniform spacing N this is eq. 4 of arXiv 2603.03792 to the letter, since there the divided
    difference of order i is the backward difference over i! N^i. Where the spacing changes (after
    the warm-up, or on a grid of noise levels) the paper leaves N open; a divided difference over
    the true positions stays the derivative over i! of the polynomial through the same points.

    It is exact on lines, and for order 2 not on quadratics: D_1 is the slope in the middle of the
    last gap, not at its end. ``Newton`` is the exact one.

    Attributes:
        order: the highest order of difference used.
        shift: how far short of the target to evaluate. With k the distance from the newest full
            step to the target, along the run, u covers k - shift, in the unit of the positions. A
            target behind the newest full step has a negative k.
    """

    order: int = 2
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("order", self.order, 0, MAX_ORDER)
        _arguments.real("shift", self.shift)

    @property
    def history(self) -> int:
        """One full step more than the order."""
        return self.order + 1

    def _weights(self, past: Array, target: float) -> Array:
        forward = np.sign(past[0] - past[1])
        reach = target - past[0] - forward * self.shift
        return to_raw(reach ** np.arange(past.size), past)


@dataclass(frozen=True)
class TaylorSeer(Family):
    """The expansion as the code of TaylorSeer (arXiv 2503.06923) forms it.

    At a full step t after t', f_0 = F and f_i(t) = (f_{i-1}(t) - f_{i-1}(t')) / (t - t'), every
    order divided by the same last gap, and f_{i-1}(t') formed likewise at t'. The forecast is
    sum_i x^i f_i / i!. On uniform spacing it is ``Taylor``; elsewhere f_i is no derivative.

    Attributes:
        order: the highest order of difference used.
        first_enhance: that code's guard of the start, in step indices: it forms differences only
            at full steps after ``first_enhance - 2``. With 3 and full steps at 0, 1, 2, 2+N, ...
            the first window is predicted with order 1. None forms all there are.
    """

    order: int = 2
    first_enhance: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("order", self.order, 0, MAX_ORDER)
        if self.first_enhance is not None:
            _arguments.integer("first_enhance", self.first_enhance, 0, 10**6)

    @property
    def history(self) -> int:
        """One full step more than the order."""
        return self.order + 1

    def _weights(self, past: Array, target: float) -> Array:
        differences = recursive_differences(past)
        if self.first_enhance is not None:
            formed = int(np.count_nonzero(past > self.first_enhance - 2))
            differences = differences[: formed + 1]
        orders = range(len(differences))
        return _expansion(target - past[0], orders) @ differences


@dataclass(frozen=True)
class HiCache(Family):
    """HiCache (arXiv 2508.16984): F_0 + sum_k H_k(sigma x) sigma^k / k! f_k.

    H_k is the physicists' Hermite polynomial, f_k the difference of ``TaylorSeer``, x the distance
    from the newest full step. Not invariant under a scaling of the positions: sigma belongs to
    step indices. Only sigma = sqrt(1/2) is exact on lines.

    Attributes:
        order: the highest order of difference used.
        sigma: the contraction; 0.5 is the default of the published code.
    """

    order: int = 2
    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("order", self.order, 0, MAX_ORDER)
        _arguments.real("sigma", self.sigma, 0.0, 10.0)

    @property
    def history(self) -> int:
        """One full step more than the order."""
        return self.order + 1

    def _weights(self, past: Array, target: float) -> Array:
        orders = range(past.size)
        basis = hermite.hermvander(np.array([self.sigma * (target - past[0])]), past.size - 1)[0]
        return np.asarray(basis * _expansion(self.sigma, orders) @ recursive_differences(past))


def recursive_differences(past: Array) -> Array:
    """Returns TaylorSeer's f_0..f_{K-1} at the newest full step as weights, shape (K, K)."""
    table = np.eye(past.size)
    newest = [table[0]]
    last_gap = past[:-1] - past[1:]
    for count in range(past.size - 1, 0, -1):
        table = (table[:-1] - table[1:]) / last_gap[:count, None]
        newest.append(table[0])
    return np.stack(newest)


def candidates(order: int = 2, lookback: float = 4.0, step: float = 1.0) -> tuple[Family, ...]:
    """Returns the paper's family: all orders up to ``order`` at distances k - lookback .. k.

    The nominal row (highest order, distance k) comes first, so that ties fall on it, then falling
    orders, each with growing shifts. Order 0 does not depend on the distance and stands once, at
    the end: of the paper's 3 x 5 candidates 11 remain. ``rows`` drops what coincides at a given
    step: 9 are left where the distances contain 0, at which all orders agree.

    For k < lookback some distances are negative, as the paper's own interval has them.

    Args:
        order: the highest order, M in arXiv 2603.03792.
        lookback: how far the distances reach below k, its lambda, in the unit of the positions.
        step: their spacing, its delta.
    """
    _arguments.integer("order", order, 0, MAX_ORDER)
    _arguments.real("lookback", lookback, 0.0)
    _arguments.real("step", step)
    if step <= 0:
        raise ValueError(f"step must be above 0, got {step}")
    # The tolerance keeps 0.3 in steps of 0.1 at four distances.
    count = lookback / step + 1e-9
    if count >= _MAX_STEPS_BACK + 1:
        raise ValueError(
            f"lookback / step must be at most {_MAX_STEPS_BACK}, got {lookback} / {step}"
        )
    shifts = [index * float(step) for index in range(math.floor(count) + 1)]
    higher = (Taylor(m, shift) for m in range(order, 0, -1) for shift in shifts)
    return (*higher, Reuse())


def _expansion(distance: float, orders: range) -> Array:
    return np.array([distance**i / math.factorial(i) for i in orders])
