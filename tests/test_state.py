"""The state against the same arithmetic written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tap_ext import Config, Plan, State, Step
from tap_ext.modulation import Modulation
from tap_ext.plan import Listed
from tap_ext.predictors import Newton, Reuse, Taylor, rows
from tap_ext.state import FullStepWanted

SHAPE = (2, 5, 8)


def _series(degree: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    """A polynomial of the step index per element, evaluated at 40 steps."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(degree + 1, *shape, generator=generator, dtype=torch.float64)
    times = torch.arange(40, dtype=torch.float64) / 10
    return [sum(w * t**i for i, w in enumerate(weights)).float() for t in times]


def _drive(
    state: State, probes: list[Tensor], features: list[Tensor], hidden: list[Tensor]
) -> dict[int, Tensor]:
    """Run the state over a series; returns the prediction of every skip step."""
    predicted = {}
    for step, (probe, feature, base) in enumerate(zip(probes, features, hidden, strict=True)):
        if state.begin() is Step.FULL:
            state.record(base, base + feature, probe)
        else:
            predicted[step] = state.predict(base, probe).clone()
    return predicted


@pytest.mark.parametrize("forecast", ["residual", "hidden"])
def test_a_polynomial_is_predicted_exactly(forecast: str) -> None:
    config = Config(window=5, forecast=forecast, predictors=(Newton(2),))
    state = State(config=config)
    probes, features = _series(2, 1), _series(2, 2)
    hidden = _series(1 if forecast == "residual" else 2, 3)
    if forecast == "hidden":
        features = [f - h for f, h in zip(features, hidden, strict=True)]
    predicted = _drive(state, probes, features, hidden)
    assert len(predicted) == 40 - len(Plan.full_steps(40, window=5))
    for step, value in predicted.items():
        truth = hidden[step] + features[step]
        torch.testing.assert_close(value, truth, rtol=2e-4, atol=2e-4)


def test_each_token_takes_the_row_that_fits_its_probe() -> None:
    """Half of the tokens stand still, half move on a line, which only Taylor fits."""
    times = torch.arange(12.0)
    moving = torch.zeros(1, 6, 1)
    moving[:, 3:] = 1
    direction = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    start = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(1))
    probes = [start + t * moving * direction for t in times]
    # the features move where the probes stand still: a wrong choice shows
    features = [start + t * (1 - moving) * direction for t in times]
    zero = [torch.zeros(1, 6, 4)] * 12
    state = State(config=Config(window=6, predictors=(Taylor(1), Reuse())))
    seen = []
    state.on_predict = lambda step, index, rows, distance: seen.append(index.clone())
    predicted = _drive(state, probes, features, zero)
    # on still tokens both rows tie up to rounding; only the moving ones tell
    assert all((index[0, 3:] == 0).all() for index in seen)
    for step, value in predicted.items():
        torch.testing.assert_close(value[:, 3:], features[step][:, 3:], rtol=1e-5, atol=1e-5)
    assert state.log.chosen()["Taylor(order=1, shift=0.0)"] >= 3 * len(predicted)


@pytest.mark.parametrize(
    "shape", [(7, 8), (2, 7, 8), (2, 3, 7, 8), (0, 7, 8), (2, 0, 8), (1, 1, 1)]
)
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    state = State(config=Config(window=4))
    series = _series(1, shape=shape)
    predicted = _drive(state, series, series, series)
    assert all(value.shape == shape for value in predicted.values())
    flat = State(config=Config(window=4))
    again = [value if len(shape) == 2 else value.flatten(0, -3) for value in series]
    for step, value in _drive(flat, again, again, again).items():
        assert torch.equal(value.reshape(shape), predicted[step])


def test_probe_and_feature_may_differ_in_channels() -> None:
    state = State(config=Config(window=4, predictors=(Newton(1),)))
    probes, features = _series(1, 1, (1, 5, 3)), _series(1, 2, (1, 5, 16))
    hidden = _series(0, 3, (1, 5, 16))
    for step, value in _drive(state, probes, features, hidden).items():
        torch.testing.assert_close(value, hidden[step] + features[step], rtol=1e-4, atol=1e-4)


