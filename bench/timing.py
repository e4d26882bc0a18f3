"""What one call takes of the host, and of the device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["timed"]

AHEAD = 20_000_000
"""Cycles, some 10 ms, that a device is kept busy before the call: the host is then ahead, as in a
loop. On an idle one the call would last as long as the host takes to launch it."""


def timed(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds that the host was busy with one call, and the device; on a CPU they are one.

    Of a call that waits for the device, the host's hold the work before it.
    """
    if device == "cpu":
        begin = time.perf_counter()
        call()
        return (spent := time.perf_counter() - begin), spent
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(AHEAD)
    first.record()
    begin = time.perf_counter()
    call()
    host = time.perf_counter() - begin
    last.record()
    last.synchronize()
    return host, first.elapsed_time(last) / 1e3
