"""Any values for any fields: a configuration that works, or a refusal that names a field."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tap_ext import Config
from tap_ext.config import PRESETS
from tap_ext.peers import METHODS
from tap_ext.plan import Even, Listed, Plan, Windowed
from tap_ext.predictors import Newton, Reuse, Taylor

NAMES = tuple(field.name for field in fields(Config))

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.lists(st.integers(), max_size=3),
    st.complex_numbers(),
    st.sampled_from(
        [object(), Config, Config(), Plan(), Taylor, math.inf, {}, {"window": 3}, range]
    ),
)

GOOD: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(sorted(PRESETS)),
    "method": st.sampled_from(sorted(METHODS)),
    "full_steps": st.none() | st.integers(1, 60),
    "speedup": st.none() | st.floats(1, 60),
    "window": st.integers(1, 60),
    "warmup": st.integers(1, 60),
    "tail": st.integers(0, 60),
    "order": st.integers(0, 7),
    "lookback": st.floats(0, 8),
    "lookback_step": st.floats(0.125, 8),
    "metric": st.sampled_from(["cosine", "l2"]),
    "probe": st.sampled_from(["modulated", "input"]),
    "forecast": st.sampled_from(["residual", "hidden"]),
    "corrector": st.booleans(),
    "blend": st.booleans(),
    "position": st.sampled_from(["step", "sigma"]),
    "predictors": st.none()
    | st.lists(st.sampled_from([Taylor(1), Newton(2), Reuse()]), min_size=1),
    "schedule": st.sampled_from(
        [None, "even", "paced", "adaptive", Windowed(4), Even(5), Listed((0, 3))]
    ),
    "graphs": st.sampled_from(["auto", "skip", "all", "off"]),
    "compile": st.booleans(),
    "self_check": st.booleans(),
    "trace": st.booleans(),
}


def test_every_field_has_good_values() -> None:
    assert GOOD.keys() == set(NAMES)


@st.composite
def _fields(draw: st.DrawFn) -> dict[str, Any]:
    """Some fields, most of them good."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    return {name: draw(GOOD[name] if draw(st.integers(0, 3)) else JUNK) for name in names}


@given(_fields(), st.integers(0, 60))
def test_any_values_make_a_working_configuration_or_are_refused_by_name(
    given: dict[str, Any], steps: int
) -> None:
    try:
        config = Config(**given)
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in given), error
        return
    assert config.replace() == config
    assert 1 <= config.planes <= 8 and config.family()
    angles = tuple(1 - step / max(steps, 1) for step in range(steps + 1))
    plan = config.plan(steps, angles)
    follower = plan.follow()
    full = [step for step in range(steps) if (follower or plan).is_full(step)]
    assert follower is not None or full == plan.full_steps()
    assert full[:1] == [0][:steps]
    if follower is None and config.schedule is None and config.method == "tap":
        assert len(full) == config.budget(steps) or steps <= 3


@given(st.sampled_from(NAMES), JUNK)
def test_one_bad_value_is_refused_by_its_name(name: str, value: Any) -> None:
    try:
        Config(**{name: value})
    except (TypeError, ValueError) as error:
        # "steps" is a method that needs one more field.
        assert str(error).startswith(name) or value == "steps", error
        assert " must " in str(error), error