def test_reset_equals_a_new_state_and_keeps_the_buffers() -> None:
    state = State(config=Config(window=4))
    first, second = _series(2, 1), _series(2, 2)
    _drive(state, first, first, first)
    held = state.nbytes
    state.reset()
    again = _drive(state, second, second, second)
    fresh = _drive(State(config=Config(window=4)), second, second, second)
    assert all(torch.equal(again[step], fresh[step]) for step in fresh)
    assert state.nbytes == held


def test_nbytes_is_two_stacks() -> None:
    state = State(config=Config(window=4))
    assert state.nbytes == 0
    series = _series(1)
    _drive(state, series, series, series)
    assert state.nbytes == 4 * 2 * 3 * int(np.prod(SHAPE))


@pytest.mark.parametrize("positions", [[0, 1, 1, 2], [0, 1, 0.5, 2], [3, 3, 3, 3]])
def test_repeated_or_turning_positions_lower_the_order(positions: list[float]) -> None:
    state = State(Plan(schedule=Listed((0, 1, 2))), Config())
    series = _series(2)
    for step, position in enumerate(positions):
        if state.begin(position=position) is Step.FULL:
            state.record(series[step], 2 * series[step], series[step])
        else:
            assert torch.isfinite(state.predict(series[step], series[step])).all()
    assert state.log.skip_steps == [3]


def test_a_position_that_is_not_finite_asks_for_a_full_step() -> None:
    state = State(Plan(schedule=Listed((0,))), Config())
    series = _series(1)
    state.begin()
    state.record(series[0], series[0], series[0])
    assert state.begin(position=float("nan")) is Step.FULL


def test_the_first_step_is_full_whatever_the_plan_says() -> None:
    assert State(Plan(schedule=Listed((5,))), Config()).begin() is Step.FULL


def test_a_full_step_that_was_never_recorded_is_asked_for_again() -> None:
    state = State(Plan(schedule=Listed((0, 1))), Config())
    series = _series(1)
    state.begin()
    state.record(series[0], series[0], series[0])
    assert state.begin() is Step.FULL  # and then it fails
    assert state.begin() is Step.FULL
    state.record(series[2], series[2], series[2])
    assert state.begin() is Step.SKIP


def test_calls_out_of_order_are_refused() -> None:
    state = State(config=Config())
    x = _series(0)[0]
    with pytest.raises(RuntimeError, match=r"record\(\) must follow a begin\(\)"):
        state.record(x, x, x)
    state.begin()
    with pytest.raises(RuntimeError, match=r"predict\(\) must follow .* Step.SKIP, got Step.FULL"):
        state.predict(x, x)
    state.record(x, x, x)
    with pytest.raises(RuntimeError, match=r"got no begin\(\)"):
        state.record(x, x, x)


@settings(max_examples=15)
@given(scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
def test_predictions_do_not_depend_on_the_unit_of_the_positions(
    scale: float, offset: float
) -> None:
    series = _series(2)[:10]
    plain = _drive(State(config=Config(window=4)), series, series, series)
    state = State(config=Config(window=4))
    for step, value in enumerate(series):
        if state.begin(position=offset - scale * step) is Step.FULL:
            state.record(value, 2 * value, value)
        else:
            predicted = state.predict(value, value)
            torch.testing.assert_close(predicted, plain[step], rtol=1e-3, atol=1e-3)


class _Strict:
    """Follows a run: every forecast of step 5 and above is turned down once seen."""

    compares = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[float], list[float], list[float]]] = []
        self.full: list[int] = []

    def is_full(self, step: int) -> bool:
        return step < 3

    def saw(self, step: int, look: Any) -> bool:
        self.seen.append((step, look.distance(), look.change(), look.error()))
        return step >= 5

    def recorded(self, step: int) -> None:
        self.full.append(step)


