"""Which steps are full: of any number of steps, known or not, per model, from the first run on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import tap_ext
from tap_ext import Config
from tap_ext.backbones import find_spec
from tap_ext.plan import Paced
from tap_ext.views import Call, Views, run_view
from tests import tiny
from tests.pipelines import builders
from tests.regressions.helpers import (
    FLUX,
    SMALL,
    STEPS,
    bare,
    branches,
    error,
    fresh,
    planned,
    zoo,
)
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def test_each_expert_counts_its_own_steps() -> None:
    """huggingface/diffusers#14025: both experts planned with the steps of the whole run

    Wan 2.2 calls one transformer in the first part of the run and another one in the rest; each was
    given the number of all steps, so warm-up and end of the second lay where it was never called.
    """
    case = zoo("WanPipeline+2.2")
    pipe = tap_ext.accelerate(case.make(), window=3, warmup=2, tail=1)
    generate(case, pipe)
    first, second = branches(pipe)
    assert first == [((0, 1, 4), (2, 3, 5))] * 2
    assert second == [((0, 1, 4, 5), (2, 3))] * 2  # the end of the run is its own


def test_the_noise_of_the_second_expert_is_its_own() -> None:
    """huggingface/diffusers#14025: ratios of the whole run, read from its beginning

    The same where full steps are paced by the noise: by those of the steps that are left, and as
    many of them as their share of the run.
    """
    case = zoo("WanPipeline+2.2")
    pipe = tap_ext.accelerate(case.make(), schedule="paced", full_steps=4)
    generate(case, pipe)
    _, second = branches(pipe)
    sigmas = pipe.scheduler.sigmas.tolist()[case.steps // 2 : case.steps + 1]
    angles = tuple(math.atan2(sigma, 1 - sigma) for sigma in sigmas)
    full = tuple(Paced(2, angles).full_steps(len(sigmas) - 1))
    assert [branch for branch, _ in second] == [full] * 2 and len(full) == 2


def test_a_transformer_alone_is_told_no_number_of_steps() -> None:
    """vipshop/cache-dit#540, vipshop/cache-dit#542: the number of steps is asked for beforehand

    A server that caches the transformer alone does not know how many steps a request will have.
    """
    model = bare()
    for steps in (12, 7, 20):
        tiny.sample(model, tiny.inputs(FLUX), steps)
        assert branches(model) == [[planned(steps, SMALL)]]


@pytest.mark.parametrize("steps", [4, 13, 50])
def test_any_number_of_steps(steps: int) -> None:
    """sgl-project/sglang#18498: 50 steps, hard-coded

    MagCache's ratios were laid out for 50 steps whatever the request asked for.
    """
    config = Config(**builders.WINDOWED, tail=2)
    pipe = tap_ext.accelerate(builders.build(), config)
    builders.generate(pipe, num_inference_steps=steps)
    assert builders.steps(pipe) == [planned(steps, config)]


@torch.no_grad()
def test_what_decides_is_what_the_first_layer_is_given() -> None:
    """vllm-project/vllm-omni#2682: the difference of two timesteps as the signal

    That is the same in every run, so the cache was a fixed schedule in disguise. Here candidates
    are chosen by the modulated input of the first attention, which depends on the picture.
    """
    model = tiny.build(FLUX)
    spec = find_spec(model)
    assert spec is not None
    views, call, seen = Views(model, spec), Call.full(spec), []
    model.transformer_blocks[0].attn.register_forward_pre_hook(
        lambda _, args, given: seen.append(given.get("hidden_states", *args[:1])), with_kwargs=True
    )
    run_view(views.full, call, (), tiny.inputs(FLUX) | {"timestep": torch.tensor([0.5])})
    assert torch.allclose(call.passages[0].probe, seen[0], atol=1e-6)
    chosen = []
    for seed in (1, 2):
        traced = bare(SMALL.replace(trace=True))
        tiny.sample(traced, tiny.inputs(FLUX, seed), STEPS)
        chosen.append(torch.stack([choice.index for choice in tap_ext.stats(traced).trace]))
    assert not torch.equal(*chosen)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
def test_few_steps(steps: int) -> None:
    """Roblox/SmoothCache#2: abnormal pictures at 20 steps

    The schedule had been made for another number of steps. Here the default knows of none, leaves
    very short runs alone and stays near the model at others.
    """
    truth = tiny.sample(tiny.build(FLUX), tiny.inputs(FLUX), steps)
    made = fresh(steps, config=Config())
    assert torch.equal(made, truth) if steps <= 3 else 0 < error(made, truth) < 0.05


def test_the_first_steps_can_be_full() -> None:
    """welltop-cn/ComfyUI-TeaCache#62: a blocky mess on Wan at 720p

    What was skipped in the first steps, where a video takes its shape, could not be mended later.
    """
    case = zoo("WanPipeline")
    pipe = tap_ext.accelerate(case.make(), warmup=3)
    generate(case, pipe)
    for full, _ in branches(pipe)[0]:
        assert full[:3] == (0, 1, 2)
    for config in (Config(preset="paper"), Config(method="taylorseer"), Config(window=9)):
        plan = config.plan(50)
        assert all(plan.is_full(step) for step in range(3))


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "cfg"])
@pytest.mark.parametrize("shift", [1.0, 6.0])
def test_guidance_and_steps_need_no_calibration(guided: bool, shift: float) -> None:
    """Zehong-Ma/MagCache#13, Zehong-Ma/ComfyUI-MagCache#26, deepbeepmeep/Wan2GP#368: calibrate anew

    Ratios were measured for one number of steps and without guidance, and hold for nothing else.
    One configuration serves all of it here, and has no field for a measurement.
    """
    case = builders.GUIDED["FluxPipeline"] if guided else builders.FLUX
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipe = builders.accelerated(case, scheduler=scheduler)
    for steps in (8, 14):
        given: dict[str, Any] = builders.arguments(case) | {"num_inference_steps": steps}
        truth = builders.generate(builders.build(case, scheduler=scheduler), given)
        assert 0 < error(builders.generate(pipe, given), truth) < builders.CLOSE
        assert builders.steps(pipe) == [planned(steps, Config(**builders.WINDOWED))] * case.branches
    assert not {"ratios", "coefficients", "threshold"} & set(Config.__dataclass_fields__)


class _Spy:
    """A predictor that notes how far each forecast lies from the newest full step."""

    history = 1

    def __init__(self) -> None:
        self.distances: list[float] = []

    def weights(self, past: Any, target: float) -> list[float]:
        self.distances.append(target - past[0])
        return [1.0]


def test_skipped_steps_are_counted_one_by_one() -> None:
    """Zehong-Ma/ComfyUI-MagCache#17: 1, 3, 7, 15 instead of 1, 2, 3, 4

    A slip in an addition let the count of skipped steps grow twice as fast, which cost quality.
    """
    spy = _Spy()
    model = bare(Config(window=6, predictors=(spy,), blend=False))
    tiny.sample(model, tiny.inputs(FLUX), 20)
    (((full, skip),),) = branches(model)
    assert full == (0, 1, 2, 8, 14) and sorted((*full, *skip)) == list(range(20))
    assert spy.distances == [1, 2, 3, 4, 5] * 3
