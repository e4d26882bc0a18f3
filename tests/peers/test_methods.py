"""The peers against the formulas of their papers and codes, written out here once more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext import Config, State, Step
from tap_ext.peers import METHODS, SpeCa, TeaCache, fitted_window, threshold_for
from tap_ext.plan import Listed, Windowed
from tests import tiny

FLUX = tiny.MODELS[0]


def _series(seed: int, steps: int = 30, shape: tuple[int, ...] = (1, 5, 8)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, *shape, generator=generator)
    return [3 + waves[0] + waves[1] * t / 10 + waves[2] * (t / 10) ** 2 for t in range(steps)]


def _drive(
    config: Config, hidden: list[Tensor], output: list[Tensor], probe: list[Tensor]
) -> tuple[State, dict[int, Tensor]]:
    state = State(config.plan(len(hidden)), config)
    predicted = {}
    for step, (h, o, p) in enumerate(zip(hidden, output, probe, strict=True)):
        if state.begin() is Step.SKIP:
            try:
                predicted[step] = state.predict(h, p).clone()
                continue
            except tap_ext.state.FullStepWanted:
                assert state.begin(step, full=True) is Step.FULL
        state.record(h, o, p)
    return state, predicted


def _fulls(method: str, probe: list[Tensor] | None = None, **fields: Any) -> list[int]:
    probe = _series(3) if probe is None else probe
    state, _ = _drive(Config(method=method, **fields), _series(1), _series(2), probe)
    return state.log.full_steps


# FORA


def test_fora_adds_the_last_residual() -> None:
    hidden, output, probe = (_series(seed) for seed in (1, 2, 3))
    state, predicted = _drive(Config(method="fora", window=7), hidden, output, probe)
    assert state.log.full_steps == [0, 7, 14, 21, 28]
    for step, value in predicted.items():
        last = step - step % 7
        torch.testing.assert_close(value, hidden[step] + (output[last] - hidden[last]))


# TaylorSeer


def test_taylorseer_is_its_codes_recursion_on_the_residual() -> None:
    """derivative_approximation and taylor_formula of the published code, in float64."""
    hidden, output, probe = (_series(seed) for seed in (1, 2, 3))
    config = Config(method="taylorseer", window=6)
    state, predicted = _drive(config, hidden, output, probe)
    assert state.log.full_steps == [0, 1, 2, 8, 14, 20, 26]
    factors: list[np.ndarray[Any, Any]] = []
    last = 0
    for step in range(30):
        if step in state.log.full_steps:
            updated = [(output[step] - hidden[step]).double().numpy()]
            if step > 3 - 2:
                for old in factors[:2]:
                    updated.append((updated[-1] - old) / (step - last))
            factors, last = updated, step
        else:
            x = step - last
            residual = sum(f * x**i / (1, 1, 2)[i] for i, f in enumerate(factors))
            expected = torch.from_numpy(residual + hidden[step].double().numpy()).float()
            torch.testing.assert_close(predicted[step], expected, rtol=1e-4, atol=1e-4)


def test_taylorseers_first_window_is_of_order_one() -> None:
    rows = Config(method="taylorseer").family()[0].weights(np.array([2.0, 1.0, 0.0]), 5.0)
    np.testing.assert_allclose(rows, [4, -3, 0])  # F0 + 3 (F0 - F1)


# TeaCache


def _teacache(probe: list[Tensor], threshold: float, polynomial: tuple[float, ...]) -> list[int]:
    """The published loop."""
    full, total, previous = [], 0.0, None
    for step, now in enumerate(probe):
        if step not in (0, len(probe) - 1):
            assert previous is not None
            change = (now - previous).abs().mean() / previous.abs().mean()
            total += float(np.poly1d(polynomial)(change.item()))
        if step in (0, len(probe) - 1) or total >= threshold:
            full.append(step)
            total = 0.0
        previous = now
    return full


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("polynomial", [(1.0, 0.0), (30.0, -1.0, 0.5, 0.01)])
def test_teacache_is_the_published_loop(threshold: float, polynomial: tuple[float, ...]) -> None:
    probe = _series(3)
    expected = _teacache(probe, threshold, polynomial)
    assert 2 < len(expected) < 30
    assert _fulls("teacache", schedule=TeaCache(threshold, polynomial)) == expected


def test_teacache_reuses_the_last_residual() -> None:
    hidden, output, probe = (_series(seed) for seed in (1, 2, 3))
    config = Config(method="teacache", schedule=TeaCache(0.3))
    state, predicted = _drive(config, hidden, output, probe)
    for step, value in predicted.items():
        last = max(full for full in state.log.full_steps if full < step)
        torch.testing.assert_close(value, hidden[step] + (output[last] - hidden[last]))


def test_a_batch_follows_its_most_demanding_row() -> None:
    still = [torch.ones(1, 5, 8)] * 30
    moving = _series(3)
    alone = _fulls("teacache", moving, schedule=TeaCache(0.3))
    rule = TeaCache(0.3)
    wide = [torch.cat(pair) for pair in zip(still, moving, strict=True)]
    state, _ = _drive(Config(method="teacache", schedule=rule), wide, wide, wide)
    assert state.log.full_steps == alone


def test_a_change_that_is_no_number_asks_for_a_full_step() -> None:
    probe = [*_series(3)[:10], torch.full((1, 5, 8), torch.nan), *_series(3)[11:]]
    assert 10 in _fulls("teacache", probe, schedule=TeaCache(1e6))


# SpeCa


def _speca(errors: dict[int, float], rule: SpeCa, steps: int) -> list[int]:
    """The published state machine, over the errors that every step would show."""
    full, counter, failed = [0], 0, False
    for step in range(1, steps):
        start = step < rule.first_enhance and counter > 0
        if counter and (failed or start or counter >= rule.maximum):
            full.append(step)
            counter, failed = 0, False
            continue
        counter += 1
        threshold = max(rule.base * rule.decay ** (step / steps), 0.1)
        failed = counter >= rule.minimum and errors[step] > threshold
    return full


class _Shown:
    def __init__(self, error: float) -> None:
        self.value = error

    def error(self) -> list[float]:
        return [0.0, self.value]


@pytest.mark.parametrize("rule", [SpeCa(), SpeCa(1.0, 0.1, 4, 12), SpeCa(3.0, 0.5, 1, 3)])
def test_speca_is_the_published_state_machine(rule: SpeCa) -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed).exponential(3.0, 50)
        errors = dict(enumerate(draw.tolist()))
        follower = rule.follow(50)
        full = []
        for step in range(50):
            if follower.is_full(step):
                full.append(step)
                follower.recorded(step)
            else:
                assert not follower.saw(step, _Shown(errors[step]))  # type: ignore[arg-type]
        assert full == _speca(errors, rule, 50)
        assert full[:2] == [0, 2]


def test_speca_measures_the_relative_error_of_the_probe() -> None:
    """At a threshold just below and above the error that one step must show."""
    hidden, output, probe = (_series(seed) for seed in (1, 2, 3))
    slope = (probe[2] - probe[0]) / 2
    predicted = probe[2] + 2 * slope
    error = float(((predicted - probe[4]).abs() / (probe[4].abs() + 1e-10)).mean())
    for factor, expected in ((0.99, True), (1.01, False)):
        rule = SpeCa(base=error * factor, decay=1.0, floor=0.0)
        config = Config(method="speca", schedule=rule)
        state, _ = _drive(config, hidden, output, probe)
        assert (5 in state.log.full_steps) is expected


def test_speca_needs_the_number_of_steps() -> None:
    with pytest.raises(ValueError, match="SpeCa needs num_steps"):
        SpeCa().follow(None)
    assert SpeCa(decay=1.0).follow(None).threshold(7) == 7.0


# Budgets


@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize("steps", [4, 8, 28, 50])
def test_the_fitted_window_is_the_shortest_that_fits(warmup: int, steps: int) -> None:
    for count in range(1, steps + 1):
        fitted = fitted_window(count, warmup, steps)
        assert len(fitted.full_steps(steps)) <= count
        if fitted.window > 1:
            shorter = Windowed(fitted.window - 1, fitted.warmup)
            assert len(shorter.full_steps(steps)) > count


def test_methods_keep_their_own_schedule_at_a_budget() -> None:
    assert Config(method="fora", full_steps=8).plan(50).full_steps() == list(range(0, 50, 7))
    seer = Config(method="taylorseer", full_steps=8).plan(50).full_steps()
    assert seer == [0, 1, 2, 10, 18, 26, 34, 42]
    assert Config(method="fora", speedup=5).plan(None).is_full(5)


@pytest.mark.parametrize("method", ["teacache", "speca"])
def test_a_method_with_a_threshold_takes_no_budget(method: str) -> None:
    with pytest.raises(ValueError, match="full_steps must not be given beside schedule"):
        Config(method=method, full_steps=8)


def test_a_threshold_is_found_for_a_budget() -> None:
    tried = []

    def full_steps(threshold: float) -> float:
        tried.append(threshold)
        return min(50.0, 4.0 / threshold)

    found = threshold_for(full_steps, 8.0, tries=30)
    assert found == pytest.approx(0.5, rel=1e-3) and found in tried


# Through a model


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"steps"}))
def test_every_method_runs_through_a_model(method: str) -> None:
    model = tiny.build(FLUX)
    truth = tiny.sample(model, tiny.inputs(FLUX), 12)
    fields: dict[str, Any] = {"teacache": {"schedule": TeaCache(0.3)}}.get(method, {})
    if method == "speca":
        fields = {"schedule": SpeCa(base=0.5, decay=1.0, maximum=3)}
    tap_ext.accelerate(model, method=method, **fields)
    fast = tiny.sample(model, tiny.inputs(FLUX), 12)
    again = tiny.sample(model, tiny.inputs(FLUX), 12)
    assert torch.equal(fast, again) and not torch.equal(fast, truth)
    assert (fast - truth).norm() < 0.2 * truth.norm()
    stats = tap_ext.stats(model)
    (branch,) = stats.models[0].branches
    assert not stats.models[0].fallbacks
    assert sorted(branch.full_steps + branch.skip_steps) == list(range(12))
    assert 1 < len(branch.full_steps) < 12


def test_a_step_wanted_in_full_is_the_models_own() -> None:
    """A threshold of zero makes every step full, each by way of a skip view that is given up."""
    model = tiny.build(FLUX)
    truth = tiny.sample(model, tiny.inputs(FLUX), 8)
    tap_ext.accelerate(model, method="teacache", schedule=TeaCache(0.0))
    assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), 8), truth)
    assert tap_ext.stats(model).full == 8 and tap_ext.stats(model).skip == 0


def test_an_explicit_field_wins_over_the_method() -> None:
    assert Config(method="fora", forecast="hidden").forecast == "hidden"
    assert Config(method="fora", warmup=2).plan(20).full_steps()[:3] == [0, 1, 7]
    assert Config(method="speca", schedule=Listed((0, 5))).plan(9).follow() is None