class _Schedule:
    def __init__(self) -> None:
        self.follower = _Strict()

    def is_full(self, step: int, num_steps: int | None) -> bool:
        return step == 0

    def follow(self, num_steps: int | None) -> _Strict:
        return self.follower


def test_a_follower_is_shown_every_skip_step_and_may_turn_it_down() -> None:
    schedule, config = _Schedule(), Config(order=1)
    state = State(Plan(num_steps=8, schedule=schedule), config)
    plain = State(Plan(schedule=Listed((0, 1, 2))), config)
    series, probes = _series(2, 1), [3 + value for value in _series(2, 2)]
    for step in range(8):
        if step < 5:
            kinds = {s.begin() for s in (state, plain)}
            assert kinds == {Step.FULL if step < 3 else Step.SKIP}
        else:
            assert state.begin() is Step.SKIP
            with pytest.raises(FullStepWanted):
                state.predict(series[step], probes[step])
        if step in (3, 4):  # what follows a run changes nothing in its forecasts
            got = state.predict(series[step], probes[step])
            expected = plain.predict(series[step], probes[step])
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
            continue
        for each in (state, plain)[: 2 if step < 3 else 1]:
            each.record(series[step], 2 * series[step], probes[step])
    assert schedule.follower.full == state.log.full_steps == [0, 1, 2, 5, 6, 7]
    assert state.log.skip_steps == [3, 4]
    for step, distance, change, _ in schedule.follower.seen:
        now, before = probes[step].double(), probes[step - 1].double()
        expected = (now - before).abs().mean((1, 2)) / before.abs().mean((1, 2))
        np.testing.assert_allclose(change, expected, rtol=1e-5)
        assert len(distance) == SHAPE[0] and min(distance) >= 0


def test_what_a_follower_sees_is_the_chosen_candidates() -> None:
    schedule = _Schedule()
    state = State(Plan(num_steps=8, schedule=schedule), Config(predictors=(Newton(1),)))
    probes = [3 + value for value in _series(2, 2)]
    for step in range(4):
        if state.begin() is Step.FULL:
            state.record(probes[step], probes[step], probes[step])
        else:
            state.predict(probes[step], probes[step])
    ((step, distance, _, error),) = schedule.follower.seen
    predicted, true = (2 * probes[2] - probes[1]).double(), probes[3].double()
    cosine = torch.nn.functional.cosine_similarity(predicted, true, dim=-1)
    np.testing.assert_allclose(distance, (1 - cosine).mean(1), rtol=1e-2, atol=1e-7)
    expected = ((predicted - true).abs() / (true.abs() + 1e-10)).mean((1, 2))
    assert step == 3
    np.testing.assert_allclose(error, expected, rtol=1e-3)


def test_a_follower_begins_anew_with_every_run() -> None:
    schedule = _Schedule()
    state = State(Plan(num_steps=8, schedule=schedule), Config())
    x = _series(1)[0]
    state.begin()
    state.record(x, x, x)
    state.reset()
    schedule.follower = _Strict()
    state.begin()
    state.record(x, x, x)
    assert schedule.follower.full == [0]


def test_what_is_reset_has_nothing_to_hand_over() -> None:
    state = State(config=Config(window=4))
    _drive(state, *[_series(1)[:6]] * 3)
    log, chosen = state.log, state.log.chosen()
    assert sum(chosen.values()) > 0
    state.reset()
    assert log.chosen() == chosen  # outlives the buffer
    history = state.detach("cpu")
    assert history.probes.planes is history.features.planes is None
    _drive(state, *[_series(1)[:6]] * 3)
    assert state.log.chosen() == chosen  # counted from nothing again


