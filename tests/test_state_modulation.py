"""A state that is told what makes the probe, instead of the probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tap_ext import Config, Plan, State, Step
from tap_ext.modulation import Modulation
from tap_ext.plan import Listed
from tests.test_state import _Schedule

SHAPE, FULL, STEPS = (2, 7, 16), (0, 3, 6), 9


def _inputs() -> list[tuple[Tensor, Tensor, Tensor, Modulation]]:
    """(hidden, what leaves the blocks, the probe, what makes it) of every step."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rest, line, curve = normal(3, *SHAPE)
    shift, scale = 0.3 * normal(2, 2, 2, 16)
    steps = []
    for step in range(STEPS):
        t = step / STEPS
        hidden = rest + t * line + t * t * curve
        made = Modulation(shift[0] + t * shift[1], scale[0] + t * scale[1], 1e-5)
        normed = layer_norm(hidden, (16,), eps=made.eps)
        probe = normed * (1 + made.scale[:, None]) + made.shift[:, None]
        steps.append((hidden, hidden * 2 + t * curve, probe, made))
    return steps


def _drive(state: State, *, unwritten: bool) -> list[Tensor]:
    """Prediction of every skip step."""
    found: list[Tensor] = []
    for hidden, output, probe, made in _inputs():
        if state.begin() is Step.FULL:
            state.record(hidden, output, probe)
        else:
            found.append(state.predict(hidden, made if unwritten else probe))
    return found


def _traced(state: State, *, unwritten: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prediction of every skip step, which rows the tokens took, and how far those were."""
    seen: list[tuple[Tensor, Tensor]] = []
    state.on_predict = lambda step, index, table, far: seen.append((index, far))
    return [(p, *s) for p, s in zip(_drive(state, unwritten=unwritten), seen, strict=True)]


def _state(**changes: Any) -> State:
    return State(Plan(schedule=Listed(FULL)), Config(**changes))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("forecast", ["residual", "hidden"])
def test_predicts_as_from_the_probe(forecast: str, metric: str) -> None:
    states = [_state(forecast=forecast, metric=metric) for _ in range(2)]
    plain, told = (_traced(s, unwritten=u) for s, u in zip(states, (False, True), strict=True))
    assert len(plain) == STEPS - len(FULL)
    for (expected, rows, _), (found, chosen, _) in zip(plain, told, strict=True):
        assert torch.equal(rows, chosen) and torch.equal(expected, found)
    assert len({int(row) for _, rows, _ in plain for row in rows.flatten()}) > 1
    assert states[0].log.chosen() == states[1].log.chosen()


def test_a_trace_changes_nothing() -> None:
    plain, traced = _state(), _state()
    alone, seen = _drive(plain, unwritten=True), _traced(traced, unwritten=True)
    assert plain.log.chosen() == traced.log.chosen()
    for expected, (found, rows, far) in zip(alone, seen, strict=True):
        assert torch.equal(expected, found)
        assert far.shape == rows.shape and (far >= 0).all()


def test_fits_by_the_hidden_state() -> None:
    state = _state()
    hidden, output, probe, made = _inputs()[0]
    state.begin()
    state.record(hidden, output, probe)
    assert state.fits(hidden, made)
    assert not state.fits(hidden[:, :-1], made)
    assert not state.fits(hidden.half(), made)
    wide = State(Plan(schedule=Listed(FULL)))
    wide.begin()
    wide.record(hidden, output, torch.cat([probe, probe], -1))
    assert not wide.fits(hidden, made)


def test_who_follows_is_shown_the_probe_written() -> None:
    schedule = _Schedule()
    state = State(Plan(num_steps=8, schedule=schedule), Config(order=1))
    hidden, output, probe, made = _inputs()[0]
    for _ in range(4):
        if state.begin() is Step.FULL:
            state.record(hidden, output, probe)
        else:
            state.predict(hidden, made)
    ((step, distance, change, error),) = schedule.follower.seen
    assert step == 3 == state.log.skip_steps[0]
    assert max(*distance, *change, *error) < 1e-5  # nothing has moved


def test_writes_a_probe_when_asked() -> None:
    for hidden, _, probe, made in _inputs():
        torch.testing.assert_close(made.of(hidden), probe)
