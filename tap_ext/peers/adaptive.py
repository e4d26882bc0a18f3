"""Full steps where TAP's own proxy distance says so, within a fixed total."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from tap_ext import _arguments
from tap_ext.plan import MAX_STEPS, Even, Look, Paced, last_full, pace

__all__ = ["Adaptive"]

_SHARE = 1 / 3
_FIRST = 2


@dataclass(frozen=True)
class Adaptive:
    """A budget of full steps, closer together where forecasts are found to be bad.

    The path between full steps is measured by ``pace``. In each window the proxy distance
    D (eq. 7, arXiv 2603.03792; mean over tokens and rows) of the candidates chosen is divided by
    the square of the path since the full step: a rate c, for a cosine distance is quadratic in the
    error. The sum of c g^2 over windows of length g is least where g ~ c^(-1/3); so the next full
    step comes after a path of

        (what is left of the path) / (full steps left) * (mean rate so far / present rate)^(1/3),

    the mean being geometric, over the windows done. The first two windows, whose forecasts are of a
    lower order, are as planned. No threshold: the budget sets the pace, what one window saves the
    later ones get, and the last full step leaves a quarter of the mean gap behind it. The total is
    exactly ``count``.

    One decision holds for a whole batch, whose rows share a model call; branches (conditional,
    unconditional) decide each for itself. The same inputs give the same steps.

    Attributes:
        count: how many steps are full.
        angles: as in ``pace``; None: all steps are equally long.
        reads: ``"steps"`` reads one number per row from the device at every skip step.
            ``"windows"`` reads at full steps only, and takes the rate of the window just done for
            that of the next.
    """

    count: int
    angles: tuple[float, ...] | None = None
    reads: Literal["steps", "windows"] = "steps"

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("count", self.count, 1, MAX_STEPS)
        if self.reads not in ("steps", "windows"):
            raise ValueError(f"reads must be 'steps' or 'windows', got {self.reads!r}")
        if self.angles is not None:
            object.__setattr__(self, "angles", Paced(1, self.angles).angles)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` would be full if all were equally hard; at most of as many as are."""
        if self.angles is not None:
            return Paced(self.count, self.angles).is_full(step, num_steps)
        last = -1 if num_steps is None else last_full(self.count, num_steps)
        return Even(self.count, last).is_full(step, num_steps)

    def follow(self, num_steps: int | None) -> _Following:
        """Who decides during a run of ``num_steps``.

        Raises:
            ValueError: ``num_steps`` is None, or not one less than the angles.
        """
        self.is_full(0, num_steps)
        assert num_steps is not None
        even = tuple(step / num_steps for step in range(num_steps))
        path = even if self.angles is None else pace(self.angles)[:num_steps]
        return _Following(self.count, path, at_once=self.reads == "steps")


class _Following:
    compares = False

    def __init__(self, count: int, path: tuple[float, ...], *, at_once: bool) -> None:
        self.path = path
        self.at_once = at_once
        self.shown: tuple[int, Look] | None = None
        self.left = count
        self.last = max(len(path) + last_full(count, len(path)), count - 1)
        self.newest = 0
        self.rate: float | None = None
        self.rates: list[float] = []
        self.windows = -1

    def is_full(self, step: int) -> bool:
        if step == 0 or step >= len(self.path):
            return True
        if self.left <= 0:
            return False
        if self.last - step < self.left:
            return True  # as many steps left as full ones
        if self.left == 1:
            return step >= self.last
        ahead = self.path[step] - self.path[self.newest]
        beyond = self.path[step + 1] - self.path[self.newest]
        return ahead + beyond > 2 * self._pace()

    def _pace(self) -> float:
        """How far the next full step lies from the newest one."""
        planned = (self.path[self.last] - self.path[self.newest]) / self.left
        if self.rate is None or not self.rates or self.windows < _FIRST:
            return planned
        usual = math.exp(statistics.fmean(map(math.log, self.rates)))
        return planned * float((usual / self.rate) ** _SHARE)

    def saw(self, step: int, look: Look) -> bool:
        self.shown = (step, look)
        if self.at_once:
            self.rate = self._read()
        return False

    def _read(self) -> float | None:
        """The rate that the last skip step shows; None: it tells nothing."""
        if self.shown is None:
            return None
        step, look = self.shown
        distance = statistics.fmean(look.distance())
        path = self.path[step] - self.path[self.newest]
        known = math.isfinite(distance) and path > 0
        return max(distance, 1e-12) / path**2 if known else None

    def recorded(self, step: int) -> None:
        rate = self.rate if self.at_once else self._read()
        if rate is not None and self.windows >= _FIRST - 1:
            self.rates.append(rate)
        self.newest = min(step, len(self.path) - 1)
        self.rate, self.shown = None if self.at_once else rate, None
        self.left -= 1
        self.windows += 1
