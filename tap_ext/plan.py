"""Schedules say which steps of a run are full; a plan is a schedule for one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tap_ext import _arguments

MAX_STEPS = 10**6
_ALWAYS_FULL = 3


@runtime_checkable
class Schedule(Protocol):
    """Which steps are full. Anything with this method will do."""

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step``, counted from 0, is full in a run of ``num_steps`` (None: not known)."""


class Look(Protocol):
    """What a skip step shows, one number per batch row. Each call reads the device once."""

    def distance(self) -> list[float]:
        """Mean over the tokens of the proxy distance (eq. 7) of the candidate that each took."""

    def change(self) -> list[float]:
        """TeaCache's mean ``|probe - last step's|`` over mean ``|last step's|``."""

    def error(self) -> list[float]:
        """SpeCa's mean ``|predicted - probe| / (|probe| + 1e-10)``, here of the probe."""


class Follower(Protocol):
    """Decides during one run of one branch; plain host arithmetic, the same for the same looks.

    A model call holds the whole batch, so there is one decision per call: how the rows make it
    is the follower's rule.
    """

    compares: bool
    """Whether ``Look.change`` is asked for: it needs one probe held from step to step."""

    def is_full(self, step: int) -> bool:
        """Whether ``step``, counted from 0, is full, before it begins."""

    def saw(self, step: int, look: Look) -> bool:
        """A skip step has its probe; whether it should be full after all."""

    def recorded(self, step: int) -> None:
        """A full step is done."""


class _Listing:
    """Gives a schedule its list of full steps."""

    def full_steps(self: Schedule, num_steps: int) -> list[int]:
        """Returns the full steps of a run of ``num_steps``, rising."""
        count = _arguments.integer("num_steps", num_steps, 0, MAX_STEPS)
        return [step for step in range(count) if self.is_full(step, count)]


@dataclass(frozen=True)
class Windowed(_Listing):
    """The paper's schedule: full steps 0..W-1, then W-1+N, W-1+2N, ... (arXiv 2603.03792).

    A warm-up of 1 gives 0, N, 2N, ..., which is FORA's.

    Attributes:
        window: N, one full step in so many.
        warmup: W, how many steps are full at the start; the first always is.
        tail: how many steps are full at the end, where the number of steps is known.
    """

    window: int = 6
    warmup: int = 3
    tail: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("window", self.window, 1, MAX_STEPS)
        _arguments.integer("warmup", self.warmup, 1, MAX_STEPS)
        _arguments.integer("tail", self.tail, 0, MAX_STEPS)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full."""
        in_tail = num_steps is not None and step >= num_steps - self.tail
        return step < self.warmup or (step - self.warmup + 1) % self.window == 0 or in_tail


@dataclass(frozen=True)
class Listed(_Listing):
    """Full steps by name.

    Attributes:
        steps: strictly rising step indices; any iterable, kept as a tuple.
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check the fields."""
        try:
            steps = tuple(self.steps)
        except TypeError:
            raise TypeError(f"steps must be a list of ints, got {self.steps!r}") from None
        steps = tuple(_arguments.integer("steps", step, 0, MAX_STEPS) for step in steps)
        if not steps or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"steps must rise strictly and not be empty, got {list(steps)}")
        object.__setattr__(self, "steps", steps)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is listed."""
        return step in self.steps


@dataclass(frozen=True)
class Even(_Listing):
    """Full steps spread evenly from the first step to one near the end.

    At equal cost this forecasts better than the paper's dense start where the noise levels take
    their largest steps at the end. Needs the number of steps of the run. A run too short to end
    there ends later, and one of no more than ``count`` steps is all full.

    Attributes:
        count: how many steps are full.
        last: the last of them, counted from the end of the run: -3 is step 47 of 50.
    """

    count: int
    last: int = -3

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("count", self.count, 1, MAX_STEPS)
        _arguments.integer("last", self.last, -MAX_STEPS, -1)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full.

        Raises:
            ValueError: ``num_steps`` is None.
        """
        if num_steps is None:
            raise ValueError(
                "Even needs num_steps, the number of steps of the run, got None: a pipeline tells "
                "it; for a bare transformer choose speedup or window"
            )
        if self.count == 1 or self.count >= num_steps:
            return step == 0 or self.count >= num_steps
        # The i-th full step is i * last / gaps, rounded half up.
        gaps = self.count - 1
        last = max(num_steps + self.last, gaps)
        nearest = (2 * step * gaps + last) // (2 * last)
        return nearest <= gaps and (2 * nearest * last + gaps) // (2 * gaps) == step


@dataclass(frozen=True)
class Spread(_Listing):
    """As many full steps as ``Windowed`` has, spread evenly as by ``Even``.

    Where the number of steps is not known, nothing can be spread: then exactly ``Windowed``.

    Attributes:
        window: as in ``Windowed``.
        warmup: as in ``Windowed``.
        last: as in ``Even``.
    """

    window: int = 6
    warmup: int = 3
    last: int = -3

    def __post_init__(self) -> None:
        """Check the fields."""
        Windowed(self.window, self.warmup)
        Even(1, self.last)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full."""
        windowed = Windowed(self.window, self.warmup)
        if num_steps is None:
            return windowed.is_full(step, None)
        count = len(windowed.full_steps(num_steps))
        return step == 0 or Even(max(count, 1), self.last).is_full(step, num_steps)


