"""Weights that come and go, and what a history costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

import tap_ext
from tests import tiny
from tests.models import MODELS
from tests.models.base import build, inputs, sample
from tests.pipelines import builders
from tests.pipelines.test_hooks import NO_GROUPS
from tests.regressions.helpers import (
    FLUX,
    SMALL,
    STEPS,
    accelerated,
    bare,
    branches,
    error,
    psnr,
    zoo,
)
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def _grouped(model: Any, device: str, **how: Any) -> None:
    model.enable_group_offload(torch.device(device), torch.device("cpu"), **how)


def _same_with_and_without(offload: Callable[[Any], Any]) -> None:
    """Offloaded before and after it is accelerated, it makes what it makes in memory."""
    for first in (True, False):
        pipe = builders.build(vae=builders.make_vae())
        if first:
            offload(pipe)
        tap_ext.accelerate(pipe, **builders.WINDOWED)
        if not first:
            offload(pipe)
        for _ in range(2):
            assert torch.equal(builders.generate(pipe), builders.expected())
        assert builders.steps(pipe) == [(builders.FULL, builders.SKIP)]


def test_offloading_of_whole_models() -> None:
    """vllm-project/vllm-omni#1710: the cache fails with offloading to the CPU

    Hooks of the two were put around the same forward and one of them was lost.
    """
    _same_with_and_without(lambda pipe: pipe.enable_model_cpu_offload(device="cpu"))


@NO_GROUPS
def test_offloading_layer_by_layer() -> None:
    """vllm-project/vllm-omni#1779: the cache fails with offloading by layers

    Blocks that are skipped are not called, so whatever waits for the call of the next block must
    not depend on it.
    """
    _same_with_and_without(
        lambda pipe: _grouped(pipe.transformer, "cpu", offload_type="leaf_level")
    )


@NO_GROUPS
def test_blocks_that_are_swapped() -> None:
    """kijai/ComfyUI-HunyuanVideoWrapper#226: TeaCache with block swapping raises

    A skipped step left the order in which blocks are fetched and put away in disarray.
    """
    case = zoo("HunyuanVideoPipeline")
    expected = generate(case, accelerated(case))
    pipe = accelerated(case)
    _grouped(pipe.transformer, "cpu", offload_type="block_level", num_blocks_per_group=1)
    for _ in range(2):
        assert torch.equal(generate(case, pipe), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["model", "sequential", "leaf_level", "block_level"])
def test_histories_follow_the_device(how: str) -> None:
    """vllm-project/vllm-omni#1710, vllm-project/vllm-omni#1779: with weights on the host

    The same where weights really move between the host and a GPU; what a history holds lies where
    the model computes.
    """

    def offload(pipe: Any) -> None:
        if how == "model":
            pipe.enable_model_cpu_offload()
        elif how == "sequential":
            pipe.enable_sequential_cpu_offload()
        else:
            pipe.vae.to("cuda")
            blocks = {"num_blocks_per_group": 1} if how == "block_level" else {}
            _grouped(pipe.transformer, "cuda", offload_type=how, use_stream=True, **blocks)

    plain, fast = (builders.build(vae=builders.make_vae()) for _ in range(2))
    offload(plain)
    truth = builders.generate(plain)
    offload(fast)
    tap_ext.accelerate(fast, **builders.WINDOWED)
    made = builders.generate(fast)
    assert 0 < error(made, truth) < builders.CLOSE
    assert torch.equal(builders.generate(fast), made)
    assert builders.steps(fast) == [(builders.FULL, builders.SKIP)]


def _deep(blocks: int) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=blocks,
        num_single_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def _held(model: nn.Module, steps: int = STEPS, **config: Any) -> int:
    tap_ext.accelerate(model, SMALL.replace(**config))
    tiny.sample(model, tiny.inputs(FLUX), steps)
    return tap_ext.stats(model).models[0].nbytes


def test_memory_does_not_grow_with_depth() -> None:
    """Shenyi-Z/ToCa#14: out of memory on 24 GB, 55 GB recommended

    Every layer kept features of its own. Here one history serves all layers: two stacks of three
    planes, an output and an index per token.
    """
    tokens, channels = tiny.GRID**2, 32
    expected = 4 * tokens * (2 * 3 * channels + channels + 1)
    held = {_held(_deep(blocks)) for blocks in (1, 2, 9)}
    assert len(held) == 1 and expected <= held.pop() < 1.5 * expected


def test_memory_is_known_beforehand_on_flux2() -> None:
    """philipy1219/ComfyUI-TaylorSeer#20: out of memory with FLUX.2 on 12 GB

    The lightest variant did not fit. What is held here depends neither on the number of blocks nor
    on that of steps, and fewer orders hold less of it.
    """
    case = MODELS["Flux2Transformer2DModel"]
    held = {}
    for order, steps in ((2, 8), (2, 24), (1, 8)):
        model = tap_ext.accelerate(build(case), window=4, order=order)
        sample(case, model, inputs(case), steps)
        held[order, steps] = tap_ext.stats(model).models[0].nbytes
    assert held[2, 8] == held[2, 24] > held[1, 8] > 0
    tap_ext.restore(model)
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.stats(model)


def test_memory_grows_with_the_frames_alone() -> None:
    """ali-vilab/TeaCache#10: two or three times slower than none at 121 frames

    On a machine short of memory the cache of a long LTX clip pushed the model out of it. A history
    grows with the tokens and by nothing else, and a second clip needs no more.
    """
    case = zoo("LTXPipeline+unguided")
    frames, per_frame = case.arguments()["num_frames"], []
    pipe = accelerated(case)
    for count in (frames, 2 * frames - 1):
        tap_ext.restore(pipe)
        tap_ext.accelerate(pipe, window=3, warmup=2)
        made = generate(case, pipe, num_frames=count)
        held = tap_ext.stats(pipe).models[0].nbytes
        generate(case, pipe, num_frames=count)
        assert tap_ext.stats(pipe).models[0].nbytes == held
        per_frame.append((held - 8) / made[0].numel())  # less the blend's two numbers of one row
    assert per_frame[0] == pytest.approx(per_frame[1], rel=1e-6)


def test_a_warm_up_is_careful_on_ltx() -> None:
    """openvinotoolkit/openvino.genai#4230: poor LTX clips with TaylorSeer

    What was skipped from the start cost the clip its content. A run can be warmed up in full, and
    then stays near the untouched one.
    """
    case = zoo("LTXPipeline+unguided")
    truth = generate(case, case.make(), num_inference_steps=20)
    pipe = tap_ext.accelerate(case.make(), warmup=3)
    made = generate(case, pipe, num_inference_steps=20)
    assert branches(pipe)[0][0][0] == (0, 1, 2, 8, 14)
    assert psnr(made, truth) > 35


def test_a_poor_model_is_left_as_it_is() -> None:
    """openvinotoolkit/openvino.genai#3761: black pictures from FLUX in INT4, with and without

    The untouched model was black as well. Full steps of a model in few bits are that model's to the
    bit, and one that makes no numbers is not hidden behind a forecast.
    """
    model = tiny.build(FLUX)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.abs().max() / 7 + 1e-12
            parameter.copy_((parameter / scale).round() * scale)
    given = tiny.inputs(FLUX)
    truth = tiny.sample(model, given, STEPS)
    assert torch.equal(tiny.sample(tap_ext.accelerate(model, window=1), given, STEPS), truth)
    black = bare()
    with torch.no_grad():
        black.proj_out.weight.fill_(torch.nan)
    assert tiny.sample(black, given, STEPS).isnan().all()
