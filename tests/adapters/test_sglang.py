"""``TapCache`` behind a stub of SGLang-Diffusion's contract.

The stub is written from sgl-project/sglang, python/sglang/multimodal_gen/runtime/cache/base.py at
commit 28726e2, and from how its HunyuanVideo model calls a cache.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import Config, State, Step
from tap_ext.adapters.sglang import TapCache
from tap_ext.peers import Adaptive

STEPS, SHAPE = 12, (1, 6, 8)


class DiffusionCache(ABC):
    @abstractmethod
    def maybe_reset(self, **kwargs: Any) -> None: ...

    @abstractmethod
    def should_skip(self, **kwargs: Any) -> bool: ...

    @abstractmethod
    def write(
        self, hidden_states: Tensor, original_hidden_states: Tensor, **kwargs: Any
    ) -> None: ...

    @abstractmethod
    def read(self, hidden_states: Tensor, **kwargs: Any) -> Tensor: ...

    def calibrate(self, **kwargs: Any) -> None:
        return None


def _blocks(hidden: Tensor) -> Tensor:
    return torch.sin(3 * hidden)


def _call(cache: Any, hidden: Tensor) -> Tensor:
    """One call of a model that caches, in the order of the contract."""
    cache.maybe_reset()
    modulated = hidden.cos()
    if cache.should_skip(modulated):
        result: Tensor = cache.read(hidden)
        return result.clone()
    output = _blocks(hidden)
    cache.write(output, hidden.clone(), modulated_input=modulated)
    return output


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The forward context, where sglang keeps it."""
    batch = SimpleNamespace(num_inference_steps=STEPS, is_cfg_negative=False)
    here = SimpleNamespace(current_timestep=0, forward_batch=batch)
    name = "sglang.multimodal_gen.runtime.managers.forward_context"
    module = ModuleType(name)
    vars(module)["get_forward_context"] = lambda: here
    monkeypatch.setitem(sys.modules, name, module)
    return here


def _inputs(seed: int, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    start, drift = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return [start + drift * step / 10 for step in range(STEPS)]


def _expected(inputs: list[Tensor], config: Config) -> list[Tensor]:
    state, outputs = State(config.plan(STEPS), config), []
    for hidden in inputs:
        if state.begin() is Step.FULL:
            outputs.append(_blocks(hidden))
            state.record(hidden, outputs[-1], hidden.cos())
        else:
            outputs.append(state.predict(hidden, hidden.cos()).clone())
    return outputs


def _generate(
    cache: TapCache, context: SimpleNamespace, branches: list[list[Tensor]]
) -> list[list[Tensor]]:
    outputs: list[list[Tensor]] = [[] for _ in branches]
    for step in range(STEPS):
        context.current_timestep = step
        for number, inputs in enumerate(branches):
            context.forward_batch.is_cfg_negative = bool(number)
            outputs[number].append(_call(cache, inputs[step]))
    return outputs


def test_it_has_every_method_of_the_contract() -> None:
    for name in ("maybe_reset", "should_skip", "write", "read", "calibrate"):
        asked = inspect.signature(getattr(DiffusionCache, name)).parameters
        given = inspect.signature(getattr(TapCache, name)).parameters
        assert [p for p in asked if p in ("hidden_states", "original_hidden_states")] == [
            p for p in given if p in ("hidden_states", "original_hidden_states")
        ]
        assert list(given.values())[-1].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("config", [Config(window=3), Config(full_steps=4)], ids=["window", "even"])
def test_two_branches_over_two_generations(config: Config, context: SimpleNamespace) -> None:
    cache = TapCache(config)
    for seed in (1, 5):
        branches = [_inputs(seed), _inputs(seed + 1)]
        for got, inputs in zip(_generate(cache, context, branches), branches, strict=True):
            assert all(map(torch.equal, got, _expected(inputs, config)))


def test_a_generation_given_up_leaves_nothing_behind(context: SimpleNamespace) -> None:
    config = Config(window=3)
    cache, inputs = TapCache(config), _inputs(1)
    for step in range(5):
        context.current_timestep = step
        _call(cache, _inputs(9)[step])
    (got,) = _generate(cache, context, [inputs])
    assert all(map(torch.equal, got, _expected(inputs, config)))


def test_a_change_of_shape_makes_a_full_step(context: SimpleNamespace) -> None:
    cache = TapCache(Config(window=6))
    inputs = _inputs(1)[:4] + _inputs(1, (1, 7, 8))[4:]
    outputs = []
    for step, hidden in enumerate(inputs):
        context.current_timestep = step
        outputs.append(_call(cache, hidden))
    assert torch.equal(outputs[4], _blocks(inputs[4]))
    assert not torch.equal(outputs[5], _blocks(inputs[5]))


def test_a_plan_that_looks_at_the_data_is_refused(context: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="config must know its full steps beforehand"):
        TapCache(Config(schedule=Adaptive(4)))
