"""The calls of one step are told apart, however many there are and whoever makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxControlNetPipeline
from torch import Tensor, nn

import tap_ext
from tests import tiny
from tests.pipelines import builders
from tests.regressions.helpers import (
    FLUX,
    FULL,
    STEPS,
    bare,
    branches,
    error,
    fresh,
    runs_as_planned,
    walk,
    zoo,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


@torch.no_grad()
def _guided(models: list[nn.Module], prompts: list[dict[str, Any]]) -> Tensor:
    """One call per prompt and step, of the model at its place; their mean moves the latents."""
    latents = prompts[0]["hidden_states"]
    for step in range(STEPS):
        timestep = torch.tensor([1 - step / STEPS])
        velocities = [
            model(**{**prompt, "hidden_states": latents}, timestep=timestep, return_dict=False)[0]
            for model, prompt in zip(models, prompts, strict=True)
        ]
        latents = latents - torch.stack(velocities).mean(0) / STEPS
    return latents


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_branches_without_marks(count: int) -> None:
    """huggingface/diffusers#11180: branches marked by hand

    The design debate: every pipeline has to tell the model which of its branches it calls, with
    room for as many as a guidance method has.
    """
    prompts = [tiny.inputs(FLUX, seed) for seed in range(count)]
    model = bare()
    together = _guided([model] * count, prompts)
    assert torch.equal(together, _guided([bare() for _ in prompts], prompts))
    assert [full for full, _ in branches(model)[0]] == [FULL] * count


class _Combined(nn.Module):
    """Calls its transformer twice and combines what it says, inside its own forward."""

    def __init__(self, inner: nn.Module, negative: dict[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        self.negative = {k: v for k, v in negative.items() if "ids" not in k}
        self.negative.pop("hidden_states")

    def forward(self, hidden_states: Tensor, timestep: Tensor, **prompt: Any) -> tuple[Tensor]:
        given = {"hidden_states": hidden_states, "timestep": timestep, "return_dict": False}
        yes = self.inner(**{**prompt, **given})[0]
        no = self.inner(**{**prompt, **self.negative, **given})[0]
        return (no + 4 * (yes - no),)


@pytest.mark.parametrize("whole", [False, True], ids=["the transformer", "what calls it"])
def test_guidance_inside_a_forward_is_kept(whole: bool) -> None:
    """vllm-project/vllm-omni#4659: guidance dropped in silence

    Bagel calls its blocks once per branch and combines the branches inside one forward; the cache
    around it ran the conditional branch alone.
    """
    positive, negative = tiny.inputs(FLUX, 1), tiny.inputs(FLUX, 2)
    plain = _Combined(tiny.build(FLUX), negative).eval()

    def sample(model: nn.Module) -> Tensor:
        given, latents = dict(positive), positive["hidden_states"]
        del given["hidden_states"]
        with torch.no_grad():
            for step in range(STEPS):
                timestep = torch.tensor([1 - step / STEPS])
                latents = latents - model(latents, timestep, **given)[0] / STEPS
        return latents

    truth = sample(plain)
    unguided = tiny.sample(tiny.build(FLUX), positive, STEPS)
    assert error(unguided, truth) > 0.15
    model = _Combined(tiny.build(FLUX), negative).eval()
    if whole:
        tap_ext.accelerate(model, window=4)
        with pytest.warns(UserWarning, match="running _Combined untouched"):
            assert torch.equal(sample(model), truth)
        return
    tap_ext.accelerate(model.inner, window=4)
    assert 0 < error(sample(model), truth) < 0.05
    assert [full for full, _ in branches(model.inner)[0]] == [FULL] * 2


def test_calls_at_one_noise_level_are_told_apart_by_their_order() -> None:
    """chengzeyi/Comfy-WaveSpeed#83, chengzeyi/Comfy-WaveSpeed#57: the other branch's residual

    For want of memory the two branches were split into separate calls at the same sigma, and each
    was given what the cache had kept of the other. Here even their prompts are the same tensors.
    """
    prompt = tiny.inputs(FLUX)
    others = [{**prompt, "hidden_states": -prompt["hidden_states"]}, prompt]
    model = bare()
    with tap_ext.run():
        walks = [walk(model, each) for each in others]
        for _ in range(STEPS):
            made = [next(each) for each in walks]
    for each, given in zip(made, others, strict=True):
        assert torch.equal(each, fresh(hidden_states=given["hidden_states"]))
    assert [full for full, _ in branches(model)[0]] == [FULL] * 2


def test_sampling_that_begins_again_at_a_higher_noise_level() -> None:
    """chengzeyi/Comfy-WaveSpeed#83: split sampling

    The same thread: a sampler stopped half-way, the next one began at sigma 1, and the cache went
    on as if nothing had happened.
    """
    model, given = bare(), tiny.inputs(FLUX)
    steps = walk(model, given)
    for _ in range(STEPS // 2):
        next(steps)
    assert torch.equal(tiny.sample(model, given, STEPS), fresh())


def test_text_and_control_pipelines_share_one_transformer() -> None:
    """nunchux-ai/nunchaku#437: two pipelines, one transformer

    A text-to-image and a ControlNet pipeline around the same cached transformer failed: attributes
    that the other one had set, and a context that was never opened.
    """
    case = builders.PLAIN["FluxControlNetPipeline"]
    text = builders.accelerated()
    control = tap_ext.accelerate(
        builders.build(case, transformer=text.transformer), **builders.WINDOWED
    )
    assert isinstance(control, FluxControlNetPipeline)
    for _ in range(2):
        assert torch.equal(builders.generate(text), builders.expected())
        picture = builders.generate(control, builders.arguments(case))
        assert torch.equal(picture, builders.expected(case))
    tap_ext.restore(text)
    assert torch.equal(builders.generate(text), builders.untouched())


@pytest.mark.parametrize("guided", ["", "+cfg"], ids=["plain", "cfg"])
def test_hunyuan_video_with_and_without_guidance(guided: str) -> None:
    """sgl-project/sglang#19957: state in fragments

    TeaCache was mixed into model classes, its parameters spread over three objects, each branch had
    its own copy of the code, and HunyuanVideo did not work.
    """
    runs_as_planned(zoo(f"HunyuanVideoPipeline{guided}"))
