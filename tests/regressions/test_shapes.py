"""Sizes, step counts and batches that change from run to run, and within one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tests import tiny
from tests.pipelines import builders
from tests.pipelines.builders import noise, prompt
from tests.regressions.helpers import (
    FLUX,
    FULL,
    SMALL,
    STEPS,
    accelerated,
    bare,
    branches,
    error,
    fresh,
    silent,
    walk,
    zoo,
)
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def test_a_token_count_that_changes_after_the_first_step() -> None:
    """huggingface/diffusers#14829, huggingface/diffusers#14831: crash at the second step

    Qwen-Image 2.1 keeps the keys and values of its prompt after the first step, so later steps have
    fewer tokens than the history of TaylorSeer.
    """
    case = zoo("QwenImage21Pipeline")
    pipe = case.make()
    truth = generate(case, pipe)
    tap_ext.accelerate(pipe, window=3, warmup=2)
    with silent():
        near = generate(case, pipe)
        assert torch.equal(generate(case, pipe), near)
    assert 0 < error(near, truth) <= case.loose
    # each branch has one history of the first step and one of the seven others
    assert sorted(branches(pipe)[0]) == [((0,), ())] * 2 + [((0, 1, 4), (2, 3, 5, 6))] * 2


def _first_then(*, tokens: int, steps: int) -> tuple[Tensor, Tensor]:
    """A second sampler with other tokens or steps, after the first one and alone."""
    model = bare()
    tiny.sample(model, tiny.inputs(FLUX), STEPS)
    given = tiny.inputs(FLUX, seed=2)
    given["hidden_states"] = noise(1, tokens, 16, seed=3)
    given["img_ids"] = torch.stack([torch.arange(tokens) // 8, torch.arange(tokens) % 8], 1)
    given["img_ids"] = torch.nn.functional.pad(given["img_ids"], (1, 0)).float()
    return tiny.sample(model, given, steps), tiny.sample(bare(), given, steps)


def test_a_second_sampler_of_other_steps_and_another_size() -> None:
    """welltop-cn/ComfyUI-TeaCache#4: size of tensor a must match b where step counts differ

    The number of steps set at the cache was not the sampler's, so its counter did not come back to
    zero and the next picture, of another size, met the last one's residual.
    """
    assert torch.equal(*_first_then(tokens=36, steps=STEPS))


def test_a_second_sampler_of_fewer_steps() -> None:
    """welltop-cn/ComfyUI-TeaCache#15: switch it off and on again for another number of steps

    A face detailer with fewer steps after the main sampler failed with the cache of the latter.
    """
    assert torch.equal(*_first_then(tokens=tiny.GRID**2, steps=8))


def test_an_upscaled_second_pass() -> None:
    """welltop-cn/ComfyUI-TeaCache#17: 15808 against 3952 tokens in a workflow of two samplers

    Twenty steps, an upscaling by two, and eight steps at low noise: the second sampler failed.
    """
    assert torch.equal(*_first_then(tokens=4 * tiny.GRID**2, steps=8))


def test_a_size_that_changes_without_a_new_beginning() -> None:
    """welltop-cn/ComfyUI-TeaCache#7: tensor sizes differ in the second sampler

    Here the worst order: the larger pass goes on at the noise level where the first one stopped, so
    nothing but the shape tells that it is another one.
    """
    model, small = bare(), tiny.inputs(FLUX)
    first = walk(model, small)
    for _ in range(STEPS // 2):
        next(first)
    large = small | {
        "hidden_states": noise(1, 64, 16, seed=3),
        "img_ids": torch.zeros(64, 3).index_add_(1, torch.tensor([1]), torch.arange(64.0)[:, None]),
    }
    made = list(walk(model, large, start=0.5))
    alone = list(walk(bare(), large, start=0.5))
    assert all(map(torch.equal, made, alone))


def test_a_workflow_without_the_cache_after_one_with_it() -> None:
    """welltop-cn/ComfyUI-TeaCache#8: the next workflow fails although the cache is set to nothing

    State on the class stayed behind when the cache was no longer wanted.
    """
    model = bare()
    tiny.sample(model, tiny.inputs(FLUX), STEPS, stop=5)
    tap_ext.restore(model)
    for batch in (1, 2):
        given = tiny.inputs(FLUX, batch=batch)
        truth = tiny.sample(tiny.build(FLUX), given, STEPS)
        assert torch.equal(tiny.sample(model, given, STEPS), truth)


def test_counters_belong_to_one_model() -> None:
    """welltop-cn/ComfyUI-TeaCache#21, welltop-cn/ComfyUI-TeaCache#182: counters on the class

    The number of steps and the present one were attributes of the class: a second model or a second
    sampler went on counting where the first one was.
    """
    given = tiny.inputs(FLUX)
    models = [bare(seed=seed) for seed in (0, 1)]
    walks = [walk(models[0], given, 12), walk(models[1], given, 9)]
    made = [list(steps)[-1] for steps in (walks[0], walks[1])]
    interleaved = [walk(models[0], given, 12), walk(models[1], given, 9)]
    for _ in range(9):
        both = [next(steps) for steps in interleaved]
    both[0] = list(interleaved[0])[-1]
    assert all(map(torch.equal, both, made))
    assert [branches(model)[0][0][0] for model in models] == [FULL, (0, 1, 2, 6)]


def test_a_picture_of_a_batch_is_the_one_made_alone() -> None:
    """nunchux-ai/nunchaku#596, nunchux-ai/nunchaku#601: a batch is not what its rows are

    Whether to skip was decided by a distance over the whole batch, so a picture depended on those
    beside it.
    """
    seeds = (10, 20, 30)
    together = {name: torch.cat([prompt(seed)[name] for seed in seeds]) for name in prompt(0)} | {
        "latents": torch.cat([noise(1, 16, 16, seed=seed) for seed in seeds])
    }
    batch = builders.generate(builders.accelerated(), **together)
    for row, seed in zip(batch, seeds, strict=True):
        one = prompt(seed) | {"latents": noise(1, 16, 16, seed=seed)}
        alone = builders.generate(builders.accelerated(), **one)
        torch.testing.assert_close(row[None], alone, rtol=1e-4, atol=1e-4)


def test_the_first_row_decides_for_no_other() -> None:
    """nunchux-ai/nunchaku#597: all rows but the first are poor

    The cache took the first row's decision for all; here the first row moves wildly and the others
    must not notice, in what they choose or in what they become.
    """
    calm = tiny.inputs(FLUX, batch=3)
    wild = {k: v.clone() for k, v in calm.items()}
    for name in ("hidden_states", "encoder_hidden_states", "pooled_projections"):
        wild[name][0] *= -30
    rows, chosen = [], []
    for given in (calm, wild):
        model = bare(SMALL.replace(trace=True))
        rows.append(tiny.sample(model, given, STEPS))
        chosen.append(torch.stack([choice.index for choice in tap_ext.stats(model).trace]))
    assert not torch.equal(chosen[0][:, 0], chosen[1][:, 0])
    assert torch.equal(chosen[0][:, 1:], chosen[1][:, 1:])
    assert torch.equal(rows[0][1:], rows[1][1:])


def test_another_batch_size_in_every_run() -> None:
    """nunchux-ai/nunchaku#307: a batch of two fails

    The cache was made for one row and stayed so.
    """
    model = bare()
    for batch in (1, 2, 3, 2, 1):
        given: dict[str, Any] = tiny.inputs(FLUX, batch=batch)
        made = tiny.sample(model, given, STEPS)
        assert made.shape[0] == batch
        assert torch.equal(made, tiny.sample(bare(), given, STEPS))
    assert torch.equal(made, fresh())


def test_two_resolutions_of_one_accelerated_wan() -> None:
    """welltop-cn/ComfyUI-TeaCache#17: the same on video

    A second pass of more frames on the pipeline that made the first one.
    """
    case = zoo("WanPipeline")
    frames = case.arguments()["num_frames"]
    pipe = accelerated(case)
    first = generate(case, pipe)
    longer = generate(case, pipe, num_frames=2 * frames - 1)
    assert torch.equal(longer, generate(case, accelerated(case), num_frames=2 * frames - 1))
    assert torch.equal(generate(case, pipe), first)
