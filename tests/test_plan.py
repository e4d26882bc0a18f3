"""Schedules against the paper's counts and against brute force."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tap_ext.plan import (
    Even,
    Listed,
    Measured,
    Paced,
    Plan,
    Share,
    Spread,
    Windowed,
    last_full,
    pace,
)

PROPERTY = settings(deadline=None, max_examples=100)


# The paper's schedule


def test_the_papers_schedule():
    assert Plan.full_steps(50, window=8) == [0, 1, 2, 10, 18, 26, 34, 42]
    assert Plan.full_steps(50, window=5) == [0, 1, 2, *range(7, 50, 5)]
    assert Plan.full_steps(50) == Plan.full_steps(50, window=6) == [0, 1, 2, *range(8, 50, 6)]


@pytest.mark.parametrize(
    ("num_steps", "window", "warmup", "count"),
    [
        # FLUX.1-dev and HunyuanVideo, by FLOPs over those of a full step
        (50, 4, 3, 14),
        (50, 5, 3, 12),
        (50, 6, 3, 10),
        (50, 8, 3, 8),
        (50, 9, 3, 8),
        (50, 10, 3, 7),
        (50, 11, 3, 7),
        # Qwen-Image-Lightning, FLUX.1-schnell
        (8, 3, 3, 4),
        (8, 4, 3, 4),
        (8, 5, 3, 4),
        (8, 3, 2, 4),
        (4, 3, 2, 2),
        # FORA
        (50, 3, 1, 17),
        (50, 4, 1, 13),
        (50, 5, 1, 10),
        (50, 7, 1, 8),
    ],
)
def test_counts_of_the_papers_tables(num_steps, window, warmup, count):
    assert len(Plan.full_steps(num_steps, window, warmup)) == count


def test_a_warmup_of_one_is_fora():
    assert Plan.full_steps(20, window=4, warmup=1) == [0, 4, 8, 12, 16]


def test_a_tail_is_full_where_the_length_is_known():
    assert Plan.full_steps(20, window=8, tail=2) == [0, 1, 2, 10, 18, 19]
    assert [step for step in range(20) if Plan(window=8, tail=2).is_full(step)] == [0, 1, 2, 10, 18]


@PROPERTY
@given(st.integers(0, 120), st.integers(1, 130), st.integers(1, 130), st.integers(0, 130))
def test_windowed_against_brute_force(num_steps, window, warmup, tail):
    # A counter, as published samplers keep it: skip until a window has passed since a full step.
    expected, since = [], 0
    for step in range(num_steps):
        since = 0 if step < warmup or since == window - 1 else since + 1
        if since == 0 or step >= num_steps - tail or num_steps <= 3:
            expected.append(step)
    assert Plan.full_steps(num_steps, window, warmup, tail) == expected
    if num_steps > 3:
        assert Windowed(window, warmup, tail).full_steps(num_steps) == expected


# Any schedule


class Odd:
    """A user's schedule; its answer is no bool."""

    def __repr__(self):
        return "Odd()"

    def is_full(self, step, num_steps):
        return step % 2


SCHEDULES = (
    st.builds(Windowed, st.integers(1, 12), st.integers(1, 6), st.integers(0, 4))
    | st.builds(Listed, st.sets(st.integers(0, 60), min_size=1).map(sorted))
    | st.builds(Even, st.integers(1, 30), st.integers(-20, -1))
    | st.builds(Odd)
)


@PROPERTY
@given(SCHEDULES, st.integers(0, 60))
def test_a_plan_answers_as_its_list(schedule, num_steps):
    plan = Plan(num_steps=num_steps, schedule=schedule)
    full = plan.full_steps()
    assert full == Plan.full_steps(num_steps, schedule=schedule) == sorted(set(full))
    assert full == Plan(schedule=schedule).full_steps(num_steps)
    assert all(plan.is_full(step) is (step in full) for step in range(num_steps))
    if num_steps > 3:
        scheduled = {step for step in range(num_steps) if schedule.is_full(step, num_steps)}
        assert set(full) == scheduled | {0}
    # Whoever runs longer than announced is not left to an old forecast.
    assert plan.is_full(num_steps) and plan.is_full(num_steps + 5)


@pytest.mark.parametrize("num_steps", range(4))
@pytest.mark.parametrize("schedule", [Windowed(3, 1), Listed([0]), Even(1), Odd()], ids=repr)
def test_short_runs_are_all_full(num_steps, schedule):
    assert Plan.full_steps(num_steps, schedule=schedule) == list(range(num_steps))
    assert len(Plan.full_steps(4, schedule=schedule)) < 4


