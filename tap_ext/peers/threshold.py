"""Thresholds by budget: what TeaCache and SpeCa need to be compared at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable

from tap_ext import _arguments

__all__ = ["threshold_for"]


def threshold_for(
    full_steps: Callable[[float], float],
    wanted: float,
    low: float = 1e-4,
    high: float = 1e2,
    tries: int = 20,
) -> float:
    """The threshold at which a rule takes a wanted mean number of full steps.

    Bisection on a logarithmic scale. Calibrate on other samples than those that are compared.

    Args:
        full_steps: the mean number of full steps at a threshold, falling as that rises.
        wanted: the number asked for.
        low: a threshold that gives more.
        high: a threshold that gives fewer.
        tries: runs of ``full_steps``, at most.

    Returns:
        The threshold tried whose number was nearest; of equally near ones the greatest.
    """
    _arguments.real("wanted", wanted, 0.0)
    _arguments.real("low", low, 1e-300)
    _arguments.real("high", high, low)
    _arguments.integer("tries", tries, 1, 1000)
    best = (math.inf, -high)
    for _ in range(tries):
        middle = math.sqrt(low * high)
        count = float(full_steps(middle))
        best = min(best, (abs(count - wanted), -middle))
        if count == wanted:
            break
        low, high = (middle, high) if count > wanted else (low, middle)
    return -best[1]
