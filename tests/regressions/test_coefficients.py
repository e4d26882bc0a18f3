"""No model needs numbers that somebody has to measure first."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import tap_ext
from tap_ext import Config
from tap_ext.backbones import SPECS, Stream
from tests import tiny
from tests.regressions.helpers import FULL, STEPS, bare, branches, error, silent, zoo
from tests.zoo.base import generate

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def test_a_class_that_nobody_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface/diffusers#12652: other logic for every model

    Reviewers of the TeaCache pull request asked why it has to know each model: its forward, its
    polynomial. Here the model's spec is taken away and it is accelerated all the same.
    """
    family = tiny.MODELS[1]
    model = tiny.build(family)
    truth = tiny.sample(model, tiny.inputs(family), STEPS)
    monkeypatch.delitem(SPECS, type(model).__name__)
    with silent():
        made = tiny.sample(tap_ext.accelerate(model, window=4), tiny.inputs(family), STEPS)
    assert [full for full, _ in branches(model)[0]] == [FULL]
    assert 0 < error(made, truth) < 0.05


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_no_scale_of_the_weights_switches_it_off(scale: float) -> None:
    """vllm-project/vllm-omni#5840: thresholds at which nothing is skipped

    The polynomial explained a tenth of the variance after 70 prompts of 50 steps, and at thresholds
    of 0.10 to 0.15 the cache was slower than none. No threshold exists here.
    """
    model = tiny.build(tiny.MODELS[0])
    with torch.no_grad():
        for parameter in model.transformer_blocks.parameters():
            parameter.mul_(scale)
    tiny.sample(tap_ext.accelerate(model, window=4), tiny.inputs(tiny.MODELS[0]), STEPS)
    assert [full for full, _ in branches(model)[0]] == [FULL]
    assert "threshold" not in Config.__dataclass_fields__


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


def test_no_spec_holds_a_number() -> None:
    """vllm-project/vllm-omni#833, vllm-project/vllm-omni#940, vllm-project/vllm-omni#848: borrowed

    Coefficients are hard to estimate, so Bagel was shipped with those of FLUX. A spec has names of
    modules and arguments, and nothing that could be borrowed.
    """
    for spec in SPECS.values():
        assert _numbers(json.loads(json.dumps(spec.to_dict(), default=str))) == []


def test_the_first_run_of_two_experts_is_accelerated() -> None:
    """sgl-project/sglang#36767: fifty prompts, and a polynomial per expert

    A model of two experts had to be calibrated for each of them before its first use.
    """
    case = zoo("WanPipeline+2.2")
    pipe = tap_ext.accelerate(case.make())
    with silent():
        generate(case, pipe)
    assert all(model.skip >= 6 for model in tap_ext.stats(pipe).models)


@pytest.mark.parametrize("family", tiny.MODELS, ids=lambda family: family.name)
def test_one_configuration_for_every_family(family: tiny.Tiny) -> None:
    """ali-vilab/TeaCache#80: how to set the coefficients for another model

    The answer was to sample and to fit. Here the default is the same for all.
    """
    model = tap_ext.accelerate(tiny.build(family))
    truth = tiny.sample(tiny.build(family), tiny.inputs(family), STEPS)
    assert 0 < error(tiny.sample(model, tiny.inputs(family), STEPS), truth) < 0.05
    assert branches(model) == [[((0, 1, 2, 8), (3, 4, 5, 6, 7, 9, 10, 11))]]


@pytest.mark.parametrize("name", ["WanPipeline+2.2", "LTX2Pipeline+audio"])
def test_nothing_is_asked_of_the_user(name: str) -> None:
    """NVIDIA/TensorRT-LLM#13170: coefficients must be given for Wan 2.2 and LTX-2

    Without them the cache could not be switched on for these models.
    """
    case = zoo(name)
    pipe = tap_ext.accelerate(case.make())
    with silent():
        generate(case, pipe)
    assert all(model.skip for model in tap_ext.stats(pipe).models)


def test_a_spec_of_ones_own_is_names_alone() -> None:
    """ali-vilab/TeaCache#80: the same for a model of one's own

    What a user writes to describe one is where its blocks are and where its head.
    """
    model = bare()
    spec = tap_ext.stats(model).models[0].spec
    assert isinstance(model, nn.Module) and spec is not None
    assert _numbers(spec.to_dict()) == [] and _numbers(vars(Stream("norm_out"))) == []
