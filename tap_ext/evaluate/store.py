"""Results on disk: one JSON line per picture, appended whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Store", "key"]

RESULTS = "results.jsonl"

Line = dict[str, Any]


def key(settings: Mapping[str, Any]) -> str:
    """What identifies a picture among others: all that it depends on, in a few letters."""
    plain = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:20]


class Store:
    """The lines of one folder, by key.

    Attributes:
        folder: where they lie, in ``results.jsonl``.
        lines: all of them, the last of each key.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        """Reads the lines of an open file; ``Store.open`` is the way in."""
        self.folder = folder
        self._descriptor = descriptor
        self.lines: dict[str, Line] = {}
        self._read()

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[Store]:
        """Opens a folder's results for one writer; makes the folder where there is none.

        Raises:
            OSError: it cannot be read or written.
            BlockingIOError: another process has it open.
            ValueError: a line in it is no result.
        """
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / RESULTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(f"another run is writing to {folder}") from None
            yield cls(folder, descriptor)
        finally:
            os.close(descriptor)

    @property
    def pictures(self) -> int:
        """How many pictures there are lines of."""
        return sum("prompt" in line for line in self.lines.values())

    def append(self, lines: Iterable[Line]) -> None:
        """Adds lines; on the disk when it returns. What cannot be written whole is taken back.

        Raises:
            OSError: the disk is full, say.
        """
        added = list(lines)
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in added).encode()
        before = os.fstat(self._descriptor).st_size
        try:
            for start in range(0, len(data), 2**20):
                _write(self._descriptor, data[start : start + 2**20])
            os.fsync(self._descriptor)
        except BaseException:
            os.ftruncate(self._descriptor, before)
            raise
        self.lines.update((line["key"], line) for line in added)

    def _read(self) -> None:
        path = self.folder / RESULTS
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a run was killed while it wrote: that picture is made again
            os.ftruncate(self._descriptor, whole)
        for number, text in enumerate(data[:whole].splitlines(), start=1):
            try:
                line = json.loads(text)
                self.lines[line["key"]] = line
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}, is no result; remove it") from None


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
