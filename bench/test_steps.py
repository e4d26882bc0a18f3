"""One step of a real transformer: untouched, full, skipped, and skipped as a replayed graph.

On a CPU the model is a tiny one: that proves the benchmark, and says nothing about speed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import ProfilerActivity, profile

import tap_ext
from bench.clock import Clock
from bench.denoiser import Denoiser
from bench.timing import timed
from tap_ext import runtime
from tap_ext.plan import Listed

ROUNDS = 10
FULL = (0, 1, 2)
KINDS: dict[str, dict[str, Any] | None] = {
    "untouched": None,
    "full": {"schedule": Listed(range(1000)), "graphs": "off"},
    "full replayed": {"schedule": Listed(range(1000)), "graphs": "all"},
    "skip": {"schedule": Listed(FULL), "graphs": "off"},
    "skip replayed": {"schedule": Listed(FULL), "graphs": "skip"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_step(
    benchmark: BenchmarkFixture, lines: list[str], model: str, device: str, kind: str
) -> None:
    if (model == "tiny") != (device == "cpu"):
        pytest.skip("real models on a GPU, the tiny one on a CPU")
    denoiser = Denoiser(model, device)
    if (changes := KINDS[kind]) is not None:
        tap_ext.accelerate(denoiser.model, **changes)
    sigmas = iter(torch.linspace(1, 0.01, 200, device=device, dtype=torch.bfloat16).split(1))

    clock = Clock()  # as in a pipeline: else the timestep would be read from the device

    def step() -> None:
        denoiser.call(denoiser.latents, next(sigmas))
        clock.step += 1

    times: dict[str, list[float]] = {"device": [], "host": []}

    def run() -> None:
        host, whole = timed(step, device)
        times["host"].append(host)
        times["device"].append(whole)

    with runtime.run(clock, "bench"), torch.inference_mode():
        for _ in range(8):  # the full steps, the first skip steps, and the capture
            step()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        benchmark.group = f"{model} {device}"
        benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)
        calls = launches(step) if device == "cuda" else {}
    info: dict[str, Any] = {
        "ms": statistics.median(times["device"]) * 1e3,
        "host ms": statistics.median(times["host"]) * 1e3,
        **calls,
    }
    if device == "cuda":
        info["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        info["graphs MB"] = held_by_graphs() / 1e6
    if changes is not None:
        (stats,) = tap_ext.stats(denoiser.model).models
        info |= {"history MB": stats.nbytes / 1e6, "replayed": stats.replayed}
        info["uncaptured"] = dict(stats.uncaptured)
    benchmark.extra_info.update(info)
    figures = "  ".join(
        f"{name} {value:.3g}" for name, value in info.items() if name != "uncaptured"
    )
    lines.append(f"{model} {device} {kind:14} {figures}")


def held_by_graphs() -> int:
    """Bytes of the device in pools that graphs keep to themselves."""
    segments = torch.cuda.memory_snapshot()
    return sum(each["total_size"] for each in segments if any(each["segment_pool_id"]))


def launches(call: Callable[[], None]) -> dict[str, int]:
    """What one call asks of the CUDA driver."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    names = [event.name for event in seen.events()]
    waits = ("cudaStreamSynchronize", "cudaMemcpy", "cudaEventSynchronize")
    return {
        "kernel launches": sum("LaunchKernel" in name for name in names),
        "graph launches": sum("cudaGraphLaunch" in name for name in names),
        "waits": sum(name in waits for name in names),
    }
