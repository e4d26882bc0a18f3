"""``tap_ext doctor``: versions, and how the ops run."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

import torch

import tap_ext
from tap_ext.cli.arguments import ops

__all__ = ["add"]


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.set_defaults(run=lambda _: _doctor())


def _doctor() -> int:
    row = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        row["diffusers"] = importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError:
        row["diffusers"] = "not installed"
    row["tap_ext"] = tap_ext.__version__
    row["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    row["ops"] = ops()
    widths = [max(len(name), len(value)) for name, value in row.items()]
    for line in (row.keys(), row.values()):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    return 0