@dataclass(frozen=True)
class Paced(_Listing):
    """Full steps spread half evenly and half by how fast the noise goes.

    Each gap covers an equal part of ``pace``. On two trained models of different kinds this
    forecasts at least as well as ``Even`` at every budget, mostly much better (docs/quality.md).

    Attributes:
        count: how many steps are full.
        angles: as in ``pace``; of a run of another length it says nothing.
    """

    count: int
    angles: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("count", self.count, 1, MAX_STEPS)
        angles = tuple(_arguments.real("angles", a, 0.0, math.pi / 2) for a in self.angles)
        if len(angles) < 2:
            raise ValueError(f"angles must be one more than the steps, got {len(angles)}")
        object.__setattr__(self, "angles", angles)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full.

        Raises:
            ValueError: the run has another number of steps.
        """
        total = len(self.angles) - 1
        if num_steps is not None and num_steps != total:
            raise ValueError(
                f"angles must be {num_steps + 1}, one more than the steps, got {total + 1}"
            )
        return step in self._full

    @cached_property
    def _full(self) -> frozenset[int]:
        total, count = len(self.angles) - 1, self.count
        if count >= total:
            return frozenset(range(total))
        clock = np.array(pace(self.angles)[:total])
        steps = [0]
        for number in range(1, count):
            nearest = int(np.abs(clock - number / count).argmin())
            steps.append(min(max(nearest, steps[-1] + 1), total - count + number))
        return frozenset(steps)


@lru_cache(maxsize=256)
def pace(angles: tuple[float, ...]) -> tuple[float, ...]:
    """How far a run has come before each step, and after the last: from 0 to 1.

    The mean of two clocks: the steps themselves, and the time of a diffusion, ``d tau = d phi /
    sin(2 phi)^(1/3)`` with tan(phi) = noise / signal, which lies between the angle (power 0) and
    the log-SNR (power 1, but for a factor). The power was read off placements of least error on two
    models; the even half keeps every gap below twice the even one.

    Args:
        angles: phi before each step and after the last, T + 1 of them, each in [0, pi / 2].
    """
    phi = np.array(angles)
    ends = np.linspace(0.0, 1.0, 129)
    middles = (ends[1:] + ends[:-1]) / 2
    inside = phi[:-1, None] + (phi[1:] - phi[:-1])[:, None] * middles
    speed = np.maximum(np.sin(2 * inside), 1e-6) ** (-1 / 3)
    moved = speed.mean(1) * np.abs(phi[1:] - phi[:-1])
    share = moved / moved.sum() if moved.any() else np.full(len(moved), 1 / len(moved))
    return tuple(float(t) for t in np.append(0.0, np.cumsum(share + 1 / len(moved)) / 2))


@dataclass(frozen=True)
class Measured(_Listing):
    """Full steps found for runs of one length.

    Attributes:
        steps: strictly rising step indices, beginning with 0.
        num_steps: the number of steps of those runs.
    """

    steps: tuple[int, ...]
    num_steps: int

    def __post_init__(self) -> None:
        """Check the fields."""
        total = _arguments.integer("num_steps", self.num_steps, 1, MAX_STEPS)
        steps = tuple(_arguments.integer("steps", step, 0, total - 1) for step in self.steps)
        if steps[:1] != (0,) or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"steps must rise strictly from 0, got {list(steps)}")
        object.__setattr__(self, "steps", steps)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full.

        Raises:
            ValueError: the run has another length; None, where it is not known, passes.
        """
        if num_steps is not None and num_steps != self.num_steps:
            raise ValueError(
                f"schedule must be calibrated for runs of {num_steps} steps, got one for "
                f"{self.num_steps}"
            )
        return step in self.steps


def last_full(count: int, num_steps: int) -> int:
    """Where the last full step lies, from the end of the run: a quarter of the mean gap before."""
    return -1 - num_steps // (4 * count)


