"""Locks that nothing leaves held for ever."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["Lock"]

_all: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A mutual exclusion that outlives interrupts and forks.

    It is re-entrant: where an interrupt comes before it is let go of, the thread that was
    interrupted can still take it. In the child of a fork, what other threads held is free.
    """

    def __init__(self) -> None:
        """Free."""
        self._lock = threading.RLock()
        _all.add(self)

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; False where that would block and is not to."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Let go of it."""
        self._lock.release()

    def __enter__(self) -> None:
        """Take it."""
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self._lock.release()


def _in_a_child() -> None:
    """Threads that held a lock are gone; this one may still be within a ``with``."""
    for lock in _all:
        if lock.acquire(blocking=False):
            lock.release()
        else:
            lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_child)
