"""The command line: ``python -m tap_ext demo`` and ``python -m tap_ext doctor``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

import tap_ext
from tap_ext.ops import library_status

if TYPE_CHECKING:
    from tap_ext.demo.run import Comparison

__all__ = ["main"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCHEDULES = {"windowed": None, "even": "even"}
NOISY = 1.3
EXTRA = "pip install --no-build-isolation -e '.[demo]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: its arguments; default: those of the process.

    Returns:
        The exit status: 0, 1 if something failed, 130 if interrupted.

    Raises:
        SystemExit: with status 2, after one line on stderr, if an argument is wrong.
    """
    parser = _Parser(prog="tap_ext", description="Token-adaptive prediction for FLUX and others.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="measure, and draw what was measured"))
    doctor = commands.add_parser("doctor", help="print versions and how the ops run")
    doctor.set_defaults(run=lambda _: _doctor())
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Generates pictures with FluxPipeline, untouched, accelerated and with fewer steps; prints "
        "a table and writes one PNG."
    )
    add = parser.add_argument
    add("--out", type=_writable, default="tap_ext_demo.png", metavar="PNG", help="%(default)s")
    add("--steps", type=_whole(1, 1000), default=50, help="of an untouched run; %(default)s")
    add("--windows", type=_windows, default="4,6,8,10", help="one full step in each; %(default)s")
    add("--schedule", choices=SCHEDULES, help="where the full steps lie; even")
    add("--forecast", choices=("residual", "hidden"), help="what is predicted; hidden")
    add("--pictures", type=_whole(1, 256), help="how many; 6, or one per prompt")
    add("--seed", type=_whole(0, 2**31), default=0, help="%(default)s")
    add("--device", type=_device, default="cpu", help="cpu or cuda[:N]; %(default)s")
    add("--dtype", choices=DTYPES, help="float32, or bfloat16 with --model")
    add("--model", type=Path, metavar="FOLDER", help="a local FLUX checkpoint, not the bundled one")
    add("--prompt", action="append", help="what to generate with --model; may be repeated")
    add("--size", type=_whole(16, 8192), help="height and width with --model; the pipeline's own")
    add("--json", action="store_true", help='print {"rows": [...]} instead of the table')
    parser.set_defaults(run=lambda arguments: _demo(parser, arguments))


def _demo(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.model and not arguments.prompt:
        parser.error("argument --model: needs at least one --prompt")
    for name in ("prompt", "size"):
        if getattr(arguments, name) and not arguments.model:
            parser.error(f"argument --{name}: needs --model, the bundled model takes none")
    # Importing the pipeline makes transformers speak of image processors that nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        result = _compare(parser, arguments)
    except ImportError as error:
        if (error.name or "").startswith("tap_ext"):
            raise
        missing = error.name or str(error).strip().partition("\n")[0]
        return _failed(parser, f"the demo needs {missing}, which {EXTRA} installs")
    except (OSError, RuntimeError) as error:
        return _failed(parser, str(error))
    if result.spread > NOISY:
        print(
            f"tap_ext: equal runs differed by up to {result.spread:.1f}x, so the times are rough; "
            "is the machine busy?",
            file=sys.stderr,
        )
    about = f"{len(result.titles)} pictures, {result.setting}, ops {_ops()}; see {arguments.out}"
    if arguments.json:
        print(json.dumps({"rows": result.rows()}, indent=2))
        print(about, file=sys.stderr)
    else:
        from tap_ext.demo.table import table

        print(table(result.rows()))
        print(about)
    return 0


def _compare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Comparison:
    """Everything that needs the extra: loads, measures, draws."""
    from tap_ext.demo import picture, progress, run, subject

    noise = (arguments.seed, arguments.device)
    if arguments.model:
        dtype = DTYPES[arguments.dtype or "bfloat16"]
        pictures = arguments.pictures or len(arguments.prompt)
        try:
            chosen = subject.from_checkpoint(
                arguments.model, arguments.prompt, pictures, arguments.size, *noise, dtype
            )
        except ValueError as error:
            parser.error(f"argument --model: {error}")
    else:
        dtype = DTYPES[arguments.dtype or "float32"]
        chosen = subject.from_bundle(arguments.pictures or 6, *noise, dtype)
    with progress.progress(run.model_calls(arguments.steps, arguments.windows)) as advance:
        config = run.DEMONSTRATED
        if arguments.schedule is not None:
            config = config.replace(schedule=SCHEDULES[arguments.schedule])
        if arguments.forecast is not None:
            config = config.replace(forecast=arguments.forecast)
        result = run.compare(chosen, arguments.steps, arguments.windows, advance, config=config)
    picture.draw(result).save(arguments.out)
    return result


def _doctor() -> int:
    row = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        row["diffusers"] = importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError:
        row["diffusers"] = "not installed"
    row["tap_ext"] = tap_ext.__version__
    row["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    row["ops"] = _ops()
    widths = [max(len(name), len(value)) for name, value in row.items()]
    for line in (row.keys(), row.values()):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    return 0


def _ops() -> str:
    status = library_status()
    if not status.compiled:
        return f"in plain torch ({status.reason})"
    return "compiled for CPU and CUDA" if status.cuda else "compiled for the CPU"


def _failed(parser: argparse.ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: {message}", file=sys.stderr)
    return 1


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, got {text!r}"
            )
        return int(text)

    return parse


def _windows(text: str) -> list[int]:
    parse = _whole(1, 1000)
    return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise argparse.ArgumentTypeError(f"there are {count} CUDA devices, got {text!r}")
    return device


def _writable(text: str) -> Path:
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
