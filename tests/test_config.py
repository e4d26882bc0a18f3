"""Every field is checked when a configuration is made."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_ext import Config, Plan
from tap_ext.config import PRESETS
from tap_ext.plan import Even, Listed, Paced
from tap_ext.predictors import Newton, Reuse, Taylor

ANGLES = tuple((step / 50) ** 2 for step in range(50, -1, -1))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *(
            (name, bad, TypeError)
            for name in ("window", "warmup", "tail", "order")
            for bad in (True, 2.0, "3", None)
        ),
        ("window", 0, ValueError),
        ("window", -1, ValueError),
        ("window", 10**9, ValueError),
        ("warmup", 0, ValueError),
        ("tail", -1, ValueError),
        ("order", -1, ValueError),
        ("order", 100, ValueError),
        ("lookback", -0.5, ValueError),
        ("lookback", float("nan"), ValueError),
        ("lookback", float("inf"), ValueError),
        ("lookback", True, TypeError),
        ("lookback_step", 0, ValueError),
        ("lookback_step", 1e-9, ValueError),
        ("lookback_step", "1", TypeError),
        ("metric", "cosin", ValueError),
        ("metric", "l1", ValueError),
        ("probe", 1, ValueError),
        ("forecast", None, ValueError),
        ("position", "time", ValueError),
        ("graphs", True, ValueError),
        ("self_check", 1, TypeError),
        ("trace", "yes", TypeError),
        ("schedule", 5, TypeError),
        ("schedule", "evenly", TypeError),
        ("predictors", (), ValueError),
        ("predictors", "taylor", TypeError),
        ("predictors", 3, TypeError),
        ("predictors", ("taylor",), TypeError),
        ("predictors", (Reuse(),) * 65, ValueError),
        *((name, bad, TypeError) for name in ("full_steps", "speedup") for bad in (True, "8")),
        ("full_steps", 0, ValueError),
        ("full_steps", 8.0, TypeError),
        ("speedup", 0.5, ValueError),
        ("speedup", float("nan"), ValueError),
        ("method", "deepcache", ValueError),
        ("method", None, ValueError),
        ("preset", "fastest", ValueError),
        ("preset", 1, ValueError),
    ],
)
def test_a_bad_field_is_refused_by_name(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{field}"):
        Config(**{field: value})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="interval"):
        Config(interval=5)  # type: ignore[call-arg]


def test_the_papers_preset_is_the_papers_setting() -> None:
    paper = Config(preset="paper")
    assert (paper.warmup, paper.order, paper.lookback, paper.lookback_step) == (3, 2, 4, 1)
    assert (paper.metric, paper.probe, paper.forecast) == ("cosine", "modulated", "residual")
    assert (paper.position, paper.tail, paper.schedule) == ("step", 0, None)
    assert len(paper.family()) == 11 and paper.planes == 3


def test_explicit_fields_win_over_the_preset() -> None:
    assert Config(preset="paper", window=8).window == 8
    assert Config(preset="paper", window=8).replace(order=1).window == 8


def test_every_preset_names_every_field() -> None:
    fields = set(Config.__dataclass_fields__) - {"preset"}
    for preset in PRESETS.values():
        assert set(preset) == fields


@pytest.mark.parametrize(
    ("preset", "of_fifty", "of_eight"), [("quality", 14, 4), ("balanced", 10, 3), ("fast", 7, 3)]
)
def test_presets_by_their_budgets(preset: str, of_fifty: int, of_eight: int) -> None:
    config = Config(preset=preset)
    full = config.plan(50, ANGLES).full_steps()
    assert len(full) == of_fifty and full[0] == 0
    assert max(after - before for before, after in pairwise(full)) <= 2 * 50 / of_fifty
    assert len(config.plan(8).full_steps()) == of_eight
    assert config.plan(4).full_steps()[:3] == [0, 1, 2] == config.plan(3).full_steps()
    assert config.plan(None) == Config(window=config.window).plan(None)
    assert config.forecast == "residual"
    assert len(config.replace(full_steps=5).plan(50, ANGLES).full_steps()) == 5
    assert Config(preset=preset, method="taylorseer").forecast == "residual"


def test_a_configuration_plans_its_runs() -> None:
    plan = Config(window=8).plan(50)
    assert [step for step in range(50) if plan.is_full(step)] == [0, 1, 2, 10, 18, 26, 34, 42]
    assert Config(tail=2).plan(10).is_full(8) and not Config(tail=2).plan(None).is_full(9)
    listed = Config(schedule=Listed((0, 7)))
    assert [step for step in range(9) if listed.plan(9).is_full(step)] == [0, 7]


def test_an_even_schedule_costs_as_much() -> None:
    config = Config(window=8, schedule="even")
    assert config.plan(50).full_steps(50) == [0, 7, 13, 20, 27, 34, 40, 47]
    assert config.plan(None).is_full(2)  # nothing to spread over: as windowed


def test_a_budget_is_paced_where_the_angles_are_known_and_else_even() -> None:
    config = Config(full_steps=8)
    assert config.wants_angles
    assert config.plan(50, ANGLES).schedule == Paced(8, ANGLES)
    assert Config(speedup=6).plan(50, ANGLES) == config.plan(50, ANGLES)
    assert Config(schedule="paced", window=8).plan(50, ANGLES) == config.plan(50, ANGLES)
    for unknown in (None, ANGLES[:20]):
        assert config.plan(50, unknown).full_steps() == Even(8, -2).full_steps(50)
    even = config.replace(schedule="even")
    assert even.wants_angles  # for the corrector
    assert not even.replace(corrector=False).wants_angles
    assert even.plan(50, ANGLES) == even.plan(50) == config.plan(50)


def test_windows_that_are_asked_for_are_windows() -> None:
    for config in (Config(window=8), Config(warmup=3, window=8), Config(preset="paper", window=8)):
        assert config.plan(50, ANGLES).full_steps() == [0, 1, 2, 10, 18, 26, 34, 42]
    for config in (Config(), Config(preset="balanced"), Config(preset="balanced", window=6)):
        assert config.plan(50, ANGLES).schedule == Paced(10, ANGLES)


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_a_budget_of_all_steps_is_all_full(steps: int) -> None:
    assert Config(full_steps=8).plan(steps, ANGLES[: steps + 1]).full_steps() == list(range(steps))


def test_a_run_of_unknown_length() -> None:
    with pytest.raises(ValueError, match="choose speedup or window"):
        Config(full_steps=8).plan(None).is_full(1)
    plan = Config(speedup=4).plan(None)
    assert [step for step in range(10) if plan.is_full(step)] == [0, 4, 8]
    assert Config(schedule="paced").plan(None) == Config(preset="paper").plan(None)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"full_steps": 8, "speedup": 6}, ("speedup", "full_steps")),
        ({"full_steps": 8, "window": 6}, ("full_steps", "window")),
        ({"full_steps": 8, "warmup": 3}, ("full_steps", "warmup")),
        ({"speedup": 8, "tail": 1}, ("speedup", "tail")),
        ({"speedup": 8, "schedule": Listed((0,))}, ("speedup", "schedule")),
    ],
)
def test_one_thing_only_says_how_many_steps_are_full(
    fields: dict[str, Any], names: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match=f"{names[0]} must not be given beside {names[1]}"):
        Config(**fields)


def test_replacing_keeps_what_was_given_and_no_more() -> None:
    config = Config(full_steps=8).replace(order=1)
    assert (config.full_steps, config.order) == (8, 1)
    assert Config(order=1).replace(preset="paper") == Config(preset="paper", order=1)
    with pytest.raises(ValueError, match="beside window"):
        Config(window=8).replace(full_steps=8)


def test_fewer_steps_need_a_number() -> None:
    with pytest.raises(ValueError, match="must be given full_steps or speedup"):
        Config(method="steps")
    config = Config(method="steps", speedup=6)
    assert config.budget(50) == 8 and config.budget(3) == 1
    assert config.plan(8).full_steps() == list(range(8))


def test_own_predictors_replace_the_family() -> None:
    family = (Taylor(2), Newton(1))
    config = Config(predictors=family)
    assert config.family() == family and config.planes == 3
    assert hash(config) == hash(Config(predictors=list(family)))  # type: ignore[arg-type]


@given(
    window=st.integers(1, 10**6),
    warmup=st.integers(1, 10**6),
    order=st.integers(0, 5),
    lookback=st.floats(0, 50),
    step=st.floats(1, 4),
)
def test_every_valid_field_is_kept(
    window: int, warmup: int, order: int, lookback: float, step: float
) -> None:
    config = Config(
        window=window, warmup=warmup, order=order, lookback=lookback, lookback_step=step
    )
    assert (config.window, config.warmup, config.order) == (window, warmup, order)
    assert config.planes == order + 1 or not config.family()
    assert isinstance(config.plan(5), Plan)
