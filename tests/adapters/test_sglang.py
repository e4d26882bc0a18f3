"""``TapCache`` behind a stub of what SGLang-Diffusion's models ask of a cache.

The stub is written from sglang 0.5.23, multimodal_gen/runtime/models/dits/wanvideo.py and
runtime/cache/teacache.py.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tap_ext import Config, Plan, State, Step
from tap_ext.adapters.sglang import TapCache
from tap_ext.peers import Adaptive

STEPS, SHAPE = 12, (1, 6, 8)


class CachableDiT(nn.Module):
    """Its own cache repeats the last residual at every odd step."""

    def __init__(self) -> None:
        super().__init__()
        self.enable_teacache, self.cnt, self.ran = False, 0, 0

    def forward(self, hidden_states: Tensor) -> Tensor:
        temb = hidden_states.mean() * 2
        if self.should_skip_forward_for_cached_states(timestep_proj=None, temb=temb):
            return self.retrieve_cached_states(hidden_states)
        if self.enable_teacache:
            original_hidden_states = hidden_states.clone()
        self.ran += 1
        hidden_states = torch.sin(3 * hidden_states)[None]
        if self.enable_teacache:
            self.maybe_cache_states(hidden_states, original_hidden_states)
        return hidden_states.squeeze(0)

    def maybe_cache_states(self, hidden_states: Tensor, original_hidden_states: Tensor) -> None:
        self.residual = hidden_states.squeeze(0) - original_hidden_states

    def should_skip_forward_for_cached_states(self, **kwargs: Any) -> bool:
        self.cnt += 1
        return self.cnt % 2 == 0 and self.enable_teacache

    def retrieve_cached_states(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.residual


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


def _probe(hidden: Tensor, temb: Tensor, **_: Any) -> Tensor:
    return hidden.cos() * temb


def _expected(inputs: list[Tensor], config: Config, modulated: bool = True) -> list[Tensor]:
    state, outputs = State(config.plan(STEPS), config), []
    for hidden in inputs:
        probe = _probe(hidden, hidden.mean() * 2) if modulated else hidden
        if state.begin() is Step.FULL:
            outputs.append(torch.sin(3 * hidden))
            state.record(hidden, outputs[-1], probe)
        else:
            outputs.append(state.predict(hidden, probe).clone())
    return outputs


def _generate(
    model: nn.Module, context: SimpleNamespace, branches: list[list[Tensor]]
) -> list[list[Tensor]]:
    outputs: list[list[Tensor]] = [[] for _ in branches]
    for step in range(STEPS):
        context.current_timestep = step
        for number, inputs in enumerate(branches):
            context.forward_batch.is_cfg_negative = bool(number)
            outputs[number].append(model(inputs[step]).clone())
    return outputs


@pytest.mark.parametrize("config", [Config(window=3), Config(full_steps=4)], ids=["window", "even"])
@pytest.mark.parametrize("probe", [_probe, None])
def test_two_branches_over_two_generations(
    config: Config, probe: Any, context: SimpleNamespace
) -> None:
    model = CachableDiT()
    undo = TapCache(config, probe=probe).install(model)
    for seed in (1, 5):
        branches = [_inputs(seed), _inputs(seed + 1)]
        for got, inputs in zip(_generate(model, context, branches), branches, strict=True):
            assert all(map(torch.equal, got, _expected(inputs, config, probe is not None)))
    full = 4 if config.full_steps else len(Plan.full_steps(STEPS, window=3))
    assert model.ran == 4 * full and model.cnt == 0
    undo()
    assert model.enable_teacache is False and not any("cache_states" in k for k in vars(model))
    hidden = _inputs(1)[0]
    assert torch.equal(model(hidden), torch.sin(3 * hidden)) and model.cnt == 1


def test_a_generation_given_up_leaves_nothing_behind(context: SimpleNamespace) -> None:
    config, model, inputs = Config(window=3), CachableDiT(), _inputs(1)
    TapCache(config, probe=_probe).install(model)
    for step in range(5):
        context.current_timestep = step
        model(_inputs(9, (1, 3, 8))[step])
    (got,) = _generate(model, context, [inputs])
    assert all(map(torch.equal, got, _expected(inputs, config)))


def test_a_call_outside_of_a_request_runs_and_is_not_remembered(context: SimpleNamespace) -> None:
    model, batch, inputs = CachableDiT(), context.forward_batch, _inputs(1)
    TapCache(Config(window=3), probe=_probe).install(model)
    _generate(model, context, [_inputs(7)])
    context.forward_batch = None
    for hidden in _inputs(4)[:3]:
        assert torch.equal(model(hidden), torch.sin(3 * hidden))
    context.forward_batch = batch
    (got,) = _generate(model, context, [inputs])
    assert all(map(torch.equal, got, _expected(inputs, Config(window=3))))


def test_a_plan_that_looks_at_the_data_is_refused(context: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="config must know its full steps beforehand"):
        TapCache(Config(schedule=Adaptive(4)))
