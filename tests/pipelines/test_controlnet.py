"""ControlNet residuals, which the model adds between its blocks, are counted once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext.backbones import find_spec
from tap_ext.views import Call, Views, run_view, verify
from tests.pipelines.builders import (
    CONTROLNETS,
    FULL,
    SKIP,
    Case,
    accelerated,
    arguments,
    build,
    error,
    expected,
    generate,
    steps,
    untouched,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


@pytest.fixture(scope="module", params=CONTROLNETS, ids=str)
def controlled(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """A transformer and the arguments of its first call by a ControlNet pipeline."""
    case: Case = request.param
    calls: list[dict[str, Any]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)

    pipe = build(case)
    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    generate(pipe, arguments(case))
    return pipe.transformer, calls[0]


def full_step(transformer: Any, given: dict[str, Any]) -> tuple[Views, Call, Tensor]:
    spec = find_spec(transformer)
    assert spec is not None
    views, call = Views(transformer, spec), Call.full(spec)
    with torch.no_grad():
        return views, call, run_view(views.full, call, (), given)[0]


def test_residuals_reach_the_full_view(controlled: tuple[Any, dict[str, Any]]) -> None:
    transformer, given = controlled
    without = {name: value for name, value in given.items() if "block_samples" not in name}
    _, _, output = full_step(transformer, given)
    with torch.no_grad():
        assert torch.equal(output, transformer.forward(**given)[0])
        assert error(output, transformer.forward(**without)[0]) > 0.01


def test_a_skip_step_with_the_true_residual_is_the_full_step(
    controlled: tuple[Any, dict[str, Any]],
) -> None:
    transformer, given = controlled
    views, full, output = full_step(transformer, given)
    truth = full.passages[0].output
    assert truth is not None
    with torch.no_grad():
        again = run_view(views.skip, full.skip(lambda *_: truth), (), given)[0]
    assert error(again, output) <= 1e-6


def test_the_self_check_agrees(controlled: tuple[Any, dict[str, Any]]) -> None:
    transformer, given = controlled
    views, full, output = full_step(transformer, given)
    assert verify(views, full, (output,), (), given, between=True) is None


@pytest.mark.parametrize(
    "guidance",
    [{"control_guidance_end": 0.5}, {"control_guidance_start": 0.5}],
    ids=["ends early", "starts late"],
)
def test_control_may_hold_for_a_part_of_the_steps(guidance: dict[str, float]) -> None:
    """A jump between two full steps costs precision; what it must not do is go unnoticed."""
    case = CONTROLNETS[0]
    pipe, given = accelerated(case), arguments(case) | guidance
    truth = generate(build(case), given)
    unnoticed = error(untouched(case), truth)
    assert 0 < error(generate(pipe, given), truth) < 0.6 * unnoticed
    assert steps(pipe) == [(FULL, SKIP)]


def test_its_scale_may_change_between_runs() -> None:
    case = CONTROLNETS[0]
    pipe, given = accelerated(case), arguments(case)
    generate(pipe, given, controlnet_conditioning_scale=0.3)
    assert torch.equal(generate(pipe, given), expected(case))
