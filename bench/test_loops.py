"""The denoising loop under every accelerator, at equal numbers of full steps, in one process.

Each is measured right after steps of the untouched model, so that their ratio stands where the
machine's clock moves.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

import tap_ext
from bench.clock import Clock
from bench.denoiser import Denoiser
from tap_ext import runtime
from tap_ext.plan import Plan

STEPS, FULL = 50, 8
UNTOUCHED = 10
"""Steps of the untouched model, which are all alike."""
WINDOW = 8
"""Three steps, then one of eight: 8 full steps of 50, as TAP and TaylorSeer count them."""


def untouched(denoiser: Denoiser) -> None:
    pass


def fewer_steps(denoiser: Denoiser) -> None:
    """Plain step reduction: as many steps as the others have full ones."""


def compiled(denoiser: Denoiser) -> None:
    denoiser.model.compile_repeated_blocks(fullgraph=True)


def tap(denoiser: Denoiser) -> None:
    tap_ext.accelerate(denoiser.model, window=WINDOW)


def tap_eager(denoiser: Denoiser) -> None:
    tap_ext.accelerate(denoiser.model, window=WINDOW, graphs="off")


def tap_compiled(denoiser: Denoiser) -> None:
    tap_ext.accelerate(denoiser.model, window=WINDOW, compile=True)


def tap_fp8(denoiser: Denoiser) -> None:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, quantize_

    quantize_(denoiser.model, Float8DynamicActivationFloat8WeightConfig(), filter_fn=_is_in_block)
    tap_ext.accelerate(denoiser.model, window=WINDOW, compile=True)


def _is_in_block(module: Any, path: str) -> bool:
    return isinstance(module, torch.nn.Linear) and "blocks." in path


def taylorseer(denoiser: Denoiser) -> None:
    _taylorseer(denoiser, lite=False)


def taylorseer_lite(denoiser: Denoiser) -> None:
    _taylorseer(denoiser, lite=True)


def _taylorseer(denoiser: Denoiser, *, lite: bool) -> None:
    from diffusers import TaylorSeerCacheConfig

    # full at 0, 1, 3, 11, ...: its intervals begin one step after the warm-up
    config = TaylorSeerCacheConfig(
        cache_interval=WINDOW, disable_cache_before_step=2, max_order=2, use_lite_mode=lite
    )
    denoiser.model.enable_cache(config)


def first_block_cache(denoiser: Denoiser) -> None:
    """Made to be full at the steps at which TAP is."""
    from diffusers import FirstBlockCacheConfig

    denoiser.model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    registries = (getattr(m, "_diffusers_hook", None) for m in denoiser.model.modules())
    hooks = [hook for r in registries if r is not None for hook in r.hooks.values()]
    (head,) = (hook for hook in hooks if hasattr(hook, "threshold"))
    full = Plan.full_steps(STEPS, window=WINDOW)

    def begin(step: int) -> None:
        head.threshold = -1.0 if step in full else math.inf

    denoiser.begin = begin


def cache_dit(denoiser: Denoiser) -> None:
    import cache_dit

    blocks = len(denoiser.model.transformer_blocks)
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=min(8, blocks - 1),  # 8 unless told
        max_warmup_steps=3,
        max_continuous_cached_steps=WINDOW - 1,
        residual_diff_threshold=1e9,
        num_inference_steps=STEPS,
    )
    order = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=2)
    cache_dit.enable_cache(denoiser.model, cache_config=config, calibrator_config=order)

    def begin(step: int) -> None:
        if step == 0:
            cache_dit.refresh_context(denoiser.model, num_inference_steps=STEPS)

    denoiser.begin = begin


METHODS: tuple[Callable[[Denoiser], None], ...] = (
    untouched,
    fewer_steps,
    compiled,
    tap,
    tap_eager,
    tap_compiled,
    tap_fp8,
    taylorseer,
    taylorseer_lite,
    first_block_cache,
    cache_dit,
)
COMPILED = (compiled, tap_compiled, tap_fp8)
"""Whose operations cannot be counted."""

NEEDS = {tap_fp8: "torchao", cache_dit: "cache_dit"}

ON_CPU = (untouched, fewer_steps, tap, taylorseer, taylorseer_lite, first_block_cache, cache_dit)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_loop(
    benchmark: BenchmarkFixture,
    lines: list[str],
    model: str,
    device: str,
    method: Callable[[Denoiser], None],
) -> None:
    if (model == "tiny") != (device == "cpu"):
        pytest.skip("real models on a GPU, the tiny one on a CPU")
    if device == "cpu" and method not in ON_CPU:
        pytest.skip("a few are enough to prove the benchmark")
    if method in NEEDS:
        pytest.importorskip(NEEDS[method])
    denoiser = Denoiser(model, device)
    loop(denoiser, device, 2)  # whatever is done at first only
    baseline = loop(denoiser, device, UNTOUCHED)[0] * STEPS / UNTOUCHED
    whole = work(denoiser, device, 1)
    method(denoiser)
    steps = FULL if method is fewer_steps else STEPS
    benchmark.group = f"{model} {device}"
    times: list[float] = []
    each: list[float] = []

    def run() -> None:
        seconds, each[:] = loop(denoiser, device, steps)
        times.append(seconds)

    if device == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    benchmark.pedantic(run, rounds=3 if device == "cuda" else 1, warmup_rounds=1)
    info = {
        "s": statistics.median(times[1:]),
        "untouched s": baseline,
        "speedup": baseline / statistics.median(times[1:]),
        # of a loop whose skip steps cost nothing, in this run
        "of the ceiling": baseline * FULL / STEPS / statistics.median(times[1:]),
        # a skip step where there are any: they are the most
        "ms, median step": statistics.median(each) * 1e3,
    }
    if device == "cuda":
        info["peak GB above weights"] = (torch.cuda.max_memory_allocated() - held) / 1e9
    if method not in COMPILED:
        info["full steps"] = work(denoiser, device, steps) / whole
    benchmark.extra_info.update(info)
    benchmark.extra_info["ms per step"] = [round(1e3 * step, 3) for step in each]
    figures = "  ".join(f"{name} {value:.4g}" for name, value in info.items())
    lines.append(f"{model} {device} {method.__name__:18} {figures}")


def loop(denoiser: Denoiser, device: str, steps: int) -> tuple[float, list[float]]:
    """Seconds of one denoising loop, and of each of its steps."""
    clock = Clock([1 - step / steps for step in range(steps + 1)])
    with torch.inference_mode(), runtime.run(clock):
        if device == "cpu":
            marks = [time.perf_counter()]
            for clock.step, _ in enumerate(denoiser.steps(steps), start=1):
                marks.append(time.perf_counter())
            return marks[-1] - marks[0], [b - a for a, b in itertools.pairwise(marks)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for clock.step, _ in enumerate(denoiser.steps(steps), start=1):
            events[clock.step].record()
        torch.cuda.synchronize()
        each = [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)]
        return events[0].elapsed_time(events[-1]) / 1e3, each


def work(denoiser: Denoiser, device: str, steps: int) -> int:
    """Floating-point operations of one denoising loop."""
    with FlopCounterMode(display=False) as counter:
        loop(denoiser, device, steps)
    return int(counter.get_total_flops())
