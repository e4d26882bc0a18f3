"""Where the full steps of a run cost least, from what one run showed of a feature.

A forecast is a weighted sum of the feature at full steps, so its error is a quadratic form in the
feature's Gram matrix over the steps. One such matrix, added up over all elements, gives the error
of every forecast from every history; dynamic programming then finds the full steps with the least
sum. Plain numpy; nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tap_ext.predictors import Predictor
from tap_ext.predictors.positions import Array

__all__ = ["place", "refine", "run_cost", "window_costs"]


def window_costs(features: Array, predictor: Predictor, longest: int, depth: int = 3) -> Array:
    """What the errors of the skip steps after a full step add up to, squared, for every history.

    The errors of one window point the same way, so they are added before they are squared. A
    history is the newest three full steps; what a predictor makes of more is not looked at.
    The cost of a window does not depend on what else is skipped: a first approximation, in which
    full steps see the features of the untouched run.

    Args:
        features: (T, T), Gram matrix over the steps of what is forecast.
        predictor: of positions that count steps.
        longest: L, the longest gap between full steps that is considered, at least 1.
        depth: full steps of the longest history that is asked for, 1 to 3.

    Returns:
        (T, L + 1, L + 1, L): at [t, a, b, s] the cost of s skip steps after the full steps t,
        t - a and t - a - b. An a or b of 0 stands for no such step. Infinite where it cannot be.
    """
    total, gaps = len(features), longest + 1
    costs = np.full((total, gaps, gaps, longest), np.inf)
    for a in range(min(gaps, total) if depth > 1 else 1):
        for b in range(min(gaps, total - a)) if a and depth > 2 else (0,):
            # A history shorter than three begins with the first step of the run.
            newest = np.arange(a + b, total) if b else np.array([a])
            past = np.array([0, *([-a] if a else []), *([-a - b] if b else [])])
            costs[newest, a, b] = _costs(features, newest[:, None] + past, predictor, longest)
    return costs


def _costs(features: Array, known: Array, predictor: Predictor, longest: int) -> Array:
    """(H, L) costs after ``known`` (H, K), histories newest first that differ by a shift."""
    depth, ahead = known.shape[1], np.arange(1, longest)
    past = (known[0] - known[0, 0]).astype(np.float64)[: predictor.history]
    errors = np.zeros((longest - 1, depth + longest - 1))
    for s in ahead:
        errors[s - 1, : past.size] = predictor.weights(past, float(s))
        errors[s - 1, depth + s - 1] = -1.0
    errors = np.cumsum(errors, axis=0)
    target = known[:, :1] + ahead
    outside = target >= len(features)
    used = np.concatenate([known, np.where(outside, 0, target)], axis=1)
    gram = features[used[:, :, None], used[:, None, :]]
    result = np.zeros((len(known), longest))
    result[:, 1:] = np.where(outside, np.inf, np.maximum(((errors @ gram) * errors).sum(2), 0.0))
    return result


def place(costs: Array, count: int) -> list[int]:
    """The ``count`` full steps, the first of the run among them, of least total cost, rising.

    Args:
        costs: from ``window_costs``.
        count: how many steps are full, at least 1.

    Raises:
        ValueError: gaps of at most L do not stretch over the run, or it has fewer steps.
    """
    total, gaps, _, longest = costs.shape
    value = np.full((total, gaps, gaps), np.inf)
    value[0, 0, 0] = 0.0
    came: list[npt.NDArray[np.intp]] = []
    for _ in range(count - 1):
        whole = value[..., None] + costs  # [t, a, b, skip steps after t]
        least, oldest = whole.min(2), whole.argmin(2)
        value = np.full_like(value, np.inf)
        choice = np.zeros(value.shape, dtype=np.intp)
        for gap in range(1, min(gaps, total)):
            value[gap:, gap] = least[: total - gap, :, gap - 1]
            choice[gap:, gap] = oldest[: total - gap, :, gap - 1]
        came.append(choice)
    first = max(total - longest, 0)
    ends = np.stack([value[t] + costs[t, :, :, total - 1 - t] for t in range(first, total)])
    offset, a, b = (int(i) for i in np.unravel_index(int(ends.argmin()), ends.shape))
    if not np.isfinite(ends[offset, a, b]):
        least_count = -(-total // longest)
        raise ValueError(f"count must be between {least_count} and {total}, got {count}")
    steps = [first + offset]
    for choice in reversed(came):
        gap, a, b = a, b, int(choice[steps[-1], a, b])
        steps.append(steps[-1] - gap)
    return steps[::-1]


def run_cost(features: Array, steps: Sequence[int], predictor: Predictor) -> float:
    """The squared error of a whole run: as if the errors of its windows were correlated by half.

    The mean of the two extremes, windows that point the same way and windows that are independent.

    Args:
        features: as in ``window_costs``.
        steps: the full steps, rising from 0.
        predictor: as in ``window_costs``.
    """
    total = np.zeros(len(features))
    apart = 0.0
    for number, (newest, end) in enumerate(pairwise([*steps, len(features)])):
        known = list(steps[max(number - predictor.history + 1, 0) : number + 1])[::-1]
        past = tuple(step - newest for step in known)
        window = np.zeros(len(features))
        window[newest + 1 : end] = -1.0
        window[known] = _summed(predictor, past, end - newest - 1)  # type: ignore[arg-type]
        apart += float(window @ features @ window)
        total += window
    return (apart + float(total @ features @ total)) / 2


@lru_cache(maxsize=65536)
def _summed(predictor: Predictor, past: tuple[int, ...], count: int) -> Array:
    """The weights of the forecasts 1 .. ``count`` steps ahead, added up."""
    known = np.array(past, dtype=np.float64)
    return sum(
        (np.asarray(predictor.weights(known, float(s))) for s in range(1, count + 1)),
        np.zeros(len(past)),
    )


def refine(features: Array, steps: Sequence[int], predictor: Predictor) -> list[int]:
    """Moves full steps, one or all from one on, by up to two as long as ``run_cost`` falls.

    Args:
        features: as in ``window_costs``.
        steps: the full steps to begin with, rising from 0.
        predictor: as in ``window_costs``; hashable.
    """
    best, least = list(steps), run_cost(features, steps, predictor)
    while True:
        found = [
            [*best[:i], *(step + by for step in best[i:end]), *best[end:]]
            for i in range(1, len(best))
            for end in {i + 1, len(best)}
            for by in (-2, -1, 1, 2)
        ]
        usable = [s for s in found if s[-1] < len(features) and all(a < b for a, b in pairwise(s))]
        costs = [run_cost(features, candidate, predictor) for candidate in usable]
        if not costs or min(costs) >= least * (1 - 1e-9):
            return best
        least, best = min(costs), usable[costs.index(min(costs))]
