"""A progress bar on stderr, with or without tqdm."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], object]]:
    """Shows how many of ``total`` steps are done; yields what to call after each."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield _plain(total)
        sys.stderr.write("\n")
    else:
        with tqdm(total=total, unit="step", desc="tap_ext demo", leave=False) as bar:
            yield bar.update


def _plain(total: int) -> Callable[[], object]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 100 // total > (done - 1) * 100 // total:
            sys.stderr.write(f"\rtap_ext demo: {done * 100 // total} %")
            sys.stderr.flush()

    return advance
