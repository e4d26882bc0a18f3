"""The recorder of CUDA graphs, as far as it can be asked without a device."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tap_ext.graphs import Graphs, recorder

Pool = tuple[int, int]


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch without CUDA cannot be asked this."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def _ask() -> str | None:
    return object.__new__(recorder.CudaRecorder).busy()


def test_one_capture_at_a_time_in_a_process() -> None:
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(recorder._recording.acquire).result()
        try:
            assert _ask() == "another thread is capturing"
            with pytest.raises(RuntimeError, match="another thread is capturing"):
                object.__new__(recorder.CudaRecorder).record(lambda: None)
        finally:
            elsewhere.submit(recorder._recording.release).result()
    assert _ask() is None


def test_no_capture_within_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _ask() == "a capture is already under way around this step"


def test_a_lock_that_an_interrupt_left_held_stops_nobody_in_its_thread() -> None:
    recorder._recording.acquire()
    try:
        assert _ask() is None
    finally:
        recorder._recording.release()


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert recorder.recorder_for(torch.device("cpu")) is None


class _Driver:
    """What torch 2.11 keeps count of around captures, without a device.

    Attributes:
        uses: captures and graphs per pool; a pool that was known and has none takes no more.
        underway: pools whose captures the allocator believes to run.
        pinned: likewise for pinned memory; it asks the graph, by its identity, at every allocation.
        random: whether the generator of random numbers believes so.
        refuses: whether the driver refuses to end the next capture.
        refuses_to_begin: likewise.
        stream: the present one.
        captured_on: the streams that captures began on, in order.
    """

    def __init__(self) -> None:
        self.uses: Counter[Pool] = Counter()
        self.underway: list[Pool] = []
        self.pinned: dict[Pool, int] = {}
        self.random = False
        self.living: set[int] = set()
        self.refuses = self.refuses_to_begin = False
        self._handles = itertools.count(1)
        self._streams = itertools.count(1)
        self.stream = self.new_stream()
        self.captured_on: list[int] = []
        self.blas_streams: set[int] = set()

    def new_stream(self, device: Any = None, priority: int = 0) -> Any:
        return SimpleNamespace(cuda_stream=next(self._streams), wait_stream=lambda other: None)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def handle(self) -> Pool:
        return 0, next(self._handles)

    def blas(self) -> int:
        """A thread's first cannot be made in a capture."""
        assert not self.underway
        self.blas_streams.add(self.stream.cuda_stream)
        return 1

    def launch(self, cycles: int) -> None:
        assert len(self.underway) == 1

    def check(self) -> None:
        """Nothing goes on as in a capture, and nobody asks what is gone."""
        assert self.underway == [] and not self.random
        assert set(self.pinned.values()) <= self.living
        assert set(self.captured_on) <= self.blas_streams

    def end_allocating(self, device: int, pool: Pool) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)


def _graph_of(driver: _Driver) -> type[Any]:
    class Graph:
        def __init__(self) -> None:
            self._pool: Pool | None = None
            self._ended = False
            driver.living.add(id(self))

        def capture_begin(self, capture_error_mode: str, pool: Pool | None = None) -> None:
            assert capture_error_mode == "thread_local"
            if pool is None:
                pool = driver.handle()
            driver.random = True
            if pool in driver.uses and driver.uses[pool] == 0:
                raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
            driver.uses[pool] += 1
            driver.underway.append(pool)
            driver.captured_on.append(driver.stream.cuda_stream)
            assert pool not in driver.pinned, "already recording to mempool_id"
            driver.pinned[pool] = id(self)
            self._pool = pool
            if driver.refuses_to_begin:
                driver.refuses_to_begin = False
                raise RuntimeError("operation not permitted")

        def capture_end(self) -> None:
            assert self._pool is not None
            if driver.refuses:
                driver.refuses = False
                raise RuntimeError("operation failed due to a previous error during capture")
            driver.end_allocating(0, self._pool)
            del driver.pinned[self._pool]
            driver.random = False
            self._ended = True

        def replay(self) -> None:
            assert self._ended

        def __del__(self) -> None:
            driver.living.remove(id(self))
            if self._ended:
                assert self._pool is not None
                driver.uses[self._pool] -= 1

    return Graph


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Driver]:
    made = _Driver()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _graph_of(made))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", made.handle)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made.stream)
    monkeypatch.setattr(torch.cuda, "Stream", made.new_stream)
    monkeypatch.setattr(torch.cuda, "stream", made.on)
    monkeypatch.setattr(torch.cuda, "current_blas_handle", made.blas)
    monkeypatch.setattr(torch.cuda, "_sleep", made.launch)
    monkeypatch.setattr(recorder, "_failed", [])
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", made.end_allocating, raising=False)
    recorder._side_stream.cache_clear()
    yield made
    recorder._side_stream.cache_clear()
    made.check()


def _graphs(told: list[str]) -> Graphs:
    return Graphs(recorder.CudaRecorder(torch.device("cuda", 0)), told.append)


def _call(graphs: Graphs, key: str) -> None:
    one = [torch.ones(1)]
    for _ in range(3):
        graphs.call(key, lambda given: given[0] + 1, one)


def test_graphs_of_one_branch_share_a_pool_and_those_of_another_have_their_own(
    driver: _Driver,
) -> None:
    told: list[str] = []
    mine, others = _graphs(told), _graphs(told)
    for graphs in (mine, others):
        _call(graphs, "skip")
        _call(graphs, "full")
    assert sorted(driver.uses.values()) == [2, 2] and not told


def test_what_is_dropped_can_be_recorded_again(driver: _Driver) -> None:
    """The allocator refuses a pool that all graphs have left."""
    told: list[str] = []
    graphs = _graphs(told)
    for premise in range(3):  # weights that moved, say
        graphs.expect("skip", premise)
        _call(graphs, "skip")
        assert graphs.captured == premise + 1
    assert not told and sorted(driver.uses.values()) == [0, 0, 1]


def test_captures_for_one_stream_share_another_that_serves_no_third(driver: _Driver) -> None:
    """cuBLAS' memory is that of the stream it was captured on, and two streams may overlap."""
    first, second = driver.stream, driver.new_stream()
    for stream in (first, first, second, first):
        driver.stream = stream
        recorder.CudaRecorder(torch.device("cuda", 0)).record(lambda: None)
    a, b, other, c = driver.captured_on
    assert a == b == c != other and not {first.cuda_stream, second.cuda_stream} & {a, other}


def _raise() -> None:
    raise ValueError("of the model")


@pytest.mark.parametrize("stage", ["begin", "function", "end"])
def test_a_capture_that_fails_leaves_the_allocator_as_it_was(driver: _Driver, stage: str) -> None:
    made = recorder.CudaRecorder(torch.device("cuda", 0))
    kept, _ = made.record(lambda: None)
    driver.refuses, driver.refuses_to_begin = stage == "end", stage == "begin"
    with pytest.raises(ValueError if stage == "function" else RuntimeError):
        made.record(_raise if stage == "function" else lambda: None)
    driver.check()
    again, _ = made.record(lambda: None)
    again.replay()
    kept.replay()


def test_the_reason_of_a_failure_is_the_functions(driver: _Driver) -> None:
    driver.refuses = True
    with pytest.raises(ValueError, match="of the model"):
        recorder.CudaRecorder(torch.device("cuda", 0)).record(_raise)