def test_a_step_that_was_predicted_and_then_wanted_in_full_counts_as_full() -> None:
    state, series = State(config=Config(window=6)), _series(1)
    _drive(state, *[series[:6]] * 3)
    assert state.log.skip_steps == [3, 4, 5]
    assert state.begin(5, full=True) is Step.FULL
    state.record(series[5], series[5], series[5])
    assert (state.log.full_steps, state.log.skip_steps) == ([0, 1, 2, 5], [3, 4])


@pytest.mark.parametrize("order", [0, 2])
def test_a_history_fits_what_is_alike(order: int) -> None:
    state, x = State(config=Config(order=order)), _series(0)[0]
    wide = torch.zeros(*SHAPE[:-1], 3)
    assert not state.fits(x, wide)
    state.begin()
    state.record(x, x, wide)
    assert state.fits(x, wide) is True
    for hidden, probe in ((x, x), (wide, wide), (x.half(), wide), (x[:1], wide[:1])):
        assert state.fits(hidden, probe) is False


@pytest.mark.parametrize("length", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("stand", [False, True], ids=["moves", "stands still"])
def test_candidates_are_the_predictors_at_positions_in_steps(length: float, stand: bool) -> None:
    """Also where the last full step was not the last one, and where a position is repeated."""
    family = (Taylor(2), Taylor(1, 0.5), Reuse())
    state = State(Plan(schedule=Listed((0, 1, 2))), Config(predictors=family))
    seen: list[Any] = []
    state.on_predict = lambda *given: seen.append([given[0], *(v for v in given[1:])])
    x = _series(0)[0]
    positions = [9 - length * step for step in range(6)]
    if stand:
        positions[3:] = [positions[2]] * 3
    for step, position in enumerate(positions):
        if state.begin(position=position) is Step.FULL:
            state.record(x, x, x)
        else:
            state.predict(x, x)
            number, index, table, distance = seen[-1]
            unit = length if not stand else 1.0
            past = [p / unit for p in (positions[2], positions[1], positions[0])]
            expected = rows(state.family, past, position / unit, state.config.planes)
            assert number == step and table.source == expected.source
            np.testing.assert_allclose(table.difference, expected.difference, atol=1e-9)
            weights = state._candidates.weights[: len(table)].numpy()  # of differences by position
            scaled = expected.difference * unit ** np.arange(state.config.planes)
            np.testing.assert_allclose(weights, scaled, rtol=1e-6, atol=1e-9)
            assert index.shape == distance.shape == SHAPE[:-1]
    assert len(seen) == 3


def test_a_prediction_is_the_callers_to_keep() -> None:
    state, series = State(config=Config(window=6)), _series(1)
    kept, copies = [], []
    for x in series[:6]:
        if state.begin() is Step.FULL:
            state.record(x, x, x)
        else:
            kept.append(state.predict(x, x))
            copies.append(kept[-1].clone())
    assert len(kept) == 3 and all(map(torch.equal, kept, copies))


def test_another_shape_begins_another_history() -> None:
    state = State(config=Config(window=6))
    for x in (*_series(1)[:6], *_series(1, shape=(2, 6, 8))[:4]):
        full = x.shape != SHAPE and len(state.log.full_steps) < 6
        if state.begin(full=full) is Step.FULL:
            state.record(x, x, x)
        else:
            assert state.predict(x, x).shape == x.shape
    assert state.nbytes == 4 * 2 * 3 * 2 * 6 * 8


def test_a_part_of_a_step_out_of_order_is_refused() -> None:
    state, x = State(config=Config()), _series(0)[0]
    state.begin()
    state.record(x, x, x)
    with pytest.raises(RuntimeError, match=r"predict\(\) must follow"):
        state.apply(x, x)


def test_what_a_state_says_of_itself() -> None:
    state, x = State(Plan(schedule=Listed((0,))), Config()), _series(0)[0]
    assert (state.due, state.device, state.decides_from_data) == (None, None, False)
    assert state.begin() is state.due is Step.FULL
    state.record(x, x, x)
    assert state.due is None and state.device == torch.device("cpu")
    assert state.begin() is state.due is Step.SKIP
    following = State(Plan(num_steps=8, schedule=_Schedule()), Config())
    following.begin()
    assert following.decides_from_data is True


def test_channels_that_are_not_innermost_make_no_difference() -> None:
    series = _series(2)[:8]
    plain = _drive(State(config=Config(window=4)), series, series, series)
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in series]
    every_other = [x.repeat_interleave(2, -1)[..., ::2] for x in series]
    assert (turned[0].stride(-1), every_other[0].stride(-1)) == (SHAPE[1], 2)
    for laid in (turned, every_other):
        for step, value in _drive(State(config=Config(window=4)), laid, laid, laid).items():
            assert torch.equal(value, plain[step])


