"""The memory of this process, without what only waits to be freed."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
from pathlib import Path

import torch


def held() -> float:
    """MB of this process after freeing what can be freed: resident, and on the GPU where used."""
    gc.collect()
    with_libc = ctypes.CDLL(None)
    if hasattr(with_libc, "malloc_trim"):
        with_libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    on_gpu = torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0
    return (pages * os.sysconf("SC_PAGE_SIZE") + on_gpu) / 1e6


def drift(samples: list[float]) -> float:
    """MB from the first quarter of the samples to the last, by their medians."""
    quarter = max(1, len(samples) // 4)
    return statistics.median(samples[-quarter:]) - statistics.median(samples[:quarter])
