"""Clocks and counters around the calls of a module."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["around_calls", "call_times", "wall_time"]

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
