"""Thresholds for a budget, found on samples that are not compared."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from tap_ext.evaluate.methods import Way
from tap_ext.evaluate.store import Line, Store, key
from tap_ext.peers import threshold_for

__all__ = ["TUNED_ON", "settle"]

TUNED_ON = 4
"""Samples; their seeds are the highest there are."""

_TRIES = 12
_TOLERANCE = 1.0

Count = Callable[[Way], list[int]]
"""A way with a configuration to the full steps that every sample takes by it."""


def settle(way: Way, settings: Line, store: Store, count: Count) -> Way:
    """A way with the threshold at which it keeps to its budget in the mean.

    The threshold is stored, so that a run that goes on uses the same.

    Args:
        way: one that is ``tuned``.
        settings: what else the threshold depends on.
        store: where it is kept.
        count: runs the samples.

    Raises:
        ValueError: no threshold comes within one full step of the budget.
    """
    assert way.tuned is not None
    settings = settings | {"tuned": way.method, "full_steps": way.budget, "steps": way.steps}
    settings |= {"rule": repr(way.tuned(1.0)), "samples": TUNED_ON, "tries": _TRIES}
    name = key(settings)
    if name not in store.lines:
        counts: dict[float, Sequence[int]] = {}

        def mean(threshold: float) -> float:
            assert way.tuned is not None
            counts[threshold] = count(dataclasses.replace(way, config=way.tuned(threshold)))
            return statistics.fmean(counts[threshold])

        found = threshold_for(mean, way.budget, tries=_TRIES)
        line: Line = {"key": name, "threshold": found, "full": list(counts[found])}
        store.append([line | {"settings": settings}])
    stored = store.lines[name]
    nearest = statistics.fmean(stored["full"])
    if abs(nearest - way.budget) > _TOLERANCE:
        raise ValueError(
            f"{way.method} cannot be tuned to {way.budget} full steps of {way.steps}; the nearest "
            f"mean is {nearest:.1f}"
        )
    return dataclasses.replace(way, config=way.tuned(stored["threshold"]))
