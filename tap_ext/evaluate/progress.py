"""A progress bar on stderr, with or without tqdm."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextlib.contextmanager
def progress(
    total: int, title: str = "tap_ext demo", unit: str = "step"
) -> Iterator[Callable[..., object]]:
    """Shows how many of ``total`` units are done; yields what to call after each, or each few."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield _plain(total, title)
        sys.stderr.write("\n")
    else:
        with tqdm(total=total, unit=unit, desc=title, leave=False, disable=None) as bar:
            yield bar.update


def _plain(total: int, title: str) -> Callable[..., object]:
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done
        before, done = done, done + count
        if done * 100 // total > before * 100 // total:
            sys.stderr.write(f"\r{title}: {done * 100 // total} %")
            sys.stderr.flush()

    return advance