def test_the_instance_keeps_its_own_schedule():
    """A plan's list is its own, not that of the default window."""
    plan = Plan(window=8)
    assert plan.full_steps(50) == Plan.full_steps(50, window=8) != Plan.full_steps(50)
    assert plan.with_steps(50).full_steps() == plan.full_steps(50)
    assert plan.with_steps(50).num_steps == 50 and plan.num_steps is None
    with pytest.raises(ValueError, match="num_steps must be given, since the plan has none"):
        plan.full_steps()


def test_an_unknown_length():
    plan = Plan(window=4)
    assert [step for step in range(14) if plan.is_full(step)] == [0, 1, 2, 6, 10]
    assert plan.is_full(4 * 10**5 + 2) and not plan.is_full(4 * 10**5 + 3)


def test_a_schedule_stands_in_the_place_of_the_window():
    assert Plan(window=2, schedule=Listed([0, 7])).full_steps(10) == [0, 7]


# Listed


def test_listed():
    assert Listed([0, 3, 9]).steps == (0, 3, 9)
    assert Listed(range(0, 9, 4)) == Listed((0, 4, 8))
    assert Listed(np.array([1, 5])).full_steps(5) == [1]
    assert Plan.full_steps(8, schedule=Listed([4])) == [0, 4]


# Even


@pytest.mark.parametrize(
    ("count", "last", "expected"),
    [
        (7, -3, [0, 8, 16, 24, 31, 39, 47]),
        (8, -3, [0, 7, 13, 20, 27, 34, 40, 47]),
        (2, -1, [0, 49]),
        (1, -3, [0]),
        (48, -3, list(range(48))),
        # No room before step 47: the steps stay distinct and end later.
        (49, -3, list(range(49))),
        (50, -3, list(range(50))),
        (500, -3, list(range(50))),
        (3, -200, [0, 1, 2]),
    ],
)
def test_even(count, last, expected):
    assert Even(count, last).full_steps(50) == expected


@PROPERTY
@given(st.integers(1, 40), st.integers(-12, -1), st.integers(0, 90))
def test_even_against_its_definition(count, last, num_steps):
    full = Even(count, last).full_steps(num_steps)
    assert len(full) == min(count, num_steps)
    if 1 < count < num_steps:
        end = max(num_steps + last, count - 1)
        assert full[0] == 0 and full[-1] == end
        assert all(abs(step - i * end / (count - 1)) <= 0.5 + 1e-9 for i, step in enumerate(full))
        spacing = np.diff(full)
        assert spacing.min() >= 1 and spacing.max() - spacing.min() <= 1


def test_even_needs_the_length():
    with pytest.raises(ValueError, match="Even needs num_steps"):
        Even(8).is_full(3, None)
    with pytest.raises(ValueError, match="Even needs num_steps"):
        Plan(schedule=Even(8)).is_full(3)
    assert Plan(schedule=Even(8)).is_full(0)


# Values


@pytest.mark.parametrize("schedule", [None, Windowed(8, 1, 2), Listed([0, 4]), Even(7, -2)])
@pytest.mark.parametrize("num_steps", [None, 50])
def test_plans_are_values(schedule, num_steps):
    plan = Plan(num_steps=num_steps, schedule=schedule)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan and hash(copy) == hash(plan)
    with pytest.raises(AttributeError):
        plan.num_steps = 3
    namespace = {kind.__name__: kind for kind in (Plan, Windowed, Listed, Even)}
    assert eval(repr(plan), namespace) == plan