@dataclass(frozen=True)
class Share(_Listing):
    """One step in ``speedup`` is full, spread evenly as by ``Even``.

    Of a run whose length is known ``floor(num_steps / speedup)`` steps, at least one: skip steps
    counted as free, it is at least so many times cheaper. Where the length is not known, the steps
    at which another multiple of ``speedup`` has passed: 0, 6, 12, ...

    Attributes:
        speedup: steps per full step, at least 1.
    """

    speedup: float

    def __post_init__(self) -> None:
        """Check the field."""
        _arguments.real("speedup", self.speedup, 1.0, MAX_STEPS)

    def count(self, num_steps: int) -> int:
        """How many steps of a run are full."""
        return max(math.floor(num_steps / self.speedup + 1e-9), 1)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full."""
        if num_steps is None:
            due = math.ceil(step / self.speedup - 1e-9) * self.speedup
            return due < step + 1 - 1e-9
        count = self.count(num_steps)
        return Even(count, last_full(count, num_steps)).is_full(step, num_steps)


_SCHEDULES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Windowed, Listed, Even, Spread, Paced, Measured, Share)
}


class _FullSteps:
    """``full_steps`` on the class takes a schedule's settings, on a plan it uses the plan's own."""

    def __get__(self, plan: Plan | None, owner: type[Plan]) -> Callable[..., list[int]]:
        return _full_steps if plan is None else plan._full_steps


@dataclass(frozen=True, init=False)
class Plan:
    """Which steps of a run are full.

    Whatever the schedule says, three kinds of step are full: the first, since there is nothing to
    predict it from; every one of a run of three steps or fewer; and any beyond the number of steps
    announced.

    Attributes:
        schedule: which steps are full.
        num_steps: the number of steps of the run, None if not known.
    """

    schedule: Schedule
    num_steps: int | None

    def __init__(
        self,
        window: int = 6,
        warmup: int = 3,
        tail: int = 0,
        num_steps: int | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """Makes the plan of ``schedule``; without one, of ``Windowed(window, warmup, tail)``.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument is out of range.
        """
        windowed = Windowed(window, warmup, tail)
        schedule = windowed if schedule is None else schedule
        if isinstance(schedule, type) or not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must have is_full(step, num_steps), got {schedule!r}")
        if num_steps is not None:
            num_steps = _arguments.integer("num_steps", num_steps, 0, MAX_STEPS)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "num_steps", num_steps)

    full_steps = _FullSteps()
    """The full steps of a run: ``Plan.full_steps(50, window=8)``, or ``plan.full_steps(50)``."""

    def is_full(self, step: int) -> bool:
        """Whether ``step``, counted from 0, is full."""
        if type(step) is not int or not 0 <= step <= 2**63:  # asked at every step of a run
            _arguments.integer("step", step, 0, 2**63)
        total = self.num_steps
        if step == 0 or (total is not None and (total <= _ALWAYS_FULL or step >= total)):
            return True
        return bool(self.schedule.is_full(step, total))

    def with_steps(self, num_steps: int | None) -> Plan:
        """Returns the same schedule for a run of ``num_steps``."""
        return Plan(num_steps=num_steps, schedule=self.schedule)

    def follow(self) -> Follower | None:
        """Who decides on the steps of a run as it goes on; None: they are known beforehand."""
        follow = getattr(self.schedule, "follow", None)
        if follow is None or (self.num_steps is not None and self.num_steps <= _ALWAYS_FULL):
            return None
        follower: Follower = follow(self.num_steps)
        return follower

    def _full_steps(self, num_steps: int | None = None) -> list[int]:
        """Returns the full steps of a run of ``num_steps``, the plan's own number by default."""
        plan = self if num_steps is None else self.with_steps(num_steps)
        if plan.num_steps is None:
            raise ValueError("num_steps must be given, since the plan has none")
        return [step for step in range(plan.num_steps) if plan.is_full(step)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values.

        Raises:
            TypeError: the schedule is not one of this module.
        """
        kind = type(self.schedule).__name__
        if _SCHEDULES.get(kind) is not type(self.schedule):
            raise TypeError(f"schedule must be one of {', '.join(_SCHEDULES)} to save, got {kind}")
        settings = asdict(self.schedule)  # type: ignore[call-overload]
        return {"num_steps": self.num_steps, "schedule": {"kind": kind, **settings}}

    @staticmethod
    def from_dict(saved: Mapping[str, Any]) -> Plan:
        """Returns the plan that ``to_dict`` saved."""
        settings = dict(saved["schedule"])
        kind = settings.pop("kind")
        if kind not in _SCHEDULES:
            raise ValueError(f"kind must be one of {', '.join(_SCHEDULES)}, got {kind!r}")
        return Plan(num_steps=saved["num_steps"], schedule=_SCHEDULES[kind](**settings))


def _full_steps(
    num_steps: int,
    window: int = 6,
    warmup: int = 3,
    tail: int = 0,
    schedule: Schedule | None = None,
) -> list[int]:
    """Returns the full steps of a run of ``num_steps``, rising.

    Args:
        num_steps: the number of steps of the run.
        window: as in ``Plan``.
        warmup: as in ``Plan``.
        tail: as in ``Plan``.
        schedule: as in ``Plan``.
    """
    return Plan(window, warmup, tail, num_steps, schedule)._full_steps()
