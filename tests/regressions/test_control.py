"""What a model is given besides the prompt, and what it adds between its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext import Config
from tap_ext.predictors import Reuse
from tests import tiny
from tests.pipelines import builders
from tests.regressions.helpers import FLUX, STEPS, WINDOWED, bare, error, psnr, zoo
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


@pytest.mark.parametrize("case", builders.CONTROLNETS, ids=str)
def test_flux_with_a_controlnet(case: builders.Case) -> None:
    """chengzeyi/ParaAttention#34: a wrong picture from FLUX with a ControlNet

    What the ControlNet adds between the blocks was lost on skipped steps, or counted twice.
    """
    given = builders.arguments(case)
    truth = builders.generate(builders.build(case), given)
    made = builders.generate(builders.accelerated(case), given)
    without = builders.generate(builders.build(case), given, controlnet_conditioning_scale=0.0)
    assert 0 < error(made, truth) < 0.3 * error(without, truth)


def test_vace_still_controls() -> None:
    """Comfy-Org/ComfyUI#7891: control of VACE without effect

    With TeaCache on, the clip did not follow the video that it was to follow.
    """
    case = zoo("WanVACEPipeline")
    truth = generate(case, case.make())
    uncontrolled = generate(case, case.make(), conditioning_scale=0.0)
    made = generate(case, tap_ext.accelerate(case.make(), **WINDOWED))
    assert error(made, truth) < 0.3 * error(uncontrolled, truth)


@torch.no_grad()
def test_the_residual_is_added_once_and_not_once_per_block() -> None:
    """vllm-project/vllm-omni#5561: 11.3 dB instead of 29.6 dB

    MagCache added the residual of all blocks at every block. Where two steps are the same, a step
    that reuses the residual must be the model's own; and over a run it stays above 29.6 dB.
    """
    model = bare(Config(window=4, warmup=1, predictors=(Reuse(),)))
    given, made = tiny.inputs(FLUX), list[Tensor]()
    for time in (0.5, 0.5 - 1e-6):
        made.append(model(**given, timestep=torch.tensor([time]), return_dict=False)[0])
    assert tap_ext.stats(model).skip == 1
    assert error(made[1], made[0]) < 1e-4
    truth = tiny.sample(tiny.build(FLUX), given, STEPS)
    assert psnr(tiny.sample(bare(), given, STEPS), truth) > 29.6
