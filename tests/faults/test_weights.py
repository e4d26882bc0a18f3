"""Faults in the weights: adapters, edits in place, residuals from beside, other devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import tap_ext
from tests.faults.common import done, error, fast, given, plain, sample
from tests.pipelines.builders import (
    CLOSE,
    CONTROLNETS,
    accelerated,
    arguments,
    at_step,
    build,
    expected,
    generate,
)


def _adapt(model: nn.Module, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    model.add_adapter(config, adapter_name=name)


def _adapted(model: nn.Module, name: str = "one", seed: int = 0) -> nn.Module:
    _adapt(model, name, seed)
    return model


def test_an_adapter_that_comes_and_goes_between_runs() -> None:
    """Row 25: load, scale, swap and unload; each run equals a fresh accelerate with that state."""
    model = fast()
    bare = sample(model)
    _adapt(model, "one", seed=1)
    with_one = sample(model)
    assert not torch.equal(with_one, bare)
    assert torch.equal(with_one, sample(tap_ext.accelerate(_adapted(plain(), "one", 1), window=3)))
    model.set_adapters("one", 0.5)
    scaled = plain()
    _adapt(scaled, "one", seed=1)
    scaled.set_adapters("one", 0.5)
    assert torch.equal(sample(model), sample(tap_ext.accelerate(scaled, window=3)))
    _adapt(model, "two", seed=2)
    model.set_adapters("two")
    other = sample(tap_ext.accelerate(_adapted(plain(), "two", 2), window=3))
    assert torch.equal(sample(model), other)
    model.delete_adapters(["one", "two"])
    assert torch.equal(sample(model), bare)


def test_an_adapter_that_comes_in_the_middle_of_a_run() -> None:
    """Row 25: the run goes on, and the next one owes nothing to it."""
    pipe = accelerated()
    picture = generate(pipe, **at_step(3, lambda pipe, _: _adapt(pipe.transformer, "one", 1)))
    assert torch.isfinite(picture).all()
    fresh = build()
    _adapt(fresh.transformer, "one", 1)
    assert torch.equal(generate(pipe), generate(tap_ext.accelerate(fresh, window=3)))


def test_weights_swapped_in_place_in_a_loaded_adapter() -> None:
    """Row 25: hotswap writes other numbers into the same parameters."""
    model = tap_ext.accelerate(_adapted(plain(), "one", 1), window=3)
    sample(model)
    source = _adapted(plain(), "one", 5)
    with torch.no_grad():
        for mine, other in zip(model.parameters(), source.parameters(), strict=True):
            mine.copy_(other)
    assert torch.equal(sample(model), sample(tap_ext.accelerate(source, window=3)))


@pytest.mark.parametrize("device_graphs", ["off", "all"])
def test_weights_edited_in_place(device: str, device_graphs: str) -> None:
    """Row 27: the next run is right; a captured graph reads the live weights."""
    model = fast(device, window=3, graphs=device_graphs)
    sample(model, given(device=device))
    fresh = plain(device)
    for each in (model, fresh):
        for parameter in each.parameters():
            parameter.data.mul_(0.9)
    truth = sample(tap_ext.accelerate(fresh, window=3, graphs="off"), given(device=device))
    assert torch.equal(sample(model, given(device=device)), truth)


@pytest.mark.parametrize("end", [0.25, 0.5])
def test_control_on_a_part_of_the_schedule_counts_once(end: float) -> None:
    """Row 26: of residuals that are given on some steps alone; models by tests/models."""
    case = CONTROLNETS[0]
    changes: dict[str, Any] = {**arguments(case), "control_guidance_end": end}
    pipe, truth = accelerated(case), generate(build(case), changes)
    assert error(generate(pipe, changes), truth) < 4 * CLOSE
    assert torch.equal(generate(pipe, arguments(case)), expected(case))


@torch.no_grad()
def test_a_residual_from_beside_replaces_nothing_twice() -> None:
    """Row 26: on a step like the one before, a forecast is the output, residuals included."""
    torch.manual_seed(3)
    beside: dict[str, list[Tensor]] = {
        "controlnet_block_samples": [torch.randn(1, 16, 32)],
        "controlnet_single_block_samples": [torch.randn(1, 16, 32)],
    }
    model = tap_ext.accelerate(plain(), window=3, order=0)
    still, truth = given(), plain()
    for step in range(4):  # latents stand still and time hardly moves
        moment = torch.tensor([0.5 - step * 1e-6])
        output = model(**still, **beside, timestep=moment)[0]
    expected = truth(**still, **beside, timestep=moment)[0]
    without = truth(**still, timestep=moment)[0]
    assert done(model) == [((0, 1, 2), (3,))]
    assert error(output, expected) < 1e-3 < 0.01 < error(without, expected)


@pytest.mark.cuda
def test_a_model_that_moves_to_another_device_and_back() -> None:
    """Row 15: histories and graphs of the old device are not used; each run is a fresh one's."""
    on_host = sample(fast())
    on_device = sample(fast("cuda"), given(device="cuda"))
    model = fast()
    for device, truth in (("cuda", on_device), ("cpu", on_host), ("cuda", on_device)):
        model.to(device)
        assert torch.equal(sample(model, given(device=device)), truth)
