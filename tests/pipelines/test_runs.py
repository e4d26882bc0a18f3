"""Runs of every shape and end, on FluxPipeline unless another one is needed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from torch import Tensor

import tap_ext
from tests.pipelines.builders import (
    CLOSE,
    FLUX,
    FULL,
    GUIDED,
    PLAIN,
    SKIP,
    STEPS,
    WINDOWED,
    Case,
    accelerated,
    arguments,
    at_step,
    build,
    counted,
    error,
    expected,
    generate,
    make_scheduler,
    make_transformer,
    noise,
    prompt,
    read_prompts,
    spoken,
    steps,
    untouched,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")

partial = pytest.mark.parametrize(
    "case", [case for case in PLAIN.values() if case.partial], ids=str
)


@partial
@pytest.mark.parametrize("strength, count", [(0.5, 5), (1.0, 10)])
def test_steps_count_from_the_first_executed_one(case: Case, strength: float, count: int) -> None:
    pipe = accelerated(case)
    generate(pipe, arguments(case), strength=strength)
    full = {5: (0, 1, 2), 10: (0, 1, 2, 5, 8)}[count]
    skip = tuple(sorted(set(range(count)) - set(full)))
    assert steps(pipe) == [(full, skip)]


@partial
def test_the_tail_is_that_of_the_executed_steps(case: Case) -> None:
    pipe = tap_ext.accelerate(build(case), warmup=1, window=20, tail=2)
    generate(pipe, arguments(case), strength=0.6)
    assert steps(pipe) == [((0, 4, 5), (1, 2, 3))]


def test_custom_sigmas_set_the_number_of_steps() -> None:
    pipe, sigmas = accelerated(), [1.0, 0.9, 0.7, 0.6, 0.3, 0.1]
    truth = generate(build(), sigmas=sigmas)
    assert 0 < error(generate(pipe, sigmas=sigmas), truth) < CLOSE
    assert steps(pipe) == [((0, 1, 2, 5), (3, 4))]


@pytest.mark.parametrize(
    "case, count, config",
    [
        (FLUX, 3, {"warmup": 1}),
        (GUIDED["FluxPipeline"], 3, {"warmup": 2}),
        (FLUX, 8, {"window": 1}),
    ],
    ids=["three steps", "three steps of two branches", "a window of one"],
)
def test_a_run_that_the_plan_leaves_full_is_untouched_and_warned_of_by_nobody(
    case: Case, count: int, config: dict[str, int]
) -> None:
    given = arguments(case) | {"num_inference_steps": count}
    pipe = tap_ext.accelerate(build(case), **config)
    assert torch.equal(generate(pipe, given), generate(build(case), given))
    assert steps(pipe) == [(tuple(range(count)), ())] * case.branches


def test_a_schnell_model_skips_half_of_four_steps() -> None:
    def schnell() -> Any:
        return build(transformer=make_transformer(guidance_embeds=False))

    given = arguments() | {"num_inference_steps": 4, "guidance_scale": 0.0}
    pipe = tap_ext.accelerate(schnell(), warmup=2, window=3)
    assert 0 < error(generate(pipe, given), generate(schnell(), given)) < CLOSE
    assert steps(pipe) == [((0, 1), (2, 3))]


@pytest.mark.parametrize("seed", [10, 20])
def test_a_picture_of_a_batch_is_the_one_made_alone(seed: int) -> None:
    several = [10, 20, 30]
    latents = torch.cat([noise(1, 16, 16, seed=each) for each in several])
    prompts = [prompt(each) for each in several]
    together = {name: torch.cat([each[name] for each in prompts]) for name in prompts[0]}
    batch = generate(accelerated(), latents=latents, **together)
    alone = generate(accelerated(), latents=noise(1, 16, 16, seed=seed), **prompt(seed))
    torch.testing.assert_close(batch[[several.index(seed)]], alone, rtol=1e-4, atol=1e-4)


def test_several_pictures_of_several_prompts() -> None:
    given = spoken(prompt=["a red fox", "one blue whale"], num_images_per_prompt=2)
    truth = generate(read_prompts(build()), given)
    pipe = read_prompts(accelerated())
    pictures = generate(pipe, given)
    assert pictures.shape == (4, 16, 16)
    assert all(0 < error(*pair) < CLOSE for pair in zip(pictures, truth, strict=True))
    assert steps(pipe) == [(FULL, SKIP)]


def test_a_decoded_picture() -> None:
    picture = generate(accelerated(), output_type="pt")
    assert picture.shape == (1, 3, 16, 16)
    assert 0 < error(picture, generate(build(), output_type="pt")) < CLOSE


def test_in_bfloat16_full_steps_are_untouched_and_skip_steps_follow_the_plan() -> None:
    given = {
        name: value.bfloat16() if isinstance(value, Tensor) else value
        for name, value in arguments().items()
    }

    def half() -> Any:
        return build(transformer=make_transformer().bfloat16())

    truth = generate(half(), given)
    assert torch.equal(generate(tap_ext.accelerate(half(), warmup=STEPS), given), truth)
    pipe = tap_ext.accelerate(half(), **WINDOWED)
    picture = generate(pipe, given)
    assert picture.dtype == torch.bfloat16
    assert 0 < error(picture.float(), truth.float()) < CLOSE
    assert steps(pipe) == [(FULL, SKIP)]


def test_two_resolutions_in_turn() -> None:
    pipe = accelerated()
    first = generate(pipe)
    other = generate(pipe, height=24, width=32)
    assert other.shape == (1, 48, 16)
    assert steps(pipe) == [(FULL, SKIP)]
    assert torch.equal(generate(pipe), first)
    assert torch.equal(generate(pipe, height=24, width=32), other)
    assert torch.equal(other, generate(accelerated(), height=24, width=32))


@pytest.mark.parametrize("warmup", [1, 2])
def test_a_short_warm_up_reads_nothing_of_the_run_before(warmup: int) -> None:
    """It has fewer full steps than a history has planes: old ones must not be taken for new."""
    pipe, fresh = (tap_ext.accelerate(build(), window=3, warmup=warmup) for _ in range(2))
    generate(pipe, **prompt(50))
    assert torch.equal(generate(pipe), generate(fresh))


def test_run_accelerate_run_restore_run() -> None:
    pipe = build()
    assert torch.equal(generate(pipe), untouched())
    tap_ext.accelerate(pipe, **WINDOWED)
    assert torch.equal(generate(pipe), expected())
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())
    tap_ext.accelerate(pipe, **WINDOWED)
    assert torch.equal(generate(pipe), expected())


def test_another_configuration_holds_from_the_next_run_on() -> None:
    pipe = accelerated()
    generate(pipe)
    tap_ext.accelerate(pipe, window=5, warmup=1)
    fresh = tap_ext.accelerate(build(), window=5, warmup=1)
    assert torch.equal(generate(pipe), generate(fresh))
    assert steps(pipe) == [((0, 5), (1, 2, 3, 4, 6, 7))]


def test_restore_from_inside_a_callback_ends_the_skipping() -> None:
    pipe = accelerated()
    with counted(pipe.transformer.single_transformer_blocks[-1]) as blocks:
        generate(pipe, **at_step(3, lambda pipe, _: tap_ext.restore(pipe) and None))
    assert blocks == [STEPS - 1]
    assert torch.equal(generate(pipe), untouched())


def test_histories_are_not_allocated_anew_for_each_run() -> None:
    pipe, held = accelerated(), set()
    for seed in range(4):
        generate(pipe, **prompt(seed))
        held.add(tap_ext.stats(pipe).models[0].nbytes)
    assert len(held) == 1


def test_runs_under_inference_mode_and_outside_of_it_may_follow_each_other() -> None:
    pipe = accelerated()
    for _ in range(2):
        with torch.inference_mode():
            inside = generate(pipe)
        assert torch.equal(inside, expected())
        assert torch.equal(generate(pipe), expected())


def test_edited_latents_need_no_new_history() -> None:
    def edit() -> dict[str, Any]:
        return at_step(4, lambda _, tensors: {"latents": 0.9 * tensors["latents"]})

    pipe = accelerated()
    picture = generate(pipe, **edit())
    assert steps(pipe) == [(FULL, SKIP)]
    assert 0 < error(picture, generate(build(), **edit())) < CLOSE
    assert torch.equal(generate(pipe, **edit()), picture)
    assert torch.equal(generate(pipe), expected())


def test_an_edited_prompt_begins_a_new_history() -> None:
    def edit() -> dict[str, Any]:
        tensors = {"prompt_embeds": prompt(30)["prompt_embeds"]}
        return {
            **at_step(3, lambda *_: tensors),
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }

    pipe = accelerated()
    picture = generate(pipe, **edit())
    assert steps(pipe) == [((0, 1, 2), (3,)), ((0, 1, 2), (3,))]
    assert 0 < error(picture, generate(build(), **edit())) < CLOSE


def test_a_prompt_edited_in_place_begins_a_new_history() -> None:
    def edit(_: Any, tensors: dict[str, Any]) -> None:
        tensors["prompt_embeds"].mul_(1.5)

    pipe = accelerated()
    generate(
        pipe,
        **at_step(3, edit),
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert steps(pipe) == [((0, 1, 2), (3,)), ((0, 1, 2), (3,))]


class _StopError(Exception):
    pass


def _stop(*_: Any) -> None:
    raise _StopError


@pytest.mark.parametrize("step", [0, 2, 3, 5])
def test_a_run_given_up_leaves_nothing_to_the_next(step: int) -> None:
    pipe = accelerated()
    with pytest.raises(_StopError):
        generate(pipe, **prompt(40), latents=noise(1, 16, 16, seed=3), **at_step(step, _stop))
    assert torch.equal(generate(pipe), expected())
    assert steps(pipe) == [(FULL, SKIP)]


def test_a_run_given_up_inside_the_model_leaves_nothing_to_the_next() -> None:
    pipe = accelerated()
    handle = pipe.transformer.proj_out.register_forward_hook(_stop)
    with pytest.raises(_StopError):
        generate(pipe)
    handle.remove()
    assert torch.equal(generate(pipe), expected())


@pytest.mark.parametrize("step", [0, 3, 4])
def test_an_interrupted_run_leaves_nothing_to_the_next(step: int) -> None:
    pipe = accelerated()
    generate(pipe, **at_step(step, lambda pipe, _: setattr(pipe, "_interrupt", True)))
    ((full, skip),) = steps(pipe)
    assert len(full) + len(skip) == step + 1
    assert torch.equal(generate(pipe), expected())


def test_a_preview_from_inside_a_callback_disturbs_nothing() -> None:
    previews = []

    def preview(pipe: Any, _: dict[str, Any]) -> None:
        other = copy.copy(pipe)
        other.scheduler = make_scheduler()
        previews.append(generate(other))

    pipe = accelerated()
    assert torch.equal(generate(pipe, **at_step(3, preview)), expected())
    assert torch.equal(previews[0], expected())


class _SigmaHeun(FlowMatchHeunDiscreteScheduler):
    """Heun's method for pipelines that insist on sigmas; its order is 2."""

    def set_timesteps(
        self, sigmas: Any = None, device: Any = None, mu: float | None = None
    ) -> None:
        super().set_timesteps(len(sigmas), device)


def test_a_scheduler_of_two_evaluations_per_step_is_refused_by_name() -> None:
    truth = generate(build(scheduler=_SigmaHeun()))
    pipe = accelerated(scheduler=_SigmaHeun())
    with pytest.warns(UserWarning, match="_SigmaHeun evaluates the model 2 times"):
        picture = generate(pipe)
    assert torch.equal(picture, truth)
    (fallbacks,) = [model.fallbacks for model in tap_ext.stats(pipe).models]
    assert list(fallbacks.values()) == [2 * STEPS - 1]


def test_a_scheduler_can_be_exchanged_after_a_refused_run() -> None:
    pipe = accelerated(scheduler=_SigmaHeun())
    with pytest.warns(UserWarning, match="_SigmaHeun"):
        generate(pipe)
    pipe.scheduler = make_scheduler()
    assert torch.equal(generate(pipe), expected())
