"""A run that is taken out and put back goes on as if nothing had been."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import Config, Plan, State, Step
from tap_ext.history import History
from tap_ext.peers import Adaptive
from tap_ext.state import FullStepWanted

STEPS, SHAPE = 16, (2, 5, 8)


def _series(seed: int) -> list[Tensor]:
    start, drift = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return [start + torch.sin(drift * step / 5) for step in range(STEPS)]


def _step(state: State, x: Tensor) -> Tensor:
    if state.begin() is Step.SKIP:
        try:
            return state.predict(x, 2 * x).clone()
        except FullStepWanted:
            state.begin(state.step, state.position, full=True)
    state.record(x, x * x, 2 * x)
    return x * x


def _serial(seed: int, config: Config) -> tuple[list[Tensor], State]:
    state = State(config.plan(STEPS), config)
    return [_step(state, x) for x in _series(seed)], state


def handed_over(history: History) -> History:
    return history


def pickled(history: History) -> History:
    copy: History = pickle.loads(pickle.dumps(history))
    return copy


@pytest.mark.parametrize("to", [None, "cpu"], ids=["handed over", "copied"])
@pytest.mark.parametrize("between", [handed_over, pickled])
@pytest.mark.parametrize(
    "config",
    [Config(window=4), Config(schedule=Adaptive(7)), Config(method="teacache")],
    ids=["windows", "adaptive", "teacache"],
)
def test_two_requests_that_take_turns_in_one_state(
    config: Config, between: Callable[[History], History], to: str | None
) -> None:
    state = State(config.plan(STEPS), config)
    fresh = state.detach()
    kept, series = [fresh, fresh], [_series(1), _series(2)]
    outputs: list[list[Tensor]] = [[], []]
    for step in range(STEPS):
        for request in (0, 1):
            state.attach(between(kept[request]))
            outputs[request].append(_step(state, series[request][step]))
            kept[request] = state.detach(to)
            assert state.step == -1 and state.log.full_steps == []
    for request, seed in enumerate((1, 2)):
        expected, alone = _serial(seed, config)
        assert alone.log.skip_steps, "nothing was predicted"
        assert all(map(torch.equal, outputs[request], expected))
        assert kept[request].log.full_steps == alone.log.full_steps
        assert kept[request].log.chosen() == alone.log.chosen()


def _begun(state: State, count: int) -> list[Tensor]:
    return [_step(state, x) for x in _series(1)[:count]]


def test_a_run_is_taken_out_within_a_step() -> None:
    config = Config(window=4)
    state = State(config=config)
    _begun(state, 4)
    assert state.begin() is Step.SKIP
    history = state.detach()
    with pytest.raises(RuntimeError, match=r"got no begin\(\)"):
        state.predict(*[_series(1)[4]] * 2)
    other = State(config=config)
    other.attach(history)
    x = _series(1)[4]
    assert torch.equal(other.predict(x, 2 * x), _serial(1, config)[0][4])


@pytest.mark.parametrize(
    "config", [Config(window=4), Config(schedule=Adaptive(7)), Config(method="teacache")]
)
def test_a_history_can_be_gone_on_with_twice(config: Config) -> None:
    expected, alone = _serial(1, config)
    state = State(config.plan(STEPS), config)
    _begun(state, 5)
    history, ends = state.detach(), []
    before = list(history.log.full_steps)
    probe = None if history.previous is None else history.previous.clone()
    for _ in range(2):
        state.attach(history)
        ends.append([_step(state, x) for x in _series(1)[5:]])
        assert state.log.full_steps == alone.log.full_steps
    assert all(map(torch.equal, *ends))
    assert all(map(torch.equal, ends[0], expected[5:]))
    assert history.log.full_steps == before
    assert probe is None or torch.equal(history.previous, probe)


def _addresses(state: State) -> list[Any]:
    return [stack.planes.data_ptr() for stack in (state._probes, state._features)]


def test_buffers_stay_where_they_are_when_the_history_is_copied() -> None:
    state = State(config=Config(window=4))
    _begun(state, 5)
    before, held = _addresses(state), state.nbytes
    history = state.detach("cpu")
    assert state.nbytes == held
    state.attach(history)
    assert _addresses(state) == before


def test_handing_over_leaves_nothing_and_copies_nothing() -> None:
    state = State(config=Config(window=4))
    _begun(state, 3)
    before, held = _addresses(state), state.nbytes
    history = state.detach()
    assert [history.probes.planes.data_ptr(), history.features.planes.data_ptr()] == before
    assert (history.nbytes, state.nbytes) == (held, 0)


def test_an_empty_history_begins_anew() -> None:
    state = State(config=Config(window=4))
    history = state.detach()
    assert history.nbytes == 0
    _begun(state, 5)
    state.attach(history)
    assert all(map(torch.equal, _begun(state, STEPS), _serial(1, Config(window=4))[0]))


def test_inference_mode_makes_no_difference() -> None:
    state = State(config=Config(window=4))
    with torch.inference_mode():
        _begun(state, 5)
        other = State(config=state.config)
        other.attach(state.detach())
    _begun(other, 3)  # in-place updates of inference tensors would be refused


def test_the_plan_comes_with_the_run() -> None:
    state, other = State(config=Config(window=4)), State(Plan(window=9), Config(window=4))
    _begun(state, 5)
    other.attach(state.detach())
    for x in _series(1)[5:]:
        _step(other, x)
    assert other.log.full_steps == _serial(1, Config(window=4))[1].log.full_steps


def test_another_configuration_is_refused() -> None:
    history = State(config=Config(order=1)).detach()
    with pytest.raises(ValueError, match="history must be of this state's configuration"):
        State(config=Config(order=2)).attach(history)


def test_a_run_that_is_pushed_out_keeps_its_counts() -> None:
    """The buffer that counted goes on with another run, or from nothing."""
    config = Config(window=4)
    other = State(config=config)
    _begun(other, 8)
    expected, history = other.log.chosen(), other.detach()
    for kept in (history, State(config=config).detach()):
        state = State(config=config)
        _begun(state, 5)
        log, chosen = state.log, state.log.chosen()
        state.attach(kept)
        assert log.chosen() == chosen != expected
        assert state.log.chosen() == (expected if kept is history else {})
    _begun(state, 8)
    assert state.log.chosen() == expected


def test_all_of_a_history_goes_where_it_is_sent() -> None:
    state = State(config=Config(method="teacache"))
    _begun(state, 8)
    history = state.detach("meta")
    tensors = [history.probes.planes, history.features.planes, history.previous, history.log.counts]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_what_is_taken_out_in_inference_mode_can_be_written_to_later() -> None:
    state = State(config=Config(method="teacache"))
    with torch.inference_mode():
        _begun(state, 8)
        history = state.detach("cpu")
    for tensor in (history.probes.planes, history.features.planes, history.previous):
        assert tensor is not None and not tensor.is_inference()
