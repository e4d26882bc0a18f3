"""Predictors that follow a slope averaged over the last gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tap_ext import _arguments
from tap_ext.predictors.base import Family
from tap_ext.predictors.positions import Array
from tap_ext.predictors.taylor import MAX_ORDER


@dataclass(frozen=True)
class AdamsBashforth(Family):
    """The newest value moved along an Adams-Bashforth slope: F_0 + x sum_j b_j s_j.

    s_j is the slope across the j-th last gap, and b averages the polynomial through the slopes over
    a step as long as the last gap. On uniform spacing b is the method's own: 1; 3/2, -1/2; 23/12,
    -16/12, 5/12; ... Slopes are placed where a backward difference belongs, in the middle of its
    gap, which on any spacing makes order 2 the curve's slope at the newest full step, exact on
    quadratics; the textbook's method, which knows slopes at the nodes, would return ``TaylorSeer``.

    AB-Cache (arXiv 2504.10540) combines as many outputs as its order, at error O(h^order); on
    uniform spacing that determines ``Newton(order - 1)``.

    Attributes:
        order: the number of slopes.
    """

    order: int = 2

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("order", self.order, 1, MAX_ORDER)

    @property
    def history(self) -> int:
        """One full step more than the order."""
        return self.order + 1

    def _weights(self, past: Array, target: float) -> Array:
        middle = (past[:-1] + past[1:]) / 2
        time = (middle - middle[0]) / (past[0] - past[1])
        orders = np.arange(time.size)
        average = np.linalg.solve(time ** orders[:, None], 1.0 / (orders + 1))
        return _along(average, past, target)


@dataclass(frozen=True)
class FoCa(Family):
    """FoCa (arXiv 2508.16211): F_0 + x (s_0 + s_1) / 2, the mean of the last two slopes.

    Its BDF2 forecast has, when differenced back, the slope that it was made with; so its Heun
    corrector reduces to the mean of the newest slope and the one before.
    """

    @property
    def history(self) -> int:
        """Three full steps."""
        return 3

    def _weights(self, past: Array, target: float) -> Array:
        return _along(np.full(past.size - 1, 1.0 / (past.size - 1)), past, target)


def _along(average: Array, past: Array, target: float) -> Array:
    """Returns F_0 + (target - x_0) sum_j average_j s_j as weights, shape (K,)."""
    flow = (target - past[0]) * average / (past[:-1] - past[1:])
    return np.append(1.0 + flow[0], np.append(flow[1:], 0.0) - flow)
