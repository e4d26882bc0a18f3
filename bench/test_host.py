"""What a replayed skip step costs the host: everything of the transformer call but the replay.

A FLUX.1 of full depth and next to no width, by the default configuration, in a denoising loop with
diffusers' scheduler, whose work between the calls leaves the caches as a pipeline's does. The skip
step is "replayed" by doing nothing, so that no device is needed and nothing else is timed. On a GPU
the copies into and out of the graph become launches, and its own comes on top
(``bench/test_steps.py``, host ms).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from pytest_benchmark.fixture import BenchmarkFixture

import tap_ext
from tap_ext import runtime
from tap_ext.integrations.diffusers import PipelineClock, engines_of

R = TypeVar("R")

STEPS = 50
RUNS = 20


class _Nothing:
    """Records the first result of a step, and gives it for ever."""

    def busy(self) -> None:
        return None

    def record(self, function: Callable[[], R]) -> tuple[_Nothing, R]:
        return self, function()

    def replay(self) -> None:
        return None


@pytest.fixture
def flux(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(tap_ext.steps, "recorder_for", lambda device: _Nothing())
    yield FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def _denoise(flux: Any, constant: dict[str, Any], seconds: list[float]) -> None:
    """One run as a pipeline makes it; notes the seconds of its skip steps."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    pipe = SimpleNamespace(scheduler=scheduler, _num_timesteps=STEPS)
    latents = torch.randn(1, 16, 16)
    (engine,) = engines_of(flux)
    with runtime.run(PipelineClock(pipe), "bench"), torch.no_grad():
        for time_step in scheduler.timesteps:
            timestep = time_step.expand(1) / 1000
            skipped = engine.skipped
            begin = time.perf_counter()
            (velocity,) = flux(hidden_states=latents, timestep=timestep, **constant)
            end = time.perf_counter()
            if engine.skipped > skipped:
                seconds.append(end - begin)
            (latents,) = scheduler.step(velocity, time_step, latents, return_dict=False)


def test_host(benchmark: BenchmarkFixture, lines: list[str], flux: Any) -> None:
    torch.set_num_threads(1)
    constant = {
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 24),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
        "guidance": torch.tensor([3.5]),
        "joint_attention_kwargs": {},
        "return_dict": False,
    }
    seconds: list[float] = []
    run = functools.partial(_denoise, flux, constant, seconds)
    tap_ext.accelerate(flux, graphs="skip")
    run()
    seconds.clear()
    benchmark.group = "host"
    benchmark.pedantic(run, rounds=RUNS, warmup_rounds=1)
    (stats,) = tap_ext.stats(flux).models
    assert stats.captured == 1 and not stats.uncaptured
    seconds.sort()
    least, median = seconds[len(seconds) // 100] * 1e6, seconds[len(seconds) // 2] * 1e6
    benchmark.extra_info.update({"us, 1 in 100 below": least, "us, median": median})
    lines.append(f"host, replayed skip step: median {median:.0f} us, 1 in 100 below {least:.0f} us")
