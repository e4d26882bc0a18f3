"""diffusers' context parallelism: ranks share the tokens, and choose as one process does.

Nothing is added to what the untouched model says between its ranks: a full step says what it said
before, a skip step what is said outside of the blocks.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tests import tiny
from tests.parallel.collectives import Collectives
from tests.regressions.helpers import zoo
from tests.regressions.ranks import on_every_rank, shard
from tests.versions import DIFFUSERS_VERSION
from tests.zoo.base import generate

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo"),
    pytest.mark.skipif(DIFFUSERS_VERSION < (0, 42), reason="shares no tokens on the CPU"),
]

CONFIG = tap_ext.Config(window=3, warmup=2, trace=True)
STEPS = 8
FULL, SKIP = (0, 1, 4, 7), (2, 3, 5, 6)
CHECKS = 3
"""How often the self-check runs a skip step, during the first full one."""


@dataclass(frozen=True)
class Sharing:
    """Who shares what.

    Attributes:
        make: what ``accelerate`` is given.
        model: the transformer in it.
        run: makes something with it.
        world: number of ranks.
        config: of ``ContextParallelConfig``.
        tokens: of each rank.
        branches: calls per step.
    """

    make: Callable[[], Any]
    model: Callable[[Any], nn.Module]
    run: Callable[[Any], Tensor]
    world: int = 2
    config: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[int, ...] = (8, 8)
    branches: int = 1


def _bare(subject: tiny.Tiny, arguments: dict[str, Any] | None = None, **how: Any) -> Sharing:
    given = arguments or tiny.inputs(subject)
    return Sharing(
        lambda: tiny.build(subject),
        lambda model: model,
        lambda model: tiny.sample(model, given, STEPS),
        **how,
    )


def _flux(heads: int) -> tiny.Tiny:
    def make() -> nn.Module:
        model: Any = tiny.MODELS[0].make()
        return type(model).from_config({**model.config, "num_attention_heads": heads})

    return dataclasses.replace(tiny.MODELS[0], make=make)


def _uneven() -> dict[str, Any]:
    """15 tokens of a picture and 5 of text, which neither 2 nor 4 ranks share evenly."""
    given = tiny.inputs(tiny.MODELS[0])
    for name, dim in (("hidden_states", 1), ("img_ids", 0)):
        given[name] = given[name].narrow(dim, 0, 15)
    for name, dim in (("encoder_hidden_states", 1), ("txt_ids", 0)):
        given[name] = given[name].narrow(dim, 0, 5)
    return given


def _zoo(name: str) -> Sharing:
    case = dataclasses.replace(zoo(name), steps=STEPS)
    return Sharing(
        case.make,
        lambda pipe: pipe.transformer,
        lambda pipe: generate(case, pipe),
        tokens=(9, 9),
        branches=case.branches,
    )


ANYTHING = {"ulysses_anything": True}
CASES: dict[str, Callable[[], Sharing]] = {
    "flux on 2": lambda: _bare(tiny.MODELS[0]),
    "flux on 4, unevenly": lambda: _bare(
        _flux(4), _uneven(), world=4, config=ANYTHING, tokens=(4, 4, 4, 3)
    ),
    # these two divide their tokens on the way into the first block
    "qwen on 2": lambda: _bare(tiny.MODELS[2]),
    "wan on 2": lambda: _zoo("WanPipeline"),
}


@dataclass
class Made:
    """What one process made: the result, untouched and accelerated, and how."""

    untouched: Tensor
    output: Tensor
    choices: list[tuple[str, int, Tensor]]
    whole: list[Counter[str]]
    outside: list[Counter[str]]
    said: list[Counter[str]]
    corrected: int
    fallbacks: dict[str, int]
    warned: list[str]


def _make(case: Sharing, *, shared: bool, config: tap_ext.Config = CONFIG) -> Made:
    subject = case.make()
    model = case.model(subject)
    if shared:
        shard(model, **case.config)
    with Collectives(model) as before:
        untouched = case.run(subject)
    tap_ext.accelerate(subject, config)
    with warnings.catch_warnings(record=True) as caught, Collectives(model) as after:
        warnings.simplefilter("always")
        output = case.run(subject)
    stats = tap_ext.stats(subject)
    return Made(
        untouched,
        output,
        [(choice.branch, choice.step, choice.index) for choice in stats.trace],
        before.all,
        before.outside,
        after.all,
        stats.models[0].corrected or 0,
        stats.models[0].fallbacks,
        [str(each.message) for each in caught if "tap_ext" in str(each.message)],
    )


@pytest.mark.parametrize("name", CASES)
def test_ranks_choose_what_one_process_chooses(name: str, tmp_path: Path) -> None:
    """sgl-project/sglang#19955, vipshop/cache-dit#1094"""
    case = CASES[name]()
    alone = _make(case, shared=False)
    ranks = on_every_rank(lambda: _make(case, shared=True), tmp_path, case.world)
    assert [(branch, step) for branch, step, _ in alone.choices] == [
        (str(branch), step) for step in SKIP for branch in range(case.branches)
    ]
    for rank, made in enumerate(ranks):
        assert made.fallbacks == {} and made.warned == []
        torch.testing.assert_close(made.untouched, alone.untouched, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.output, alone.output, rtol=1e-4, atol=1e-5)
        assert [each[:2] for each in made.choices] == [each[:2] for each in alone.choices]
        assert {index.shape[1] for _, _, index in made.choices} == {case.tokens[rank]}
        _says_what_the_model_says(case, made)
        assert made.corrected == alone.corrected
    for number, (_, _, index) in enumerate(alone.choices):
        parts = [made.choices[number][2] for made in ranks]
        assert torch.equal(torch.cat(parts, 1), index)


def _says_what_the_model_says(case: Sharing, made: Made) -> None:
    calls, looked_back = STEPS * case.branches, 0
    assert len(made.whole) == len(made.said) == calls
    for call in range(calls):
        whole, outside, said = made.whole[call], made.outside[call], made.said[call]
        assert 0 < outside.total() < whole.total()  # it does speak in its blocks, and not only
        if call // case.branches in SKIP:
            assert said == outside
        elif call == 0:
            assert said == whole + Counter({op: CHECKS * n for op, n in outside.items()})
        elif said != whole:  # forecast first, to learn from that
            assert said == whole + outside
            looked_back += 1
    after = [step for step in range(1, STEPS) if step not in SKIP and step - 1 in SKIP]
    # a pipeline, which tells how many steps there are, needs nothing of its last one
    assert looked_back == case.branches * len(after[:-1] if made.corrected else after)


def test_no_rank_decides_by_its_own_tokens(tmp_path: Path) -> None:
    """One that skips while another waits for it in attention would hang both."""
    case, config = _bare(tiny.MODELS[0]), tap_ext.Config(method="teacache")
    for made in on_every_rank(lambda: _make(case, shared=True, config=config), tmp_path):
        assert torch.equal(made.output, made.untouched)
        reason = "its schedule looks at tokens, and ranks that share them would disagree"
        assert made.fallbacks == {reason: STEPS}
        assert len(made.warned) == 1 and reason in made.warned[0]


def test_which_configurations_look_at_tokens() -> None:
    follow = ({"method": "teacache"}, {"method": "speca"}, {"schedule": "adaptive"})
    assert all(tap_ext.Config(**given).follows for given in follow)
    known = ({}, {"schedule": "even"}, {"schedule": "paced"}, {"window": 4}, {"method": "fora"})
    assert not any(tap_ext.Config(**given).follows for given in known)