def test_only_known_schedules_are_saved():
    with pytest.raises(
        TypeError, match=r"must be one of Windowed, Listed, .*, Share to save, got Odd"
    ):
        Plan(schedule=Odd()).to_dict()
    saved = {"num_steps": None, "schedule": {"kind": "Odd"}}
    with pytest.raises(
        ValueError, match=r"kind must be one of Windowed, Listed, .*, Share, got 'Odd'"
    ):
        Plan.from_dict(saved)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Plan(window=0), ValueError, "window must be between 1 and 1000000, got 0"),
        (lambda: Plan(window=-1), ValueError, "window must be between 1 and 1000000, got -1"),
        (lambda: Plan(window=10**9), ValueError, "window must be between 1 and 1000000, got 1000"),
        (lambda: Plan(window=True), TypeError, r"window must be an int, got True \(bool\)"),
        (lambda: Plan(window="6"), TypeError, r"window must be an int, got '6' \(str\)"),
        (lambda: Plan(window=6.0), TypeError, r"window must be an int, got 6.0 \(float\)"),
        (lambda: Plan(window=float("nan")), TypeError, r"window must be an int, got nan \(float\)"),
        (lambda: Plan(warmup=0), ValueError, "warmup must be between 1 and 1000000, got 0"),
        (lambda: Plan(tail=-1), ValueError, "tail must be between 0 and 1000000, got -1"),
        (lambda: Plan(num_steps=-1), ValueError, "num_steps must be between 0 and"),
        (lambda: Plan(num_steps="50"), TypeError, "num_steps must be an int, got '50'"),
        (lambda: Plan.full_steps(-1), ValueError, "num_steps must be between 0 and"),
        (lambda: Plan.full_steps(None), ValueError, "num_steps must be given"),
        (lambda: Plan.full_steps(50, window=0), ValueError, "window must be between 1 and"),
        (lambda: Windowed(6).full_steps(-1), ValueError, "num_steps must be between 0 and"),
        (lambda: Plan(schedule=8), TypeError, r"schedule must have is_full\(.*\), got 8"),
        (lambda: Plan(schedule=Windowed), TypeError, r"schedule must have is_full.*got <class"),
        (lambda: Plan().is_full(-1), ValueError, "step must be between 0 and"),
        (lambda: Plan().is_full(True), TypeError, "step must be an int, got True"),
        (lambda: Listed([]), ValueError, r"steps must rise strictly and not be empty, got \[\]"),
        (lambda: Listed([0, 3, 3]), ValueError, r"steps must rise strictly.*got \[0, 3, 3\]"),
        (lambda: Listed([3, 0]), ValueError, r"steps must rise strictly.*got \[3, 0\]"),
        (lambda: Listed([-1, 0]), ValueError, "steps must be between 0 and 1000000, got -1"),
        (lambda: Listed([0.0, 1]), TypeError, "steps must be an int, got 0.0"),
        (lambda: Listed(7), TypeError, "steps must be a list of ints, got 7"),
        (lambda: Listed("12"), TypeError, "steps must be an int, got '1'"),
        (lambda: Even(0), ValueError, "count must be between 1 and 1000000, got 0"),
        (lambda: Even(8, last=47), ValueError, "last must be between -1000000 and -1, got 47"),
        (lambda: Even(8.0), TypeError, "count must be an int, got 8.0"),
    ],
)
def test_fields_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