class _Once(_Schedule):
    asked = 0

    def follow(self, num_steps: int | None) -> _Strict:
        self.asked += 1
        return self.follower


def test_a_run_is_followed_by_one_follower() -> None:
    schedule = _Once()
    state = State(Plan(num_steps=8, schedule=schedule), Config())
    _drive(state, *[_series(1)[:5]] * 3)
    assert schedule.asked == 1


def test_the_last_probe_is_held_where_steps_are_compared_and_stays_in_place() -> None:
    schedule = _Once()
    state, x = State(Plan(num_steps=8, schedule=schedule), Config()), _series(1)
    _drive(state, x[:1], x[:1], x[:1])
    assert state._previous is not None
    address = state._previous.data_ptr()
    _drive(state, x[1:4], x[1:4], x[1:4])
    assert state._previous.data_ptr() == address and torch.equal(state._previous, x[3])
    schedule.follower.compares = False
    alone = State(Plan(num_steps=8, schedule=schedule), Config())
    _drive(alone, x[:1], x[:1], x[:1])
    assert alone.detach().previous is None


@pytest.mark.parametrize("forecast", ["residual", "hidden"])
@pytest.mark.parametrize("followed", [False, True])
def test_a_probe_that_is_known_by_its_modulation_is_as_one_that_is_written(
    forecast: str, followed: bool
) -> None:
    generator = torch.Generator().manual_seed(7)
    shift, scale = torch.randn(2, SHAPE[0], SHAPE[-1], generator=generator)
    modulation, config = Modulation(shift, scale, 1e-6), Config(window=6, forecast=forecast)
    series, states = _series(2), []
    for _ in range(2):
        plan = Plan(num_steps=8, schedule=_Schedule()) if followed else Plan(window=6)
        states.append(State(plan, config))
    seen: list[list[Any]] = [[], []]
    for number, state in enumerate(states[: 0 if forecast == "hidden" else 2]):
        state.on_predict = lambda *given, n=number: seen[n].append((given[1].clone(), given[3]))
    for x in series[:5]:
        assert states[0].fits(x, modulation) is states[1].fits(x, modulation.of(x))
        if states[0].begin() is states[1].begin() is Step.FULL:
            for state in states:
                state.record(x, 2 * x, modulation.of(x))
        else:
            made = [
                s.predict(x, p) for s, p in zip(states, (modulation, modulation.of(x)), strict=True)
            ]
            torch.testing.assert_close(*made)
    assert states[0].log.skip_steps == [3, 4] and states[0].log.chosen() == states[1].log.chosen()
    assert len(seen[0]) == len(seen[1]) == (0 if forecast == "hidden" else 2)
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_rows_are_remembered_and_not_without_end() -> None:
    state = State(Plan(schedule=Listed((0,))), Config(predictors=(Taylor(1), Reuse())))
    feature, sizes = torch.ones(1, 2, 3), []
    for step in range(300):
        if state.begin() is Step.FULL:
            state.record(feature, feature, feature)
        else:
            state.predict(feature, feature)
            sizes.append(len(state._candidates._uploads))
        assert state.step == step
    assert sizes[:3] == [1, 2, 3]
    assert max(sizes) == 256
