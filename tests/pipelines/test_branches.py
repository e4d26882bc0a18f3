"""True classifier-free guidance: two branches, each with a history of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pipelines.builders import (
    CFG,
    CLOSE,
    FULL,
    GUIDED,
    PLAIN,
    SKIP,
    STEPS,
    Case,
    accelerated,
    arguments,
    build,
    error,
    expected,
    generate,
    negative,
    noise,
    prompt,
    read_prompts,
    spoken,
    steps,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def outputs(pipe: Any, given: dict[str, Any], **changes: Any) -> list[Tensor]:
    """What the transformer returns, call by call, along latents that nothing it says can change."""
    returned: list[Tensor] = []

    def note(_module: Any, _args: Any, output: tuple[Tensor, ...]) -> None:
        returned.append(output[0])

    def replace(_pipe: Any, step: int, _time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        shape = tensors["latents"].shape
        start, end = noise(*shape, seed=100), noise(*shape, seed=101)
        return {"latents": torch.lerp(start, end, (step + 1) / STEPS)}

    handle = pipe.transformer.register_forward_hook(note)
    try:
        generate(
            pipe, given, latents=noise(1, 16, 16, seed=100), callback_on_step_end=replace, **changes
        )
    finally:
        handle.remove()
    return returned


@dataclass(frozen=True)
class Outputs:
    """What a transformer returned in three runs of one pipeline, call by call.

    Attributes:
        both: with guidance.
        swapped: the same, with the prompts exchanged.
        alone: without guidance.
    """

    both: list[Tensor]
    swapped: list[Tensor]
    alone: list[Tensor]


@pytest.fixture(scope="module")
def along(request: pytest.FixtureRequest) -> Outputs:
    case: Case = request.param
    pipe, given = accelerated(case), arguments(case)
    swapped = {
        f"{left}{name}": given[f"{right}{name}"]
        for name in prompt(0)
        for left, right in (("", "negative_"), ("negative_", ""))
    }
    both = outputs(pipe, given)
    return Outputs(both, outputs(pipe, given, **swapped), outputs(pipe, given, true_cfg_scale=1.0))


@pytest.mark.parametrize("along", GUIDED.values(), ids=str, indirect=True)
def test_a_branch_is_the_same_with_another_branch_beside_it(along: Outputs) -> None:
    assert len(along.alone) == STEPS
    assert len(along.both) == 2 * STEPS
    assert all(map(torch.equal, along.both[::2], along.alone))


@pytest.mark.parametrize(
    # A ControlNet reads the positive prompt alone, for both branches.
    "along",
    [case for case in GUIDED.values() if "ControlNet" not in case.name],
    ids=str,
    indirect=True,
)
def test_branches_that_change_places_stay_what_they_are(along: Outputs) -> None:
    assert all(map(torch.equal, along.both[::2], along.swapped[1::2]))
    assert all(map(torch.equal, along.both[1::2], along.swapped[::2]))


@pytest.mark.parametrize("case", GUIDED.values(), ids=str)
def test_the_same_tensors_as_both_prompts_make_two_equal_branches(case: Case) -> None:
    """c + s (c - c) is c: so it is if, and only if, both branches have equal histories."""
    pipe, given = accelerated(case), arguments(case)
    same = negative({name: given[name] for name in prompt(0)})
    assert torch.equal(generate(pipe, given, **same), expected(PLAIN[case.name]))
    assert steps(pipe) == [(FULL, SKIP)] * 2


def test_equal_prompts_in_different_memory_make_two_equal_branches() -> None:
    pipe, given = accelerated(), arguments()
    same = negative({name: given[name].clone() for name in prompt(0)})
    assert torch.equal(generate(pipe, given, **same), expected())
    assert steps(pipe) == [(FULL, SKIP)] * 2


def test_prompts_of_different_lengths_make_two_branches() -> None:
    given = spoken(prompt="a red fox", negative_prompt="an ugly picture of it", true_cfg_scale=CFG)
    truth = generate(read_prompts(build()), given)
    pipe = read_prompts(accelerated())
    assert 0 < error(generate(pipe, given), truth) < CLOSE
    assert steps(pipe) == [(FULL, SKIP)] * 2


def test_guidance_may_come_and_go_between_runs() -> None:
    pipe, case = accelerated(), GUIDED["FluxPipeline"]
    with_guidance = generate(pipe, arguments(case))
    assert torch.equal(generate(pipe), expected())
    assert torch.equal(generate(pipe, arguments(case)), with_guidance)
    assert torch.equal(with_guidance, expected(case))
