"""SpeCa (arXiv 2509.11628): forecast, verify, and run in full once the error is too large."""

from __future__ import annotations

from dataclasses import dataclass

from tap_ext import _arguments
from tap_ext.plan import MAX_STEPS, Look

__all__ = ["SpeCa"]


@dataclass(frozen=True)
class SpeCa:
    """A full step follows a forecast whose error is above a threshold that falls over the run.

    err = mean(|predicted - true| / (|true| + 1e-10)); threshold = max(base decay^(step / steps),
    0.1); an error above it makes the *next* step full. The published code verifies on the output of
    the last block, which it runs for that; here it is the probe, which every skip step has anyway.
    So thresholds are not those of the paper. A full step is always followed by a forecast: of the
    first three steps 0 and 2 are full. A row of the batch above the threshold decides for all.

    Attributes:
        base: the threshold at the start.
        decay: what it falls to, relatively, by the end.
        minimum: forecasts after a full step before one is verified.
        maximum: forecasts after which a full step comes anyway.
        first_enhance: steps at the start that are full where the last one was not.
        floor: the least threshold.
    """

    base: float = 7.0
    decay: float = 0.3
    minimum: int = 2
    maximum: int = 8
    first_enhance: int = 3
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.real("base", self.base, 0.0)
        _arguments.real("decay", self.decay, 0.0, 1.0)
        _arguments.integer("minimum", self.minimum, 1, MAX_STEPS)
        _arguments.integer("maximum", self.maximum, self.minimum, MAX_STEPS)
        _arguments.integer("first_enhance", self.first_enhance, 1, MAX_STEPS)
        _arguments.real("floor", self.floor, 0.0)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full where every forecast holds: the fewest full steps there are."""
        start = [s for s in range(self.first_enhance) if s % 2 == 0]
        beyond = step - start[-1]
        return step in start or (beyond > 0 and beyond % (self.maximum + 1) == 0)

    def follow(self, num_steps: int | None) -> _Following:
        """Who decides during a run of ``num_steps``.

        Raises:
            ValueError: ``num_steps`` is None, and the threshold falls over the run.
        """
        if num_steps is None and self.decay != 1:
            raise ValueError("SpeCa needs num_steps for its threshold, got None; or set decay=1")
        return _Following(self, num_steps or 1)


class _Following:
    compares = False

    def __init__(self, rule: SpeCa, num_steps: int) -> None:
        self.rule = rule
        self.num_steps = num_steps
        self.forecasts = 0
        self.failed = False
        self.last_full = -1

    def is_full(self, step: int) -> bool:
        if self.last_full < 0:
            return True
        if not self.forecasts:
            return False
        due = self.failed or self.forecasts >= self.rule.maximum
        return due or step < self.rule.first_enhance

    def threshold(self, step: int) -> float:
        rule = self.rule
        falling: float = rule.base * rule.decay ** (step / self.num_steps)
        return max(falling, rule.floor)

    def saw(self, step: int, look: Look) -> bool:
        self.forecasts += 1
        if self.forecasts >= self.rule.minimum:
            self.failed = any(not error <= self.threshold(step) for error in look.error())
        return False

    def recorded(self, step: int) -> None:
        self.forecasts, self.failed, self.last_full = 0, False, step
