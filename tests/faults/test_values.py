"""Faults in what a model is given: values, dtypes, shapes, layouts, positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st
from torch import Tensor

import tap_ext
from tap_ext import Config, ops, reference
from tap_ext.plan import Plan
from tap_ext.runtime import MAX_BRANCHES, run
from tap_ext.state import State, Step
from tests import tiny
from tests.faults.common import CONFIG, FULL, MODEL, SKIP, STEPS, done, error, fast, given, plain
from tests.faults.common import sample as sampled

BAD = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])


@BAD
def test_what_is_not_finite_stays_in_its_row(device: str, bad: float) -> None:
    """Row 1: a poisoned sample spoils neither its neighbour nor the next run."""
    model = fast(device)
    clean = sampled(model, given(batch=2, device=device))
    poisoned = given(batch=2, device=device)
    poisoned["hidden_states"][0, 0, 0] = bad
    result = sampled(model, poisoned)
    assert not torch.isfinite(result[0]).all()
    assert torch.equal(result[1], clean[1])
    assert torch.equal(sampled(model, given(batch=2, device=device)), clean)


@BAD
def test_a_distance_that_is_no_number_never_wins(device: str, bad: float) -> None:
    """Row 1: a token whose probe is not finite takes the first row; others choose as before."""
    planes, rows = torch.randn(3, 1, 4, 8, device=device), torch.randn(5, 3, device=device)
    probe = torch.randn(1, 4, 8, device=device)
    clean, _ = ops.select(planes, probe, rows)
    probe[0, 2, 1] = bad
    index, _ = ops.select(planes, probe, rows)
    assert index[0, 2] == 0
    others = [0, 1, 3]
    assert torch.equal(index[0, others], clean[0, others])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_dtype_that_changes_mid_run_begins_a_new_history(dtype: torch.dtype) -> None:
    """Row 2: the step at which the dtype changes is full, and no exception is raised."""
    model, arguments = fast(), given()
    for step in range(STEPS):
        if step == 4:
            model.to(dtype)
            arguments = {k: v.to(dtype) for k, v in arguments.items()}
        time = torch.tensor([1 - step / STEPS]).to(arguments["hidden_states"].dtype)
        output = model(**arguments, timestep=time)[0]
        assert output.dtype == arguments["hidden_states"].dtype
    assert done(model)[-1] == ((0, 1, 2), (3,))


def test_a_dtype_that_changes_between_runs_leaves_nothing_behind() -> None:
    """Row 2: float32 after bfloat16 equals float32 in a model that never saw another dtype."""
    model = fast()
    wide = sampled(model)
    sampled(model.bfloat16(), {k: v.bfloat16() for k, v in given().items()})
    model.load_state_dict(plain().state_dict())
    model.float().load_state_dict(plain().state_dict())
    assert torch.equal(sampled(model), wide)


@torch.no_grad()
def test_autocast_that_comes_mid_run_is_survived() -> None:
    """Row 2: under autocast the blocks hand out another dtype than before."""
    model, arguments = fast(), given()
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=step >= 4):
            output = model(**arguments, timestep=torch.tensor([1 - step / STEPS]))[0]
        assert torch.isfinite(output).all()
    assert torch.equal(sampled(model), sampled(fast()))


@torch.no_grad()
def test_tokens_that_are_cut_off_mid_run_begin_a_new_history() -> None:
    """Row 3: the step at which the shape changes is full; the run goes on."""
    model, arguments = fast(), given()
    for step in range(STEPS):
        if step == 4:
            arguments["hidden_states"] = arguments["hidden_states"][:, :8]
            arguments["img_ids"] = arguments["img_ids"][:8]
        output = model(**arguments, timestep=torch.tensor([1 - step / STEPS]))[0]
        assert output.shape == arguments["hidden_states"].shape
    assert done(model)[-1] == ((0, 1, 2), (3,))


def test_shapes_in_turn_are_as_if_alone() -> None:
    """Row 3: shape change between runs."""
    model = fast()
    for batch in (1, 3, 1, 2, 3):
        assert torch.equal(sampled(model, given(batch=batch)), sampled(fast(), given(batch=batch)))


def _transposed(value: Tensor) -> Tensor:
    return value.transpose(0, 1).contiguous().transpose(0, 1)


def _padded(value: Tensor) -> Tensor:
    return torch.cat([value, value], dim=1)[:, : value.shape[1]]


def _misaligned(value: Tensor) -> Tensor:
    return torch.cat([value.new_zeros(1), value.flatten()])[1:].view(value.shape)


@pytest.mark.parametrize("layout", [_transposed, _padded, _misaligned])
def test_the_layout_of_a_feature_does_not_matter(device: str, layout: Any) -> None:
    """Row 18: batch inside, padding between, off alignment: what the contiguous one gives."""
    torch.manual_seed(0)
    features = [torch.randn(3, 5, 16, device=device) for _ in range(4)]

    def forecast(lay: Any) -> Tensor:
        state = State(Plan(window=4, warmup=3), Config(**CONFIG))
        for feature in features[:3]:
            state.begin(full=True)
            state.record(lay(feature), lay(2 * feature), lay(feature.sin()))
        assert state.begin() is Step.SKIP
        return state.predict(lay(features[3]), lay(features[3].sin())).clone()

    assert torch.equal(forecast(layout), forecast(lambda value: value))


def test_an_expanded_feature_is_read_as_what_it_shows(device: str) -> None:
    """Row 18: strides of zero, as ``expand`` makes them."""
    stack = torch.randn(3, 1, 4, 8, device=device)
    rows = torch.randn(5, 3, device=device)
    one = torch.randn(1, 1, 8, device=device)
    expanded = ops.select(stack, one.expand(1, 4, 8), rows)
    copied = ops.select(stack, one.repeat(1, 4, 1), rows)
    assert all(map(torch.equal, expanded, copied))


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (1, 1, 1), (1, 1, 7), (2, 3, 13)])
def test_sizes_at_the_edge(device: str, shape: tuple[int, int, int]) -> None:
    """Row 19: no tokens, no batch, one token, D that no vector divides."""
    torch.manual_seed(1)
    planes, rows = torch.randn(3, *shape, device=device), torch.randn(4, 3, device=device)
    probe = torch.randn(shape, device=device)
    out, index = torch.empty_like(probe), torch.empty(shape[:2], dtype=torch.int32, device=device)
    by = "l2"  # of one channel, all cosines are one
    ops.skip_step_(out, index, planes, probe, planes, probe, rows, by)
    expected, chosen = torch.empty_like(out), torch.empty_like(index)
    reference.skip_step_(expected, chosen, planes, probe, planes, probe, rows, by)
    assert torch.equal(index, chosen)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_branches_beyond_the_bound_take_no_more_memory() -> None:
    """Row 20: memory is branches x planes x (probe + residual), and branches are bounded."""
    model = fast()
    sampled(model, steps=1)
    one = tap_ext.stats(model).models[0].nbytes
    with run():
        for seed in range(3 * MAX_BRANCHES):
            model(**given(seed), timestep=torch.tensor([1.0]))
        held = tap_ext.stats(model).models[0].nbytes
    assert one < held <= 2 * MAX_BRANCHES * one  # as many again are kept for the next run


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_run_no_longer_than_the_warm_up_is_untouched(steps: int) -> None:
    """Row 21: runs of 0 to 3 steps are the model's own, bit for bit."""
    model = fast()
    assert torch.equal(sampled(model, steps=steps), sampled(plain(), steps=steps))
    assert tap_ext.stats(model).skip == 0


