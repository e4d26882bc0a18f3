"""Clocks, counters and picture metrics: how the demo measures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import tap_ext
from tap_ext.demo.subject import Subject
from tap_ext.plan import Listed

__all__ = ["StepFlops", "call_times", "psnr", "ssim", "step_flops", "wall_time"]

T = TypeVar("T")


@contextlib.contextmanager
def around_calls(module: nn.Module, read: Callable[[], T]) -> Iterator[list[tuple[T, T]]]:
    """Reads something before and after every call of a module, into the list that it yields."""
    before: list[T] = []
    pairs: list[tuple[T, T]] = []
    handles = (
        module.register_forward_pre_hook(lambda *_: before.append(read())),
        module.register_forward_hook(lambda *_: pairs.append((before[-1], read()))),
    )
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def call_times(module: nn.Module, device: torch.device) -> Iterator[list[float]]:
    """Times every call of a module, in milliseconds, into the list that it yields at the end.

    On CUDA by events of the current stream, which cost no synchronisation between the calls.
    """
    times: list[float] = []
    if device.type == "cuda":
        with around_calls(module, lambda: _event(device)) as events:
            yield times
        torch.cuda.synchronize(device)
        times += [start.elapsed_time(end) for start, end in events]
    else:
        with around_calls(module, time.perf_counter) as clock:
            yield times
        times += [1000 * (end - start) for start, end in clock]


def _event(device: torch.device) -> Any:
    make: Any = torch.cuda.Event
    event = make(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@contextlib.contextmanager
def wall_time(device: torch.device) -> Iterator[list[float]]:
    """Times the body in seconds, all work of the device included, into the list it yields."""
    seconds: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds.append(time.perf_counter() - start)


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one call of the transformer.

    Attributes:
        untouched: of the model as it is.
        full: of a full step, which computes the probe besides.
        skip: of a skip step.
    """

    untouched: int
    full: int
    skip: int

    def ratio(self, steps: int, full: int, skip: int) -> float:
        """By how much a run of ``full`` and ``skip`` steps is cheaper than a plain one."""
        return steps * self.untouched / (full * self.full + skip * self.skip)


def step_flops(subject: Subject) -> StepFlops:
    """Counts what is dispatched in one call of each kind, in short runs of the pipeline.

    Counted as torch's counter does: matrix products and attention at two operations per
    multiply-add, element-wise work at none; and in the same way ``skip_step_``.
    """
    plain = _flops_of_calls(subject, subject.twin(), 1)
    pipe = subject.twin()
    # Neither a self-check's second pass nor a captured graph, which dispatches nothing.
    only_first = tap_ext.Config(schedule=Listed((0,)), self_check=False, graphs="off")
    tap_ext.accelerate(pipe, only_first)
    calls = _flops_of_calls(subject, pipe, 4)
    return StepFlops(plain[0], calls[0], calls[-1])


def _flops_of_calls(subject: Subject, pipe: Any, steps: int) -> list[int]:
    counter = FlopCounterMode(display=False, custom_mapping=_unknown_to_torch())
    with counter, around_calls(pipe.transformer, counter.get_total_flops) as counts:
        subject.paint(pipe, steps, None)
    return [after - before for before, after in counts]


def _unknown_to_torch() -> dict[Any, Callable[..., int]]:
    """Formulas, from shapes, of ops that the counter would count as nothing."""
    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.tap_ext.skip_step_: _skip_step_flops,
    }


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    count: Any = sdpa_flop_count
    return int(count(query, key, value))


def _skip_step_flops(
    out: Any, index: Any, probe_stack: Any, probe: Any, stack: Any, *_: Any, **__: Any
) -> int:
    """Per token: the Gram matrix of S + 1 vectors, half of it, and S weighted planes."""
    planes, batch, tokens, width = probe_stack
    products = (planes + 1) * (planes + 2) // 2
    return int(2 * batch * tokens * (products * width + planes * stack[-1]))


def psnr(pictures: Tensor, reference: Tensor) -> list[float]:
    """Peak signal-to-noise ratio per picture, in dB; both (B, 3, H, W) in [0, 1]."""
    error = (pictures - reference).double().square().mean((1, 2, 3))
    decibels: list[float] = (-10 * error.log10()).tolist()
    return decibels


def ssim(pictures: Tensor, reference: Tensor) -> list[float]:
    """Structural similarity per picture, windows of 7 pixels; both (B, 3, H, W) in [0, 1]."""
    pairs = zip(pictures.numpy(), reference.numpy(), strict=True)
    measure: Any = structural_similarity
    return [float(measure(a, b, win_size=7, channel_axis=0, data_range=1.0)) for a, b in pairs]
