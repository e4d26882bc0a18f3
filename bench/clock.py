"""Stands for a pipeline's scheduler, which tells its step on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tap_ext.correction import Prediction
from tap_ext.runtime import Moment

__all__ = ["Clock"]


class Clock:
    """Counts the steps of a run.

    Attributes:
        step: the present one.
    """

    def __init__(self, sigmas: Sequence[float] = ()) -> None:
        """Before the first step.

        Args:
            sigmas: the noise of a rectified flow before each step and after the last; none: of a
                run of which nothing is known.
        """
        self.step = 0
        self._sigmas = sigmas

    def now(self) -> Moment:
        """The present step."""
        return Moment(1, self.step, self.step)

    def num_steps(self) -> int | None:
        """How many steps there are."""
        return len(self._sigmas) - 1 if self._sigmas else None

    def angles(self) -> tuple[float, ...] | None:
        """The angle of noise and signal before each step, and after the last."""
        return tuple(math.atan2(sigma, 1 - sigma) for sigma in self._sigmas) or None

    def prediction(self) -> Prediction | None:
        """What the model returns."""
        return "flow" if self._sigmas else None

    def refusal(self) -> None:
        """Nothing stands against it."""
