"""What every FLUX.1 pipeline of diffusers must do, whichever one it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext.report import Stats
from tests.pipelines.builders import (
    CASES,
    CLOSE,
    FULL,
    SKIP,
    STEPS,
    Case,
    accelerated,
    arguments,
    build,
    counted,
    error,
    generate,
    marks,
    steps,
    unmarked,
    untouched,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


@dataclass(frozen=True)
class Outcome:
    """Two runs of one accelerated pipeline, and one after it was restored.

    Attributes:
        plan: steps of the first run, by branch.
        blocks: how often the last block really ran in it.
        stats: of both runs.
        marks: of the restored pipeline.
    """

    case: Case
    first: Tensor
    second: Tensor
    restored: Tensor
    plan: list[tuple[tuple[int, ...], tuple[int, ...]]]
    blocks: int
    stats: Stats
    marks: dict[str, Any]


@pytest.fixture(scope="module", params=CASES, ids=str)
def outcome(request: pytest.FixtureRequest) -> Outcome:
    case: Case = request.param
    given = arguments(case)
    pipe = accelerated(case)
    with counted(pipe.transformer.single_transformer_blocks[-1]) as blocks:
        first = generate(pipe, given)
    plan = steps(pipe)
    second = generate(pipe, given)
    stats = tap_ext.stats(pipe)
    restored = generate(tap_ext.restore(pipe), given)
    return Outcome(case, first, second, restored, plan, blocks[0], stats, marks(pipe))


def test_each_branch_follows_the_plan(outcome: Outcome) -> None:
    assert outcome.plan == [(FULL, SKIP)] * outcome.case.branches


def test_blocks_run_in_full_steps_only(outcome: Outcome) -> None:
    assert outcome.blocks == len(FULL) * outcome.case.branches


def test_all_runs_are_counted(outcome: Outcome) -> None:
    each = 2 * outcome.case.branches
    assert (outcome.stats.full, outcome.stats.skip) == (len(FULL) * each, len(SKIP) * each)
    assert outcome.stats.models[0].runs == 2
    assert not outcome.stats.models[0].fallbacks


def test_the_picture_is_close_to_the_untouched_one(outcome: Outcome) -> None:
    assert 0 < error(outcome.first, untouched(outcome.case)) < CLOSE


def test_the_same_call_twice_is_bit_equal(outcome: Outcome) -> None:
    assert torch.equal(outcome.first, outcome.second)


def test_the_restored_pipeline_is_bit_equal_to_one_never_accelerated(outcome: Outcome) -> None:
    assert torch.equal(outcome.restored, untouched(outcome.case))


def test_restore_leaves_nothing_behind(outcome: Outcome) -> None:
    assert outcome.marks == unmarked(outcome.case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_steps_alone_are_bit_equal_to_the_untouched_pipeline(case: Case) -> None:
    pipe = tap_ext.accelerate(build(case), warmup=STEPS)
    assert torch.equal(generate(pipe, arguments(case)), untouched(case))
    assert steps(pipe) == [(tuple(range(STEPS)), ())] * case.branches
