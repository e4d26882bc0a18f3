"""Other caches of the same steps: never two at once, and never silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

import tap_ext
from tests.pipelines.builders import (
    STEPS,
    WINDOWED,
    accelerated,
    build,
    expected,
    generate,
    marks,
    untouched,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")

Enable = Callable[[Any], Any]


def first_block(pipe: Any) -> Any:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    return pipe


def taylor_seer(pipe: Any) -> Any:
    pipe.transformer.enable_cache(TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32))
    return pipe


caches = pytest.mark.parametrize("enable", [first_block, taylor_seer], ids=lambda f: f.__name__)


@caches
def test_a_cache_that_is_on_already_is_refused_by_name(enable: Enable) -> None:
    pipe = enable(build())
    before, cls = marks(pipe), type(pipe)
    for target in (pipe, pipe.transformer):
        with pytest.raises(ValueError, match=type(pipe.transformer._cache_config).__name__):
            tap_ext.accelerate(target)
    assert marks(pipe) == before
    assert type(pipe) is cls


@caches
def test_a_cache_that_was_switched_off_is_no_hindrance(enable: Enable) -> None:
    pipe = enable(build())
    generate(pipe)
    pipe.transformer.disable_cache()
    assert torch.equal(generate(tap_ext.accelerate(pipe, **WINDOWED)), expected())


@caches
def test_a_cache_that_comes_later_has_the_model_to_itself(enable: Enable) -> None:
    truth = generate(enable(build()))
    assert not torch.equal(truth, untouched())
    pipe = enable(accelerated())
    name = type(pipe.transformer._cache_config).__name__
    with pytest.warns(UserWarning, match=name):
        assert torch.equal(generate(pipe), truth)
    ((reason, calls),) = tap_ext.stats(pipe).models[0].fallbacks.items()
    assert name in reason
    assert calls == STEPS


@caches
def test_a_cache_that_comes_and_goes_leaves_the_pipeline_accelerated(enable: Enable) -> None:
    pipe = enable(accelerated())
    with pytest.warns(UserWarning, match="tap_ext"):
        generate(pipe)
    pipe.transformer.disable_cache()
    assert torch.equal(generate(pipe), expected())


class TestCacheDit:
    @pytest.fixture
    def enable(self) -> Iterator[Enable]:
        """Switches cache-dit on, and off again at the end: it patches whole classes."""
        cache_dit = pytest.importorskip("cache_dit")
        cached = []

        def switch_on(pipe: Any) -> Any:
            cached.append(pipe)
            return cache_dit.enable_cache(
                pipe,
                cache_config=cache_dit.DBCacheConfig(
                    Fn_compute_blocks=1,
                    Bn_compute_blocks=0,
                    max_warmup_steps=2,
                    residual_diff_threshold=0.5,
                ),
            )

        yield switch_on
        for pipe in cached:
            cache_dit.disable_cache(pipe)

    def test_it_is_refused_by_name(self, enable: Enable) -> None:
        pipe = build()
        enable(pipe)
        before = marks(pipe)
        for target in (pipe, pipe.transformer):
            with pytest.raises(ValueError, match="cache-dit"):
                tap_ext.accelerate(target)
        assert marks(pipe) == before

    def test_when_it_comes_later_the_pipeline_says_so(self, enable: Enable) -> None:
        pipe = accelerated()
        enable(pipe)
        with pytest.warns(UserWarning, match="tap_ext"):
            generate(pipe)
