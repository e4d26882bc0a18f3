"""Nothing of one run reaches another: contexts, resets, requests, cancelled runs."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import Config, State, Step
from tests import tiny
from tests.pipelines import builders
from tests.regressions.helpers import (
    FLUX,
    SMALL,
    accelerated,
    bare,
    branches,
    fresh,
    runs_as_planned,
    silent,
    walk,
    zoo,
)
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def test_a_pipeline_that_sets_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface/diffusers#12012, huggingface/diffusers#12013: no context set

    The first-block cache failed on Wan 2.2 image-to-video because that pipeline did not tell the
    model which context it called it in.
    """
    case = zoo("WanImageToVideoPipeline+expand")
    pipe = accelerated(case)
    expected = generate(case, pipe)
    monkeypatch.setattr(
        type(pipe.transformer), "cache_context", lambda *_: contextlib.nullcontext(), raising=False
    )
    other = accelerated(case)
    assert torch.equal(generate(case, other), expected)
    assert branches(other) == branches(pipe)
    assert tap_ext.stats(other).skip > 0


def test_run_enable_run_disable_run_enable_run() -> None:
    """huggingface/diffusers#14037, huggingface/diffusers#14093: a stale list of hooked children

    A pipeline that had run once without its cache failed once the cache was on, because a list made
    in the first run was not made anew.
    """
    case = zoo("WanPipeline")
    pipe = case.make()
    truth = generate(case, pipe)
    made = []
    for _ in range(2):
        tap_ext.accelerate(pipe, window=3, warmup=2)
        made.append(generate(case, pipe))
        assert tap_ext.stats(pipe).skip > 0
        tap_ext.restore(pipe)
        assert torch.equal(generate(case, pipe), truth)
    assert torch.equal(*made) and not torch.equal(made[0], truth)


def test_two_pipelines_of_one_class_have_nothing_in_common() -> None:
    """vipshop/cache-dit#133: a global context

    The cache kept its state per class of pipelines; users of two pipelines wanted it per pipeline.
    """
    first, second = builders.accelerated(), tap_ext.accelerate(builders.build(), window=2)
    alone = builders.generate(tap_ext.accelerate(builders.build(), window=2))
    made: list[Tensor] = []

    def between(_pipe: Any, _tensors: dict[str, Any]) -> None:
        made.append(builders.generate(second))

    for step in (0, 3):
        again = builders.generate(first, **builders.at_step(step, between))
        assert torch.equal(again, builders.expected())
        assert torch.equal(made[-1], alone)
    assert builders.steps(first) == [(builders.FULL, builders.SKIP)]
    assert builders.steps(second) == [((0, 1, 2, 4, 6), (3, 5, 7))]


def test_a_run_begins_anew_whether_or_not_its_length_is_given() -> None:
    """vllm-project/vllm-omni#2194: refreshed only where the request names a number of steps

    Without ``num_inference_steps`` in the request, the cache of the request before was used.
    """
    given = {k: v for k, v in builders.arguments().items() if k != "num_inference_steps"}
    expected = builders.generate(builders.accelerated(), given)
    pipe = builders.accelerated()
    builders.generate(pipe, given, **builders.prompt(40))
    assert torch.equal(builders.generate(pipe, given), expected)
    ((full, skip),) = builders.steps(pipe)
    assert full[:4] == (0, 1, 2, 5) and len(skip) > len(full)


