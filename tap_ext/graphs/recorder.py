"""What records work on a device."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch

from tap_ext.locks import Lock

__all__ = ["CudaRecorder", "Recorder", "Recording", "recorder_for"]

R = TypeVar("R")


class Recording(Protocol):
    """Work that can be repeated, on the memory that it was recorded with."""

    def replay(self) -> None:
        """Do it again, on the current stream."""


class Recorder(Protocol):
    """Records what a function does on a device; the work itself is not done."""

    def busy(self) -> str | None:
        """Why nothing can be recorded now; None: it can."""

    def record(self, function: Callable[[], R]) -> tuple[Recording, R]:
        """Record one call; what it returns lies where every replay will put it.

        Raises:
            Exception: whatever stood against it. Then everything is as it was.
        """


_recording = Lock()
"""Held while anything is recorded: one at a time in a process."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory.

    So what it recorded must not be replayed on two streams at once; its owner is one branch of
    calls, which makes them one after the other.
    """

    def __init__(self, device: torch.device) -> None:
        """A recorder with a pool of its own."""
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def busy(self) -> str | None:
        """Why nothing can be recorded now; None: it can."""
        if torch.cuda.is_current_stream_capturing():
            return "a capture is already under way around this step"
        if not _recording.acquire(blocking=False):
            return "another thread is capturing"
        _recording.release()
        return None

    def record(self, function: Callable[[], R]) -> tuple[torch.cuda.CUDAGraph, R]:
        """Capture one call as a graph, on a stream of its own.

        Raises:
            RuntimeError: another thread is capturing, or the function did what no graph can hold.
            torch.OutOfMemoryError: no memory for what it would allocate.
        """
        if not _recording.acquire(blocking=False):
            raise RuntimeError("another thread is capturing")
        try:
            return self._record(function)
        finally:
            _recording.release()

    def _record(self, function: Callable[[], R]) -> tuple[torch.cuda.CUDAGraph, R]:
        current, side = torch.cuda.current_stream(self._device), _side_stream(self._device)
        side.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(side), _without_collections():
            # "thread_local": what other threads allocate meanwhile is none of its business
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the reason is the one in flight
                    graph.capture_end()
                raise
            graph.capture_end()
        current.wait_stream(side)
        return graph, result


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that all captures are made on: cuBLAS holds memory for each that it ever saw."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """A collection could free an older graph or event, which the capture would not survive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def recorder_for(device: torch.device) -> Recorder | None:
    """A recorder for work on ``device``; None: nothing records there."""
    return CudaRecorder(device) if device.type == "cuda" else None
