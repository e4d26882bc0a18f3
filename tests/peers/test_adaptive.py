"""A budgeted schedule that follows the proxy distance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tap_ext
from tap_ext import Config
from tap_ext.peers import Adaptive
from tap_ext.plan import Even, last_full
from tests import tiny


class _Look:
    def __init__(self, rows: list[float]) -> None:
        self.rows = rows

    def distance(self) -> list[float]:
        return self.rows


def _follow(rule: Adaptive, steps: int, shown: Callable[[int, int], list[float]]) -> list[int]:
    """The full steps, where a skip step ``gap`` steps after the last full one shows its rows."""
    follower = rule.follow(steps)
    full: list[int] = []
    for step in range(steps):
        if not full or follower.is_full(step):
            full.append(step)
            follower.recorded(step)
        else:
            look = _Look(shown(step, step - full[-1]))
            assert not follower.saw(step, look)  # type: ignore[arg-type]
    return full


@settings(deadline=None, max_examples=200)
@given(
    count=st.integers(1, 40),
    steps=st.integers(4, 60),
    seed=st.integers(0, 10**6),
    spread=st.floats(0.0, 20.0),
)
def test_the_total_is_kept_whatever_is_shown(
    count: int, steps: int, seed: int, spread: float
) -> None:
    draw = torch.randn(steps, generator=torch.Generator().manual_seed(seed)) * spread
    full = _follow(Adaptive(count), steps, lambda step, gap: [float(draw[step].exp())])
    assert len(full) == min(count, steps)
    if 1 < count < steps:
        assert full[-1] == max(steps + last_full(count, steps), count - 1)


def test_where_all_steps_are_equally_hard_it_is_the_plan() -> None:
    for count in (4, 7, 8, 10, 12, 14):
        full = _follow(Adaptive(count), 50, lambda step, gap: [1e-3 * gap**2])
        even = Even(count, last_full(count, 50)).full_steps(50)
        # the plan rounds each place by itself, here one rounding is carried on to the next
        assert max(abs(a - b) for a, b in zip(full, even, strict=True)) <= 2


def test_full_steps_gather_where_forecasts_are_bad() -> None:
    def hard(step: int, gap: int) -> list[float]:
        return [(30.0 if 24 <= step < 36 else 1.0) * 1e-3 * gap**2]

    full = _follow(Adaptive(12), 50, hard)
    plan = Even(12, last_full(12, 50)).full_steps(50)
    inside = sum(24 <= step < 38 for step in full)
    assert inside > sum(24 <= step < 38 for step in plan)


def test_the_gap_follows_the_cube_root() -> None:
    """Nine times the usual rate shortens a window to 9^(-1/3) of what is planned."""
    follower = Adaptive(10).follow(101)
    for step in (0, 10, 20):  # the first two windows teach nothing
        follower.recorded(step)
    follower.saw(25, _Look([1e-3 * 5**2]))  # type: ignore[arg-type]
    follower.recorded(30)
    follower.saw(31, _Look([9e-3]))  # type: ignore[arg-type]
    planned = (100 + 1 + last_full(10, 101) - 30) / 6
    wanted = planned * 9 ** (-1 / 3)
    full = next(step for step in range(31, 60) if follower.is_full(step))
    assert abs(full - 30 - wanted) <= 0.5 + 1e-9


def test_the_rows_of_a_batch_decide_by_their_mean() -> None:
    def rate(step: int) -> float:
        return 1e-3 * (1 + step % 7)

    one = _follow(Adaptive(9), 50, lambda step, gap: [rate(step) * gap**2])
    two = _follow(
        Adaptive(9), 50, lambda step, gap: [0.5 * rate(step) * gap**2, 1.5 * rate(step) * gap**2]
    )
    assert one == two


def test_reads_may_wait_for_full_steps() -> None:
    """Then a rate shortens the window after the one in which it was seen."""
    follower = Adaptive(10, reads="windows").follow(101)
    reads: list[int] = []

    class Counting(_Look):
        def distance(self) -> list[float]:
            reads.append(len(reads))
            return self.rows

    full: list[int] = []
    for step in range(101):
        if not full or follower.is_full(step):
            full.append(step)
            follower.recorded(step)
        else:
            rate = 27.0 if 44 <= step < 58 else 1.0
            look = Counting([rate * 1e-3 * (step - full[-1]) ** 2])
            follower.saw(step, look)  # type: ignore[arg-type]
    assert len(full) == 10 and len(reads) == 9
    gaps = [b - a for a, b in pairwise(full)]
    hard = next(index for index, step in enumerate(full) if step >= 48) - 1
    assert gaps[hard + 1] < 0.7 * gaps[hard]


@pytest.mark.parametrize("shown", [0.0, float("nan"), float("inf")])
def test_distances_that_say_nothing_are_passed_over(shown: float) -> None:
    assert len(_follow(Adaptive(8), 50, lambda step, gap: [shown])) == 8


def test_it_needs_the_number_of_steps() -> None:
    with pytest.raises(ValueError, match="needs num_steps"):
        Adaptive(8).follow(None)
    with pytest.raises(ValueError, match="angles must be 41"):
        Adaptive(8, (1.5, 1.0, 0.5)).follow(40)
    with pytest.raises(ValueError, match="count"):
        Adaptive(0)
    with pytest.raises(ValueError, match="reads must be 'steps' or 'windows', got 'never'"):
        Adaptive(8, reads="never")  # type: ignore[arg-type]


def test_a_configuration_asks_for_it() -> None:
    angles = tuple((step / 50) ** 2 for step in range(50, -1, -1))
    config = Config(full_steps=8, schedule="adaptive")
    assert config.plan(50, angles).schedule == Adaptive(8, angles)
    assert config.plan(50).schedule == Adaptive(8)
    assert len(config.plan(50, angles).full_steps()) == 8
    assert Config(schedule="adaptive", window=8).plan(50).schedule == Adaptive(8)


def test_through_a_model_the_budget_holds_and_runs_repeat() -> None:
    family = tiny.MODELS[0]
    model = tiny.build(family)
    truth = tiny.sample(model, tiny.inputs(family), 12)
    tap_ext.accelerate(model, schedule=Adaptive(5, tuple(step / 10 for step in range(12, -1, -1))))
    with tap_ext.run(_Clock(12)):
        fast = tiny.sample(model, tiny.inputs(family), 12)
    (branch,) = tap_ext.stats(model).models[0].branches
    with tap_ext.run(_Clock(12)):
        again = tiny.sample(model, tiny.inputs(family), 12)
    assert len(branch.full_steps) == 5 and len(branch.skip_steps) == 7
    assert torch.equal(fast, again) and (fast - truth).norm() < 0.05 * truth.norm()


class _Clock:
    """Knows the length of the run and nothing else."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def now(self) -> None:
        return None

    def num_steps(self) -> int:
        return self.steps

    def angles(self) -> None:
        return None

    def prediction(self) -> None:
        return None

    def refusal(self) -> None:
        return None


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_step_is_full_whoever_asks(count: int) -> None:
    assert Adaptive(count).follow(4).is_full(0)
