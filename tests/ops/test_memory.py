"""No op keeps anything of a call."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tap_ext import ops
from tests.ops.data import OPS, Sizes, arguments

CALLS = 20_000
LEAST = 16
"""Bytes that the smallest allocation takes: a leak of any kind shows as so many per call."""


class _Mallinfo(ctypes.Structure):
    """The ten fields of glibc's ``struct mallinfo2``; those that are read by their names."""

    _fields_ = [
        *((f"unused_{number}", ctypes.c_size_t) for number in range(4)),
        ("hblkhd", ctypes.c_size_t),
        ("unused_5", ctypes.c_size_t),
        ("unused_6", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("unused_8", ctypes.c_size_t),
        ("unused_9", ctypes.c_size_t),
    ]


def _in_use() -> int:
    """Bytes that the C library has handed out and not got back."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library has no mallinfo2")
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs glibc on Linux")
@pytest.mark.parametrize("name", OPS)
def test_a_call_leaves_nothing_on_the_heap(name: str) -> None:
    given, op = arguments(name, Sizes(1, 2, 4, 2, 2)), getattr(ops, name)
    for _ in range(100):
        op(**given)
    before = _in_use()
    for _ in range(CALLS):
        op(**given)
    assert _in_use() - before < CALLS * LEAST / 4