def test_requests_within_requests_on_one_wan() -> None:
    """vllm-project/vllm-omni#7335: one context for all requests

    Requests in flight at the same time wrote to the same cache; and on Wan 2.2 nothing was skipped,
    which no log told.
    """
    case = zoo("WanPipeline+2.2")
    pipe = accelerated(case)
    with silent():
        alone = generate(case, pipe)
        before = tap_ext.stats(pipe).skip
        assert all(model.skip for model in tap_ext.stats(pipe).models)
        made: list[Tensor] = []

        def between(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step in (3, 8):  # in either half of the run
                other = copy.copy(pipe)
                other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
                made.append(generate(case, other))
            return tensors

        assert torch.equal(generate(case, pipe, callback_on_step_end=between), alone)
    assert len(made) == 2 and all(torch.equal(each, alone) for each in made)
    assert tap_ext.stats(pipe).skip == 4 * before


def test_requests_with_sigmas_of_their_own() -> None:
    """vllm-project/vllm-omni#5882: state leaks across requests, custom sigmas are passed over

    Without a refresh in between a request began with the state of the last one, and one that gave
    its own sigmas was planned as if it had the default ones.
    """
    tables: list[list[float]] = [[1.0, 0.9, 0.7, 0.6, 0.3, 0.1], [1.0, 0.8, 0.5, 0.4], []]
    pipe = builders.accelerated()
    for sigmas in (*tables, *reversed(tables)):
        given: dict[str, Any] = {"sigmas": sigmas} if sigmas else {}
        alone = builders.generate(builders.accelerated(), **given)
        assert torch.equal(builders.generate(pipe, **given), alone)
        ((full, skip),) = builders.steps(pipe)
        assert len(full) + len(skip) == (len(sigmas) or builders.STEPS)
        assert set(full) == {0, 1, 2, 5} & set(range(len(full) + len(skip)))


def _feed(state: State, seed: int, steps: int = 8) -> list[Tensor]:
    """Drives a state over a random walk; what it predicts."""
    generator = torch.Generator().manual_seed(seed)
    value, predicted = torch.randn(1, 5, 8, generator=generator), []
    for _ in range(steps):
        value = value + torch.randn(1, 5, 8, generator=generator) / 10
        if state.begin() is Step.FULL:
            state.record(value, 2 * value, value)
        else:
            predicted.append(state.predict(value, value).clone())
    return predicted


def test_a_reset_resets_the_state_it_is_called_on() -> None:
    """vllm-project/vllm-omni#1287: refresh() reached the wrong object

    In review: the method reset a state that no step read, the one in use kept its history.
    """
    used, other = State(config=SMALL), State(config=SMALL)
    _feed(used, 1)
    _feed(other, 2, steps=4)
    used.reset()
    assert all(map(torch.equal, _feed(used, 3), _feed(State(config=SMALL), 3)))
    assert other.step == 3 and other.log.full_steps == [0, 1, 2]


def _request(model: nn.Module, seed: int, steps: int) -> Iterator[Tensor]:
    with tap_ext.run():
        yield from walk(model, tiny.inputs(FLUX, seed), steps)


def test_requests_that_take_turns_step_by_step() -> None:
    """vllm-project/vllm-omni#3775: no cache under step-wise execution

    A server that executes single steps of many requests in turn could not use any cache, since each
    assumed that consecutive calls belong together.
    """
    model, order, lengths = bare(), random.Random(0), (12, 9, 12)
    contexts = [contextvars.copy_context() for _ in lengths]
    requests = [_request(model, seed, steps) for seed, steps in enumerate(lengths)]
    turns = [seed for seed, steps in enumerate(lengths) for _ in range(steps)]
    order.shuffle(turns)
    made: dict[int, Tensor] = {}
    for seed in turns:
        made[seed] = contexts[seed].run(next, requests[seed])
    for request in requests:
        request.close()  # from no context of its own: no error
    for seed, steps in enumerate(lengths):
        assert torch.equal(made[seed], fresh(steps, seed))
    assert tap_ext.stats(model).models[0].runs == len(lengths)


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_cancelled_run_on_wan_leaves_the_next_one_as_it_was(step: int) -> None:
    """lldacing/ComfyUI_Patches_ll#7: works until a run is cancelled

    After the first run that the user stopped, no cache worked any more until a restart.
    """
    case = zoo("WanPipeline")
    pipe = accelerated(case)
    expected, before = generate(case, pipe), tap_ext.stats(pipe)

    def stop(_: Any, now: int, *__: Any) -> dict[str, Any]:
        if now == step:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        generate(case, pipe, callback_on_step_end=stop)
    after = tap_ext.stats(pipe).skip
    assert torch.equal(generate(case, pipe), expected)
    assert tap_ext.stats(pipe).skip - after == before.skip > 0


def test_wan_is_skipped_and_near() -> None:
    """lldacing/ComfyUI_Patches_ll#8: no gain, or a worse picture

    On Wan one cache brought no speed at all and the other one cost quality.
    """
    runs_as_planned(zoo("WanPipeline"))
    runs_as_planned(zoo("WanImageToVideoPipeline"))


def test_another_quality_for_every_request() -> None:
    """vllm-project/vllm-omni#5853, sgl-project/sglang#33720: quality per request

    Requests ask for "lossless" or "high"; one of the two was bound to a certain set of GPUs.
    """
    pipe = builders.accelerated()
    for _ in range(2):
        tap_ext.accelerate(pipe, window=1)
        assert torch.equal(builders.generate(pipe), builders.untouched())
        tap_ext.accelerate(pipe, **builders.WINDOWED)
        assert torch.equal(builders.generate(pipe), builders.expected())
        tap_ext.accelerate(pipe, preset="fast")
        assert not torch.equal(builders.generate(pipe), builders.expected())
    assert not [name for name in Config.__dataclass_fields__ if "device" in name or "gpu" in name]