@given(st.integers(0, 80), st.integers(1, 12), st.integers(1, 5))
def test_spread_has_as_many_full_steps_as_windowed_and_spreads_them(
    num_steps: int, window: int, warmup: int
) -> None:
    windowed = Plan.full_steps(num_steps, window, warmup)
    spread = Plan.full_steps(num_steps, schedule=Spread(window, warmup))
    assert len(spread) == len(windowed)
    gaps = [b - a for a, b in pairwise(spread)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    if 1 < len(spread) < num_steps - 3:
        assert spread[-1] == num_steps - 3


def test_spread_without_a_number_of_steps_is_windowed() -> None:
    plan = Plan(schedule=Spread(8, 3))
    assert [step for step in range(50) if plan.is_full(step)] == Plan.full_steps(50, window=8)


def test_spread_checks_its_fields() -> None:
    for bad, name in (({"window": 0}, "window"), ({"warmup": 0}, "warmup"), ({"last": 0}, "last")):
        with pytest.raises(ValueError, match=name):
            Spread(**bad)
    assert Plan.from_dict(Plan(schedule=Spread(8)).to_dict()).schedule == Spread(8)


# Paced


def _flow(steps, shift=1.0):
    """Angles of a rectified flow whose schedule is shifted."""
    time = np.linspace(1, 0, steps + 1)
    level = shift * time / (1 + (shift - 1) * time)
    return tuple(np.arctan2(level, 1 - level).tolist())


def _time(phi):
    """The integral of sin(2 phi)^(-1/3) from 0, by a fine sum of its own."""
    grid = (np.arange(200_000) + 0.5) * (np.pi / 2 / 200_000)
    path = np.append(0.0, np.cumsum(np.sin(2 * grid) ** (-1 / 3)))
    return np.interp(phi, np.linspace(0, np.pi / 2, 200_001), path)


@pytest.mark.parametrize("angles", [_flow(50), _flow(50, 3.0), _flow(7, 12.0)])
def test_the_pace_against_its_definition(angles):
    steps = len(angles) - 1
    time = _time(np.array(angles))
    noise = (time[0] - time) / (time[0] - time[-1])
    np.testing.assert_allclose(pace(angles), (noise + np.arange(steps + 1) / steps) / 2, atol=2e-3)


@PROPERTY
@given(st.integers(0, 10**6), st.integers(1, 60), st.data())
def test_paced_by_any_angles(seed, total, data):
    drawn = np.random.default_rng(seed).uniform(0, np.pi / 2, total + 1)
    angles = np.sort(drawn)[::-1]
    count = data.draw(st.integers(1, total))
    steps = Paced(count, tuple(angles.tolist())).full_steps(total)
    assert len(steps) == count and steps[0] == 0
    assert max(np.diff([*steps, total])) <= 2 * total / count + 2
    mirrored = tuple((np.pi / 2 - angles).tolist())  # noise and signal by each other's names
    assert Paced(count, mirrored).full_steps(total) == steps


def test_paced_on_equal_angles():
    """As of the cosine schedule: denser where signal begins and where noise ends, not even."""
    gaps = np.diff([*Paced(8, tuple(np.linspace(np.pi / 2, 0, 51))).full_steps(50), 50])
    assert gaps[0] < gaps[3] > gaps[-1] and gaps.max() == 7


def test_paced_is_even_where_the_noise_stands_still():
    assert Paced(5, (0.5,) * 51).full_steps(50) == [0, 10, 20, 30, 40]


def test_more_shift_means_later_full_steps():
    means = [np.mean(Paced(8, _flow(50, shift)).full_steps(50)) for shift in (1, 3, 7, 12)]
    assert means == sorted(means) and means[0] < means[-1] - 1.5


def test_paced_wants_one_angle_more_than_steps():
    plan = Plan(num_steps=40, schedule=Paced(8, _flow(50)))
    with pytest.raises(ValueError, match="angles must be 41, one more than the steps, got 51"):
        plan.is_full(3)
    for wrong, words in (((1.0,), "got 1"), ((1.0, -0.1), "angles"), ((1.6, 0.0), "angles")):
        with pytest.raises(ValueError, match=words):
            Paced(1, wrong)
    for schedule in (Paced(8, _flow(50)), Measured((0, 3), 50)):
        saved = Plan(num_steps=50, schedule=schedule)
        assert Plan.from_dict(json.loads(json.dumps(saved.to_dict()))) == saved


def test_the_last_full_step_leaves_a_quarter_of_the_mean_gap():
    assert [last_full(count, 50) for count in (14, 12, 10, 8, 7, 2)] == [-1, -2, -2, -2, -2, -7]
    assert last_full(4, 8) == -1


# Share


@pytest.mark.parametrize(
    ("speedup", "count"), [(1, 50), (1.5, 33), (2, 25), (5, 10), (6, 8), (6.25, 8), (7, 7), (99, 1)]
)
def test_share_counts(speedup, count):
    full = Share(speedup).full_steps(50)
    assert len(full) == count and full[0] == 0
    assert 50 / count >= speedup or count == 1


@PROPERTY
@given(st.floats(1, 40))
def test_share_of_an_unknown_length(speedup):
    full = [step for step in range(400) if Share(speedup).is_full(step, None)]
    assert full[0] == 0 and all(speedup - 1 < b - a < speedup + 1 for a, b in pairwise(full))
    assert abs(len(full) - 400 / speedup) <= 1


# What mutants survived


def test_defaults_are_the_papers_window_and_the_third_step_from_the_end():
    assert Windowed() == Windowed(6, 3, 0)
    assert Spread() == Spread(6, 3, -3)
    assert Even(4) == Even(4, -3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", 0), ("count", 2.0), ("angles", (1.0, -0.1)), ("angles", (1.0,)), ("angles", "12")],
)
def test_paced_checks_its_fields(field, value):
    with pytest.raises((TypeError, ValueError), match=f"^{field} must be"):
        Paced(**{"count": 2, "angles": (1.0, 0.5, 0.0), field: value})


def test_paced_steps_may_follow_one_another_where_the_noise_goes_at_once() -> None:
    assert Paced(4, (1.4, *[0.1] * 6)).full_steps(6) == [0, 1, 2, 3]


def test_a_run_of_one_step_can_be_measured():
    assert Measured((0,), 1).full_steps(1) == [0]


@pytest.mark.parametrize(
    ("speedup", "error"), [("6", TypeError), (True, TypeError), (0.5, ValueError)]
)
def test_a_share_is_a_number_of_at_least_one(speedup, error):
    with pytest.raises(error, match="speedup must be"):
        Share(speedup)


def test_without_arguments_the_windows_are_the_papers():
    assert Plan().full_steps(20) == Windowed(6, 3, 0).full_steps(20) != Windowed(7).full_steps(20)


class _Deciding:
    """A schedule that decides as the run goes on; notes the lengths that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def is_full(self, step: int, num_steps: int | None) -> bool:
        return False

    def follow(self, num_steps: int | None) -> str:
        self.asked.append(num_steps)
        return "follower"


def test_who_decides_as_a_run_goes_on() -> None:
    schedule = _Deciding()
    for steps in (4, 50, None):
        assert Plan(schedule=schedule, num_steps=steps).follow() == "follower"
    assert schedule.asked == [4, 50, None]
    for steps in (0, 1, 3):  # all full, so that nobody decides
        assert Plan(schedule=schedule, num_steps=steps).follow() is None
    assert schedule.asked == [4, 50, None]
    assert Plan(window=3, num_steps=50).follow() is None


def test_the_last_step_that_can_be_asked_for() -> None:
    plan = Plan(window=6)
    assert isinstance(plan.is_full(2**63), bool)
    with pytest.raises(ValueError, match="step must be"):
        plan.is_full(2**63 + 1)
