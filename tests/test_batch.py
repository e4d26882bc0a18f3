"""Rows of a batch, each at its own step, against the same requests run one at a time."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import Config, Plan, State, Step
from tap_ext.batch import Batch
from tap_ext.peers import Adaptive

TOKENS, WIDTH, LENGTH = 6, 8, 14


def _blocks(hidden: Tensor) -> Tensor:
    """Elementwise, so that a row is bit-equal in any batch."""
    return torch.sin(3 * hidden) + hidden * hidden


class _Request:
    """One run's inputs, its state, and how far it is."""

    def __init__(self, seed: int, steps: int, rows: int, config: Config, shape: int = TOKENS):
        generator = torch.Generator().manual_seed(seed)
        start, drift = torch.randn(2, rows, shape, WIDTH, generator=generator)
        self.hidden = [start + step / 10 * drift for step in range(steps)]
        self.probe = [torch.cos(hidden) for hidden in self.hidden]
        self.state = State(config.plan(steps), config)
        self.outputs: list[Tensor] = []

    @property
    def step(self) -> int:
        return len(self.outputs)

    @property
    def done(self) -> bool:
        return self.step == len(self.hidden)


def _alone(request: _Request) -> None:
    from tap_ext.state import FullStepWanted

    for hidden, probe in zip(request.hidden, request.probe, strict=True):
        state = request.state
        due = state.begin()
        if due is Step.SKIP:
            try:
                request.outputs.append(state.predict(hidden, probe).clone())
                continue
            except FullStepWanted:
                state.begin(state.step, state.position, full=True)
        request.outputs.append(_blocks(hidden))
        state.record(hidden, request.outputs[-1], probe)


def _together(requests: list[_Request], seed: int) -> int:
    """Every request joins and rests at random; returns how many batches mixed kinds of step."""
    choose, mixed = random.Random(seed), 0
    while waiting := [request for request in requests if not request.done]:
        present = choose.sample(waiting, choose.randint(1, len(waiting)))
        batch = Batch([request.state for request in present])
        kinds = batch.begin([request.step for request in present])
        mixed += len(set(kinds)) > 1
        hidden = torch.cat([request.hidden[request.step] for request in present])
        probe = torch.cat([request.probe[request.step] for request in present])
        output, full = batch.predict(hidden, probe)
        if full:
            output[full] = _blocks(hidden[full])
            batch.record(hidden, output, probe)
        for request, rows in zip(present, output.chunk(len(present)), strict=True):
            request.outputs.append(rows.clone())
    return mixed


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    "config",
    [Config(window=4), Config(window=3, forecast="hidden"), Config(full_steps=6)],
    ids=["windows", "hidden", "even"],
)
def test_each_row_equals_its_own_run_bit_for_bit(config: Config, rows: int) -> None:
    lengths = [LENGTH, LENGTH - 3, 2, LENGTH]
    alone = [_Request(i, steps, rows, config) for i, steps in enumerate(lengths)]
    together = [_Request(i, steps, rows, config) for i, steps in enumerate(lengths)]
    for request in alone:
        _alone(request)
    assert _together(together, seed=rows) > 3
    for one, other in zip(alone, together, strict=True):
        assert one.state.log.full_steps == other.state.log.full_steps
        assert one.state.log.chosen() == other.state.log.chosen()
        for left, right in zip(one.outputs, other.outputs, strict=True):
            assert torch.equal(left, right)


def test_a_plan_that_looks_at_the_data_decides_for_its_own_rows_only() -> None:
    config = Config(schedule=Adaptive(7))
    alone = [_Request(i, LENGTH, 1, config) for i in range(3)]
    together = [_Request(i, LENGTH, 1, config) for i in range(3)]
    for request in alone:
        _alone(request)
    _together(together, seed=0)
    steps = [request.state.log.full_steps for request in alone]
    assert [request.state.log.full_steps for request in together] == steps
    for one, other in zip(alone, together, strict=True):
        assert all(map(torch.equal, one.outputs, other.outputs))


def test_a_row_whose_shape_has_changed_is_full_again() -> None:
    config = Config(window=8)
    states = [State(config=config) for _ in range(2)]
    for tokens in (4, 4, 4, 4, 5):
        batch = Batch(states)
        batch.begin()
        hidden = torch.ones(2, tokens, WIDTH)
        output, full = batch.predict(hidden, hidden)
        if full:
            batch.record(hidden, output.fill_(1), hidden)
    assert states[0].log.full_steps == [0, 1, 2, 4]


def _refused(kind: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_bad_input_is_named() -> None:
    state, other = State(config=Config()), State(config=Config())
    hidden = torch.ones(3, 4, 8)
    _refused(ValueError, "states must be distinct and at least one, got 0", lambda: Batch([]))
    _refused(ValueError, "states must be distinct", lambda: Batch([state, state]))
    batch = Batch([state, other])
    _refused(RuntimeError, r"begin\(\) must come first", lambda: batch.predict(hidden, hidden))
    _refused(ValueError, r"steps must be one per state \(2\), got 1", lambda: batch.begin([1]))
    _refused(
        ValueError, r"positions must be one per .* got 3", lambda: batch.begin(None, [0.0] * 3)
    )
    batch.begin()
    _refused(ValueError, "B a multiple of 2 states", lambda: batch.predict(hidden, hidden))
    _refused(ValueError, "B a multiple", lambda: batch.predict(hidden[:2], hidden))


def test_needs_no_diffusers() -> None:
    """Nor anything else of a model library: they are not there at all."""
    script = (
        "import sys\n"
        "for name in ('diffusers', 'transformers', 'accelerate'): sys.modules[name] = None\n"
        "import torch, tap_ext.batch, tap_ext.history\n"
        "from tap_ext import Config, Plan, State\n"
        "states = [State(Plan(window=3), Config()) for _ in range(2)]\n"
        "x = torch.ones(2, 4, 8)\n"
        "for step in range(6):\n"
        "    batch = tap_ext.batch.Batch(states)\n"
        "    batch.begin()\n"
        "    output, full = batch.predict(x, x)\n"
        "    if full: batch.record(x, x, x)\n"
        "    states[0].attach(states[0].detach())\n"
        "print(states[0].log.skip_steps, 'tap_ext.engine' in vars(tap_ext))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("[3, 4]")


def test_the_plan_of_a_request_is_its_own() -> None:
    """Schedules of different windows in one batch."""
    states = [State(Plan(window=w), Config()) for w in (2, 5)]
    x = torch.ones(2, 4, 8)
    for _ in range(10):
        batch = Batch(states)
        batch.begin()
        output, full = batch.predict(x, x)
        if full:
            batch.record(x, output.fill_(1), x)
    assert [state.log.full_steps for state in states] == [[0, 1, 2, 4, 6, 8], [0, 1, 2, 7]]
