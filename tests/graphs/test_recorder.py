"""The recorder of CUDA graphs, as far as it can be asked without a device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tap_ext.graphs import recorder


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


def test_a_lock_that_an_interrupt_left_held_stops_nobody_in_its_thread() -> None:
    recorder._recording.acquire()
    try:
        assert _ask() is None
    finally:
        recorder._recording.release()


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert recorder.recorder_for(torch.device("cpu")) is None
