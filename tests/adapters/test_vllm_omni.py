"""``TapBackend`` behind a stub of vLLM-Omni's contract.

The stub is written from vllm-omni 0.30.0, vllm_omni/diffusion/cache/base.py, data.py and
worker/diffusion_model_runner.py.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import Config, runtime
from tap_ext.adapters.vllm_omni import TapBackend

pytest.importorskip("diffusers")

from tests.models.flux import _flux, _inputs

STEPS = 8


class CacheBackend(ABC):
    def __init__(self, config: Any) -> None:
        self.config, self.enabled = config, False

    @abstractmethod
    def enable(self, pipeline: Any) -> None: ...

    @abstractmethod
    def refresh(
        self, pipeline: Any, num_inference_steps: int | None, verbose: bool = True
    ) -> None: ...

    def is_enabled(self) -> bool:
        return self.enabled


class DiffusionCacheConfig:
    """Keeps what it does not know, as attributes."""

    def __init__(self, **extra: Any) -> None:
        self.rel_l1_thresh = 0.2
        vars(self).update(extra)


@pytest.fixture
def pipeline() -> Iterator[Any]:
    torch.manual_seed(0)
    made = SimpleNamespace(transformer=_flux().eval(), transformer_2=None)
    yield made
    tap_ext.restore(made.transformer)
    runtime._run.set(None)  # of a generation that ``refresh`` began and nothing ended


@torch.no_grad()
def _generate(pipeline: Any, steps: int = STEPS, seed: int = 1, stop: int | None = None) -> Tensor:
    """A loop as vLLM-Omni's pipelines have it: no scheduler that anyone could ask."""
    arguments = _inputs(torch.Generator().manual_seed(seed), 1)
    arguments |= {
        "pooled_projections": torch.ones(1, 20),
        "guidance": torch.ones(1),
        "return_dict": False,
    }
    for step in range(steps if stop is None else stop):
        arguments["timestep"] = torch.tensor([1 - step / steps])
        velocity = pipeline.transformer(**arguments)[0]
        arguments["hidden_states"] = arguments["hidden_states"] - velocity / steps
    result: Tensor = arguments["hidden_states"]
    return result


def _full(transformer: nn.Module) -> tuple[int, ...]:
    return tuple(tap_ext.stats(transformer).models[0].branches[0].full_steps)


def test_it_has_every_method_of_the_contract() -> None:
    for name in ("__init__", "enable", "refresh", "is_enabled"):
        asked = inspect.signature(getattr(CacheBackend, name)).parameters
        assert list(inspect.signature(getattr(TapBackend, name)).parameters) == list(asked), name


def test_a_generation_knows_how_long_it_is(pipeline: Any) -> None:
    backend = TapBackend(DiffusionCacheConfig(tap={"full_steps": 4}))
    untouched = _generate(pipeline)
    backend.enable(pipeline)
    assert backend.is_enabled()
    for steps in (STEPS, 2 * STEPS, STEPS):
        backend.refresh(pipeline, steps, verbose=False)
        picture = _generate(pipeline, steps)
        full = _full(pipeline.transformer)
        assert len(full) == 4 and full[0] == 0 and max(full) < steps
    assert not torch.equal(picture, untouched)
    assert float((picture - untouched).norm() / untouched.norm()) < 0.1
    backend.disable(pipeline)
    assert not backend.is_enabled()
    assert torch.equal(_generate(pipeline), untouched)


def test_a_generation_given_up_leaves_nothing_behind(pipeline: Any) -> None:
    backend = TapBackend({"window": 3})
    backend.enable(pipeline)
    backend.refresh(pipeline, STEPS)
    first = _generate(pipeline)
    backend.refresh(pipeline, STEPS)
    _generate(pipeline, seed=2, stop=5)
    backend.refresh(pipeline, STEPS)
    assert torch.equal(_generate(pipeline), first)
    held = tap_ext.stats(pipeline.transformer).models[0].nbytes
    backend.refresh(pipeline, STEPS)
    assert tap_ext.stats(pipeline.transformer).models[0].nbytes == held  # kept, not freed
    _generate(pipeline, seed=3)
    assert tap_ext.stats(pipeline.transformer).models[0].nbytes == held  # the same buffers again


def test_without_refresh_the_timesteps_tell(pipeline: Any) -> None:
    """It is left out where a request does not say how many steps it has."""
    backend = TapBackend(Config(window=3))
    backend.enable(pipeline)
    backend.refresh(pipeline, STEPS)
    first = _generate(pipeline)
    assert torch.equal(_generate(pipeline), first)


class Pipeline(nn.Module):
    """As vLLM-Omni's runner has it: ``refresh``, then ``forward``."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, seed: int, stop: int | None = None) -> Tensor:
        made = _generate(self, seed=seed, stop=stop)
        if stop is not None:
            raise RuntimeError("out of memory")
        return made


def test_a_run_ends_with_its_generation(pipeline: Any) -> None:
    made = Pipeline(pipeline.transformer)
    untouched = made.forward(1)
    backend = TapBackend({"window": 3})
    told: list[tap_ext.RunRecord] = []
    end = tap_ext.on_run(told.append)
    try:
        backend.enable(made)
        backend.enable(made)  # idempotent
        for seed in (1, 2):
            backend.refresh(made, STEPS)
            assert runtime._run.get() is not None
            made.forward(seed)
            assert runtime._run.get() is None
        backend.refresh(made, STEPS)
        with pytest.raises(RuntimeError, match="out of memory"):
            made.forward(1, stop=5)
        assert runtime._run.get() is None
        backend.refresh(made, STEPS)
        backend.disable(made)  # ends what nothing has ended
        assert runtime._run.get() is None
    finally:
        end()
    counts = [(record.name, record.steps, record.error) for record in told]
    finished = ("Pipeline", STEPS, None)
    assert counts == [finished, finished, ("Pipeline", 5, "RuntimeError")]
    assert all(record.full + record.skipped == record.steps for record in told)
    assert "forward" not in vars(made)
    assert torch.equal(made.forward(1), untouched)


def test_a_run_that_nothing_ends_is_told_of_when_the_next_begins(pipeline: Any) -> None:
    backend = TapBackend({"window": 3})
    backend.enable(pipeline)
    told: list[tap_ext.RunRecord] = []
    end = tap_ext.on_run(told.append)
    backend.refresh(pipeline, STEPS)
    _generate(pipeline)
    assert told == []
    backend.refresh(pipeline, STEPS)
    end()
    (record,) = told
    assert (record.steps, record.error) == (STEPS, None)


@pytest.mark.parametrize("steps", [None, 0])
def test_a_request_that_does_not_say_its_steps(pipeline: Any, steps: int | None) -> None:
    backend = TapBackend({"window": 3})
    backend.enable(pipeline)
    backend.refresh(pipeline, steps)
    _generate(pipeline)
    assert len(_full(pipeline.transformer)) < STEPS


def test_configurations_of_three_kinds() -> None:
    chosen = Config(window=5)
    assert TapBackend(chosen).config is chosen
    assert TapBackend({"window": 5}).config == TapBackend(chosen).config
    assert TapBackend(DiffusionCacheConfig()).config == Config()
    with pytest.raises(ValueError, match="window"):
        TapBackend(DiffusionCacheConfig(tap={"window": 0}))
