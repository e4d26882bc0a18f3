"""Placement from what a run shows, against brute force; and what watches the run."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tap_ext
from tap_ext.calibrate import Calibration, calibrate
from tap_ext.placement import place, refine, run_cost, window_costs
from tap_ext.plan import Even, Measured
from tap_ext.predictors import Taylor
from tests import tiny

TOTAL = 9


def _features(seed: int, total: int = TOTAL) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(total, 5)).cumsum(0)


def _errors(features: np.ndarray[Any, Any], steps: list[int]) -> list[np.ndarray[Any, Any]]:
    """The summed errors of each window, from the features themselves."""
    found = []
    for i, (newest, end) in enumerate(itertools.pairwise([*steps, len(features)])):
        known = steps[max(i - 2, 0) : i + 1][::-1]
        error = np.zeros(features.shape[1])
        for step in range(newest + 1, end):
            weights = Taylor(2).weights(np.array(known, dtype=float), float(step))
            error += weights @ features[known] - features[step]
        found.append(error)
    return found


def _sum(features: np.ndarray[Any, Any], steps: list[int]) -> float:
    return float(sum(error @ error for error in _errors(features, steps)))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, TOTAL))
def test_no_other_steps_cost_less(seed: int, count: int) -> None:
    features = _features(seed)
    found = place(window_costs(features @ features.T, Taylor(2), TOTAL), count)
    others = itertools.combinations(range(1, TOTAL), count - 1)
    least = min(_sum(features, [0, *other]) for other in others)
    assert len(found) == count and found[0] == 0
    assert _sum(features, found) == pytest.approx(least, rel=1e-6, abs=1e-9)


def test_gaps_are_bounded() -> None:
    features = _features(1)
    costs = window_costs(features @ features.T, Taylor(2), 3)
    assert max(np.diff([*place(costs, 4), TOTAL])) <= 3
    with pytest.raises(ValueError, match="count must be between 3 and 9, got 2"):
        place(costs, 2)
    with pytest.raises(ValueError, match="got 10"):
        place(costs, 10)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, TOTAL))
def test_the_cost_of_a_run(seed: int, count: int) -> None:
    features = _features(seed)
    gram = features @ features.T
    steps = Even(count).full_steps(TOTAL)
    total = np.sum(_errors(features, steps), axis=0)
    expected = (_sum(features, steps) + float(total @ total)) / 2
    assert run_cost(gram, steps, Taylor(2)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    found = refine(gram, steps, Taylor(2))
    assert len(found) == count and found[0] == 0 and found == sorted(set(found))
    assert run_cost(gram, found, Taylor(2)) <= run_cost(gram, steps, Taylor(2))


def test_refining_finds_a_step_that_is_off() -> None:
    """The feature jumps at step 5 only, so a full step has to lie there and nowhere else."""
    features = np.zeros((10, 1))
    features[5:] = 1.0
    assert refine(features @ features.T, [0, 4], Taylor(0)) == [0, 5]


def test_full_steps_go_where_the_output_moves() -> None:
    features = np.concatenate([np.zeros(30), np.sin(np.arange(20) / 2)])[:, None]
    steps = Calibration(features @ features.T).schedule(10).steps
    assert sum(step >= 27 for step in steps) >= 6 > sum(s >= 27 for s in Even(10).full_steps(50))


def test_a_schedule_for_every_budget() -> None:
    features = _features(3, 12)
    found = Calibration(features @ features.T)
    for count in range(1, 15):
        full = found.schedule(count).full_steps(12)
        assert len(full) == min(count, 12) and full[0] == 0


def test_a_long_run_with_few_full_steps_takes_no_table() -> None:
    features = _features(9, 200)
    gram = features @ features.T
    steps = Calibration(gram).schedule(3).steps
    assert run_cost(gram, steps, Taylor(2)) <= run_cost(gram, Even(3).full_steps(200), Taylor(2))


def test_a_run_of_another_length_is_refused() -> None:
    schedule = Measured((0, 3), 6)
    assert schedule.is_full(3, None) and not schedule.is_full(2, 6)
    with pytest.raises(ValueError, match="runs of 8 steps, got one for 6"):
        schedule.is_full(0, 8)
    for steps in ((1, 2), (0, 2, 2), ()):
        with pytest.raises(ValueError, match="rise strictly from 0"):
            Measured(steps, 6)
    with pytest.raises(ValueError, match="steps must be between 0 and 5"):
        Measured((0, 6), 6)


def test_saved_and_loaded(tmp_path: Path) -> None:
    features = _features(4, 20)
    found = Calibration(features @ features.T)
    found.save(tmp_path / "found.json")
    again = Calibration.load(tmp_path / "found.json")
    np.testing.assert_allclose(again.gram, found.gram, rtol=1e-8)
    assert again.schedule(6) == found.schedule(6)
    for text in (
        "",
        "[]",
        '{"kind": "else"}',
        '{"kind": "tap_ext calibration 1", "gram": [[1, 2]]}',
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match="path must be a file that"):
            Calibration.load(tmp_path / "other.json")
    with pytest.raises(OSError):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "gram", [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 1.0]], [[float("nan")]], [[-1.0]], []]
)
def test_what_is_no_gram_matrix(gram: Any) -> None:
    with pytest.raises(ValueError, match="gram must"):
        Calibration(np.array(gram, dtype=np.float64))


class _Model(torch.nn.Module):
    """Returns what is known beforehand, by its timestep."""

    def __init__(self, features: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self.features = torch.tensor(features)

    def forward(self, hidden_states: torch.Tensor, timestep: Any) -> tuple[torch.Tensor]:
        return (self.features[int(timestep)] * hidden_states,)


SPEC = tap_ext.BackboneSpec("_Model", (tap_ext.Blocks("blocks"),), (tap_ext.Stream("head"),))
ONE = torch.ones(1)


def _run(model: _Model, *branches: float, timesteps: Any = None) -> None:
    """One run, latest timestep first; every branch scales the output."""
    for timestep in reversed(range(len(model.features))) if timesteps is None else timesteps:
        for scale in branches or (1.0,):
            model(ONE * scale, timestep=torch.tensor([timestep]))


def test_it_watches_all_branches_of_all_runs() -> None:
    features = _features(5, 6)
    model = _Model(features)

    def generate() -> None:
        _run(model, 1.0, 2.0)
        _run(model, 3.0, 1.0)

    found = calibrate(model, generate, spec=SPEC)
    expected = (features @ features.T)[::-1, ::-1] * (1 + 4 + 9 + 1)
    np.testing.assert_allclose(found.gram, expected, rtol=1e-5)
    assert not model._forward_hooks


def test_of_a_large_output_some_elements_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Calibration.__module__], "ELEMENTS", 5000)
    features = np.random.default_rng(6).normal(size=(4, 20000))
    model = _Model(features)
    found = calibrate(model, lambda: _run(model), spec=SPEC)
    expected = (features @ features.T)[::-1, ::-1] / 4
    np.testing.assert_allclose(found.gram.diagonal(), expected.diagonal(), rtol=0.1)
    assert (found.gram.diagonal() < 0.9 * 4 * expected.diagonal()).all()


def test_runs_that_do_not_fit() -> None:
    model = _Model(_features(7, 6))

    def unequal() -> None:
        _run(model)
        _run(model, timesteps=(5, 3, 1))

    with pytest.raises(ValueError, match=r"runs of one length, got \[3, 6\]"):
        calibrate(model, unequal, spec=SPEC)
    with pytest.raises(ValueError, match="got no run"):
        calibrate(model, lambda: None, spec=SPEC)
    model.features[2] = float("nan")
    with pytest.raises(ValueError, match="finite outputs"):
        calibrate(model, lambda: _run(model), spec=SPEC)
    assert not model._forward_hooks


def test_wrong_arguments() -> None:
    nothing: Any = None
    with pytest.raises(TypeError, match="target must be a diffusers pipeline or transformer"):
        calibrate(nothing, lambda: None)
    with pytest.raises(TypeError, match="generate must be a function, got NoneType"):
        calibrate(_Model(_features(8)), nothing)
    with pytest.raises(ValueError, match="one transformer of a known class, got 0"):
        calibrate(torch.nn.Linear(1, 1), lambda: None)
    model = tap_ext.accelerate(tiny.build(tiny.MODELS[0]))
    with pytest.raises(ValueError, match="must not be accelerated"):
        calibrate(model, lambda: None)


@pytest.mark.parametrize("kind", tiny.MODELS, ids=lambda kind: kind.name)
def test_a_real_transformer_from_calibration_to_run(kind: tiny.Tiny) -> None:
    """Untouched while it is watched, then as many full steps as asked, where they were placed."""
    model, arguments = tiny.build(kind), tiny.inputs(kind)
    plain = tiny.sample(model, arguments, 12)
    outputs = []
    found = calibrate(model, lambda: outputs.append(tiny.sample(model, arguments, 12)))
    assert torch.equal(outputs[0], plain) and found.num_steps == 12
    schedule = found.schedule(5)
    tap_ext.accelerate(model, schedule=schedule, forecast="hidden")
    tiny.sample(model, arguments, 12)
    assert tap_ext.stats(model).models[0].branches[0].full_steps == schedule.steps
