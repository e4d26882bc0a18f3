"""What the commands share: how arguments are read, and how a failure is told."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from tap_ext.ops import library_status

if TYPE_CHECKING:
    from tap_ext.evaluate.models import Model

__all__ = [
    "DTYPES",
    "Parser",
    "add_call",
    "add_model",
    "call_of",
    "device",
    "failed",
    "missing_extra",
    "opened",
    "ops",
    "own_steps",
    "path",
    "pipeline_argument",
    "seeds",
    "whole",
    "words_of",
    "writable",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_SEED = 2**31 - 1
STEPS = 50
"""Of a bundled model, and of a pipeline that does not say."""


class Parser(argparse.ArgumentParser):
    """Tells of a wrong argument in one line; takes no abbreviations, which hide a slip."""

    def __init__(self, **kwargs: Any) -> None:
        """As any parser."""
        super().__init__(**{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option that names what is run."""
    parser.add_argument(
        "--model",
        default="bundled",
        metavar="NAME",
        help="bundled, digits, or a folder with a diffusers pipeline; %(default)s",
    )


def add_call(parser: argparse.ArgumentParser) -> None:
    """The options that say how a model is called, and where it runs."""
    parser.add_argument("--height", type=whole(16, 8192), help="in pixels; the pipeline's own")
    parser.add_argument("--width", type=whole(16, 8192), help="in pixels; the pipeline's own")
    parser.add_argument(
        "--set",
        action="append",
        type=pipeline_argument,
        metavar="NAME=VALUE",
        help="another argument of the pipeline's call, for instance guidance_scale=4; repeatable",
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, help="float32 if bundled, else bfloat16")


def call_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the pipeline is called with beside prompt, steps and seed, by ``add_call``."""
    sizes = {"height": arguments.height, "width": arguments.width}
    given = {name: value for name, value in sizes.items() if value is not None}
    return given | dict(arguments.set or ())


def opened(arguments: argparse.Namespace) -> Model:
    """The model that ``add_model`` and ``add_call`` asked for.

    Raises:
        ValueError: there is no such model, or it cannot be loaded or called so.
    """
    from tap_ext.evaluate.models import open_model

    dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
    return open_model(arguments.model, arguments.device, dtype, extra=call_of(arguments))


def own_steps(model: Model) -> int:
    """How many steps a model makes unless told otherwise."""
    parameters = inspect.signature(type(model.pipe).__call__).parameters
    own = parameters["num_inference_steps"].default if model.prompts is None else STEPS
    return own if isinstance(own, int) else STEPS


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


def missing_extra(parser: argparse.ArgumentParser, error: ImportError, extra: str) -> int:
    """Say which package is missing and how to get it; returns the exit status.

    Raises:
        ImportError: what is missing is a part of this package, so the fault is its own.
    """
    if (error.name or "").startswith("tap_ext"):
        raise error
    missing = error.name or str(error).strip().partition("\n")[0]
    command = parser.prog.rpartition(" ")[2]
    return failed(
        parser,
        f"{command} needs {missing}, which pip install --no-build-isolation -e '.[{extra}]' "
        "installs",
    )


def words_of(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error).strip().partition("\n")[0] or type(error).__name__


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return parse


def seeds(text: str) -> list[int]:
    """Reads seeds and ranges of them, like ``0,3,7-9``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"must be numbers or ranges like 0,3-5, got {text!r}")
        low, high = int(first), int(last or first)
        if not low <= high <= MAX_SEED or high - low >= 100_000:
            raise argparse.ArgumentTypeError(
                f"must rise, by less than 100000, to {MAX_SEED} at most, got {part.strip()!r}"
            )
        found.extend(range(low, high + 1))
    return list(dict.fromkeys(found))


def pipeline_argument(text: str) -> tuple[str, Any]:
    """Reads ``NAME=VALUE``; the value is JSON where it can be read so, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    if name in _OWN:
        raise argparse.ArgumentTypeError(f"{name} has an argument of its own, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


_OWN = {
    "prompt", "num_inference_steps", "generator", "output_type", "height", "width", "return_dict",
}  # fmt: skip


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


def path(text: str) -> Path:
    """Reads a path; an empty one, of a shell variable that is not set perhaps, is none."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r}")
    return Path(text)


def writable(text: str) -> Path:
    """Reads the path of a file that can be written."""
    target = path(text)
    if not target.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{target.parent} is no folder, got {text!r}")
    if target.is_dir():
        raise argparse.ArgumentTypeError(f"must name a file, got the folder {text!r}")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write in {target.parent}: {os.strerror(error.errno or 0)}"
        ) from None
    return target
