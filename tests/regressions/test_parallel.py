"""Tokens that several ranks share: what one rank sees is a part of what entered."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import tap_ext
from tests import tiny
from tests.regressions.helpers import (
    FLUX,
    FULL,
    SMALL,
    STEPS,
    WINDOWED,
    branches,
    error,
    fresh,
    zoo,
)
from tests.regressions.ranks import on_every_rank, shard
from tests.versions import DIFFUSERS_VERSION
from tests.zoo.base import generate

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo"),
    pytest.mark.skipif(DIFFUSERS_VERSION < (0, 42), reason="shares no tokens on the CPU"),
]


def test_flux_whose_tokens_are_shared(tmp_path: Path) -> None:
    """sgl-project/sglang#19955: the cache fails with sequence parallelism alone

    Ranks that share the tokens must skip the same steps, and make together what one rank makes.
    """

    def work() -> Any:
        model = tiny.build(FLUX)
        shard(model)
        truth = tiny.sample(model, tiny.inputs(FLUX), STEPS)
        made = tiny.sample(tap_ext.accelerate(model, SMALL), tiny.inputs(FLUX), STEPS)
        return truth, made, branches(model)

    alone, accelerated = tiny.sample(tiny.build(FLUX), tiny.inputs(FLUX), STEPS), fresh()
    for truth, made, steps in on_every_rank(work, tmp_path):
        assert error(truth, alone) < 1e-5  # the ranks do compute together
        assert error(made, accelerated) < 1e-5
        assert [full for full, _ in steps[0]] == [FULL]


def _wan(name: str, folder: Path) -> None:
    """Skipped and right, and the same on all ranks."""
    case = zoo(name)

    def work() -> Any:
        pipe = case.make()
        for model in case.models:
            shard(getattr(pipe, model))
        tap_ext.accelerate(pipe, **WINDOWED)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = generate(case, pipe)
        said = [str(each.message) for each in caught if "tap_ext" in str(each.message)]
        stats = tap_ext.stats(pipe)
        return made, stats.skip, said, [model.fallbacks for model in stats.models]

    truth = generate(case, case.make())
    results = on_every_rank(work, folder)
    assert torch.equal(results[0][0], results[1][0])
    for made, skipped, said, fallbacks in results:
        assert error(made, truth) <= case.loose
        assert skipped and not any(fallbacks) and not said


def test_wan_whose_tokens_are_shared_in_the_first_block(tmp_path: Path) -> None:
    """vipshop/cache-dit#1094, vipshop/cache-dit#1113: 5070 tokens against 20280

    Wan's tokens are divided on their way into the first block, so what enters it is all of them and
    what leaves the last one is a rank's part.
    """
    _wan("WanPipeline", tmp_path)


def test_both_experts_of_wan_with_shared_tokens(tmp_path: Path) -> None:
    """vipshop/cache-dit#360: an error with context parallelism on Wan 2.2

    The same with two transformers in one run.
    """
    _wan("WanPipeline+2.2", tmp_path)
