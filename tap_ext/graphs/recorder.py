"""What records work on a device."""

from __future__ import annotations

import contextlib
import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

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


_failed: list[torch.cuda.CUDAGraph] = []
"""Captures that could not be ended: the allocator of pinned memory goes on to ask them."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory.

    So what it recorded must not be replayed on two streams at once; its owner is one branch of
    calls, which makes them one after the other.
    """

    def __init__(self, device: torch.device) -> None:
        """A recorder with a pool of its own."""
        self._device = device
        self._pool: Any = None
        self._sharers: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

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
        current = torch.cuda.current_stream(self._device)
        side = _side_stream(self._device, current.cuda_stream)
        side.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        if not self._sharers:  # torch takes no capture into a pool that all graphs have left
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.stream(side), _without_collections():
                # a thread's first cannot be made in a capture
                torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]
                # "thread_local": what other threads allocate meanwhile is none of its business
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    result = function()
                except BaseException:
                    with contextlib.suppress(RuntimeError):  # the reason is the one in flight
                        graph.capture_end()
                    raise
                graph.capture_end()
        except BaseException:
            self._clean_up(graph, side)
            raise
        current.wait_stream(side)
        self._sharers.add(graph)
        return graph, result

    def _clean_up(self, graph: torch.cuda.CUDAGraph, side: torch.cuda.Stream) -> None:
        """After a failure: nothing must go on as in a capture.

        Where the driver refuses to end one, torch before 2.12 raises before it has told anybody:
        the allocator, which then frees nothing any more (pytorch/pytorch#180395), that of pinned
        memory, and the generator of random numbers, which raises until a capture has gone well.
        """
        try:
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
        except RuntimeError:  # all were told
            return
        _failed.append(graph)
        self._sharers = weakref.WeakSet()  # for pinned memory, this pool is in use for ever
        with contextlib.suppress(RuntimeError), torch.cuda.stream(side):
            good = torch.cuda.CUDAGraph()
            good.capture_begin(capture_error_mode="thread_local")
            # of an empty one torch would warn
            torch.cuda._sleep(1)  # type: ignore[no-untyped-call]
            good.capture_end()


@functools.cache
def _side_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The stream that captures for a stream of this number are made on.

    cuBLAS holds memory for each that it ever saw, so there is one; and all that was captured on one
    works in that same memory, so it must not serve two whose replays may overlap. torch hands its
    streams out in turn: of this priority, the caller's own are hardly among them.
    """
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


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
