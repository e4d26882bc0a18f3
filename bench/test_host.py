"""What a replayed skip step costs the host: everything of the transformer call but the replay.

A FLUX.1 of full depth and next to no width, whose skip step is "replayed" by doing nothing, so that
no device is needed and nothing else is timed. On a GPU the two copies into the graph's inputs, the
one of its output and the launch come on top (``bench/test_steps.py``, host ms).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from diffusers import FluxTransformer2DModel
from pytest_benchmark.fixture import BenchmarkFixture

import tap_ext
from bench.clock import Clock
from tap_ext import runtime
from tap_ext.plan import Listed

R = TypeVar("R")

STEPS = 50
RUNS = 20
FULL = (0, 1, 2, 5)
"""The last of them is looked back from, so that the forecasts after it are mixed."""


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

    def run() -> None:
        clock = Clock()
        with runtime.run(clock, "bench"), torch.no_grad():
            for clock.step in range(STEPS):
                given = {
                    "hidden_states": torch.randn(1, 16, 16),
                    "timestep": torch.tensor([1 - clock.step / STEPS]),
                }
                begin = time.perf_counter()
                flux(**given, **constant)
                if clock.step > FULL[-1] + 2:
                    seconds.append(time.perf_counter() - begin)

    tap_ext.accelerate(flux, schedule=Listed(FULL), graphs="skip")
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
