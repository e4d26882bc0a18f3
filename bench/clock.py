"""Stands for a pipeline's scheduler, which tells its step on the host."""

from __future__ import annotations

from tap_ext.runtime import Moment

__all__ = ["Clock"]


class Clock:
    """Counts the steps of a run whose length nobody asks for.

    Attributes:
        step: the present one.
    """

    def __init__(self) -> None:
        """Before the first step."""
        self.step = 0

    def now(self) -> Moment:
        """The present step."""
        return Moment(1, self.step, self.step)

    def num_steps(self) -> None:
        """Unknown."""

    def angles(self) -> None:
        """Unknown."""

    def prediction(self) -> None:
        """Unknown."""

    def refusal(self) -> None:
        """Nothing stands against it."""
