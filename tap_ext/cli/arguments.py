"""What the commands share: how arguments are read, and how a failure is told."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from tap_ext.ops import library_status

__all__ = ["Parser", "device", "failed", "ops", "whole", "writable"]


class Parser(argparse.ArgumentParser):
    """Tells of a wrong argument in one line; takes no abbreviations, which hide a slip."""

    def __init__(self, **kwargs: Any) -> None:
        """As any parser."""
        super().__init__(**{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def ops() -> str:
    """How the ops run, in a few words."""
    status = library_status()
    if not status.compiled:
        return f"in plain torch ({status.reason})"
    return "compiled for CPU and CUDA" if status.cuda else "compiled for the CPU"


def failed(parser: argparse.ArgumentParser, message: str) -> int:
    """Say why a command failed; returns its exit status."""
    print(f"{parser.prog}: {message}", file=sys.stderr)
    return 1


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return parse


def device(text: str) -> torch.device:
    """Reads a device that is there."""
    try:
        found = torch.device(text)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"there are {count} CUDA devices, got {text!r}")
    return found


def writable(text: str) -> Path:
    """Reads the path of a file that can be written."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder, got {text!r}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"must name a file, got the folder {text!r}")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write in {path.parent}: {os.strerror(error.errno or 0)}"
        ) from None
    return path