def _refused(name: str, value: Any) -> bool:
    try:
        Config(**{name: value})
    except (TypeError, ValueError) as raised:
        assert name in str(raised)
        return True
    return False


@examples(
    st.sampled_from(["window", "warmup", "tail", "order"]),
    st.one_of(st.booleans(), st.text(), st.floats(), st.integers(max_value=-1), st.none()),
)
def test_no_bad_number_gets_into_a_configuration(name: str, value: Any) -> None:
    """Row 22: refused at construction, by the field's name."""
    assert _refused(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("window", bad) for bad in (0, -1, 10**9)),
        *(("order", bad) for bad in (-1, 100)),
        *(("lookback", bad) for bad in (float("nan"), float("inf"), -1.0, True)),
        ("predictors", ()),
        ("full_steps", 0),
        ("speedup", 0.0),
    ],
)
def test_each_named_fault_of_a_configuration_is_refused(name: str, value: Any) -> None:
    """Row 22: interval 0, -1, 1e9; order -1, 100; NaN; bool for a number; no predictors."""
    assert _refused(name, value)


@pytest.mark.parametrize(
    "positions",
    [(1.0, 1.0, 1.0, 1.0), (1.0, 0.9, 0.9, 0.8), (1.0, 0.8, 0.9, 0.7), (0.5, 0.5, 0.2, 0.2)],
)
def test_repeated_or_turning_positions_never_divide_by_zero(positions: Any) -> None:
    """Row 23: equal sigmas lower the order; what comes out is finite."""
    state = State(Plan(window=4, warmup=3), Config(**CONFIG, position="sigma"))
    torch.manual_seed(0)
    for position in positions[:3]:
        state.begin(position=position, full=True)
        feature = torch.randn(1, 4, 8)
        state.record(feature, 2 * feature, feature)
    assert state.begin(position=positions[3]) is Step.SKIP
    assert torch.isfinite(state.predict(feature, feature)).all()


@torch.no_grad()
def test_a_timestep_given_twice_is_never_predicted_from_itself() -> None:
    """Row 23: duplicate timesteps of a bare model begin a new run."""
    model, arguments, truth = fast(), given(), plain()
    for time in (1.0, 0.9, 0.8, 0.8):
        moment = torch.tensor([time])
        output = model(**arguments, timestep=moment)[0]
    assert torch.equal(output, truth(**arguments, timestep=moment)[0])


def test_the_run_of_these_tests_does_skip() -> None:
    """None of the rows above would mean anything otherwise."""
    model = fast()
    assert 0 < error(sampled(model), sampled(plain())) < 0.05
    assert done(model) == [(FULL, SKIP)]
    assert tiny.MODELS[0] is MODEL
