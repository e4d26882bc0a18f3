"""The node behind a stub of ComfyUI's wrappers.

The stub is written from comfyanonymous/ComfyUI, comfy/patcher_extension.py at commit 06ce62d, and
from what comfy_extras/nodes_easycache.py at commit 0f548d2 reads of ``transformer_options``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import Config, State, Step
from tap_ext.adapters.comfyui import NODE_CLASS_MAPPINGS, TapNode

STEPS, LATENT = 12, (1, 4, 5, 6)


class Executor:
    """Calls the next wrapper, or the function itself after the last one."""

    def __init__(self, original: Callable[..., Any], wrappers: list[Callable[..., Any]], at: int):
        self.original, self.wrappers, self.at = original, wrappers, at

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if self.at == len(self.wrappers):
            return self.original(*args, **kwargs)
        return self.wrappers[self.at](self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Executor(self.original, self.wrappers, self.at + 1).execute(*args, **kwargs)


class Model:
    """A ModelPatcher: clones share the weights and have wrappers of their own."""

    def __init__(self) -> None:
        self.wrappers: dict[str, list[Callable[..., Any]]] = {}
        self.calls = 0

    def clone(self) -> Model:
        return Model()

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Callable[..., Any]) -> None:
        self.wrappers.setdefault(kind, []).append(wrapper)

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, options: Any = None) -> Tensor:
        self.calls += 1
        return torch.sin(2 * x) + context[:, :1, :1, None] * timestep[:, None, None, None]

    def apply(self, x: Tensor, sigma: Tensor, context: Tensor, uuids: list[str]) -> Tensor:
        options = {"uuids": uuids, "sigmas": sigma[:1], "sample_sigmas": torch.ones(STEPS + 1)}
        wrappers = self.wrappers.get("diffusion_model", [])
        result: Tensor = Executor(self._forward, wrappers, 0).execute(x, sigma, context, options)
        return result

    def sample(self, function: Callable[..., Any]) -> Any:
        return Executor(function, self.wrappers.get("outer_sample", []), 0).execute()


CONTEXTS = {"cond": torch.full((1, 3, 2), 0.5), "uncond": torch.zeros(1, 3, 2)}


def _denoise(model: Model, groups: list[list[str]], x: Tensor) -> list[dict[str, Tensor]]:
    """Each group of conditions is one call; returns the outputs of every step."""
    outputs = []
    for step in range(STEPS):
        sigma, seen = torch.tensor([1 - step / STEPS]), {}
        for uuids in groups:
            batch = torch.cat([x] * len(uuids))
            contexts = torch.cat([CONTEXTS[uuid] for uuid in uuids])
            result = model.apply(batch, sigma.repeat(len(uuids)), contexts, uuids)
            assert result.shape == batch.shape and result.is_contiguous()
            seen |= dict(zip(uuids, result.clone().chunk(len(uuids)), strict=True))
        outputs.append(seen)
        x = x - (2 * seen["cond"] - seen["uncond"]) / STEPS
    return outputs


def _expected(x: Tensor, config: Config) -> list[dict[str, Tensor]]:
    model, outputs = Model(), []
    states = {uuid: State(config.plan(STEPS), config) for uuid in CONTEXTS}
    for step in range(STEPS):
        tokens, seen = x.flatten(2).transpose(1, 2).contiguous(), {}
        for uuid, state in states.items():
            if state.begin() is Step.FULL:
                seen[uuid] = model._forward(x, torch.tensor([1 - step / STEPS]), CONTEXTS[uuid])
                state.record(tokens, seen[uuid].flatten(2).transpose(1, 2).contiguous(), tokens)
            else:
                seen[uuid] = state.predict(tokens, tokens).transpose(1, 2).reshape(x.shape).clone()
        outputs.append(seen)
        x = x - (2 * seen["cond"] - seen["uncond"]) / STEPS
    return outputs


@pytest.mark.parametrize(
    "groups", [[["cond", "uncond"]], [["uncond"], ["cond"]]], ids=["one call", "two calls"]
)
def test_each_condition_has_its_own_history(groups: list[list[str]]) -> None:
    (model,) = TapNode().patch(Model(), window=3)
    for seed in (1, 2):  # the second run is not told of the first
        x = torch.randn(LATENT, generator=torch.Generator().manual_seed(seed))
        outputs = model.sample(lambda x=x: _denoise(model, groups, x))
        for got, wanted in zip(outputs, _expected(x, Config(window=3)), strict=True):
            assert all(torch.equal(got[uuid], wanted[uuid]) for uuid in CONTEXTS)
    full = len(Config(window=3).plan(STEPS).full_steps())
    assert model.calls == 2 * full * len(groups)


def test_a_run_that_is_interrupted_leaves_nothing_behind() -> None:
    (model,) = TapNode().patch(Model(), window=3)
    x = torch.randn(LATENT, generator=torch.Generator().manual_seed(1))

    def interrupted() -> None:
        for _ in range(4):
            model.apply(3 * x, torch.ones(1), CONTEXTS["cond"], ["cond"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(interrupted)
    outputs = model.sample(lambda: _denoise(model, [["cond", "uncond"]], x))
    for got, wanted in zip(outputs, _expected(x, Config(window=3)), strict=True):
        assert all(torch.equal(got[uuid], wanted[uuid]) for uuid in CONTEXTS)


def test_it_says_how_many_steps_were_skipped(caplog: pytest.LogCaptureFixture) -> None:
    (model,) = TapNode().patch(Model(), window=3)
    with caplog.at_level(logging.INFO, logger="tap_ext"):
        model.sample(lambda: _denoise(model, [["cond", "uncond"]], torch.ones(LATENT)))
    assert f"condition cond: skipped 6/{STEPS} steps" in caplog.text
    assert model.wrappers["outer_sample"][0].__self__.states == {}  # and lets go of the memory


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = Model()
    (patched,) = NODE_CLASS_MAPPINGS["TAP"]().patch(model, 4)
    assert not model.wrappers and set(patched.wrappers) == {"outer_sample", "diffusion_model"}
    assert TapNode.INPUT_TYPES()["required"].keys() == {"model", "window"}


def test_several_latents_at_once_run_untouched() -> None:
    (model,) = TapNode().patch(Model(), window=1)
    wrapper = model.wrappers["diffusion_model"][0]
    given = [torch.ones(LATENT), torch.ones(1, 8, 3)]
    assert wrapper(lambda x, *_: x, given, {"uuids": ["a"]}) is given
