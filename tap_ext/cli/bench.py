"""``tap_ext bench``: the ops, as ratios to a copy of as many bytes and to plain torch."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tap_ext.cli.arguments import device, failed, ops, whole, words_of

__all__ = ["add"]

SOURCE = Path(__file__).parents[2]
"""Where the source tree begins, if this is one."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Times every op beside a copy of as many bytes, made just before each round, and beside "
        "plain torch. Compare ratios, and only those of one run."
    )
    parser.add_argument("--case", action="append", metavar="OP", help="one op; repeatable; all")
    parser.add_argument("--shape", help="of which model; FLUX.1-dev-1024x1024")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="%(default)s")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; %(default)s")
    parser.add_argument("--rounds", type=whole(1, 1000), default=9, help="%(default)s")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]}')
    parser.set_defaults(run=lambda arguments: _bench(parser, arguments))


def _bench(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    try:
        cases, shapes = _load()
    except (ImportError, FileNotFoundError) as error:
        return failed(parser, words_of(error))
    known = {case.__name__: case for case in cases.CASES}
    sizes = {str(shape): shape for shape in shapes.SHAPES}
    wanted = arguments.case or list(known)
    for argument, given, among in (
        ("--case", wanted, known),
        ("--shape", [arguments.shape or str(shapes.FLUX_1024)], sizes),
    ):
        for name in given:
            if name not in among:
                parser.error(f"argument {argument}: must be among {', '.join(among)}, got {name!r}")
    size = sizes[arguments.shape or str(shapes.FLUX_1024)]
    try:
        rows = [_measure(cases, known[name], size, arguments) for name in dict.fromkeys(wanted)]
    except RuntimeError as error:
        return failed(parser, words_of(error))
    setting = {
        "shape": str(size),
        "dtype": arguments.dtype,
        "device": str(arguments.device),
        "threads": torch.get_num_threads(),
        "ops": ops(),
    }
    if arguments.json:
        print(json.dumps({"setting": setting, "rows": rows}, indent=2))
    else:
        print(_table(rows))
        print(", ".join(f"{name} {value}" for name, value in setting.items()))
    return 0


def _load() -> tuple[Any, Any]:
    """The modules ``bench.test_ops`` and ``bench.shapes`` of the source tree."""
    if not (SOURCE / "bench" / "test_ops.py").is_file():
        raise FileNotFoundError(
            "the cases are in bench/ of the source tree, which is not here; clone it and run there"
        )
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    try:
        return importlib.import_module("bench.test_ops"), importlib.import_module("bench.shapes")
    except ImportError as error:
        raise ImportError(
            f"the cases need {error.name}, which pip install --no-build-isolation -e '.[test]' "
            "installs"
        ) from None


def _measure(
    cases: Any, case: Callable[[Any], Any], size: Any, arguments: argparse.Namespace
) -> dict[str, Any]:
    def seconds(call: Callable[[], object]) -> float:
        taken: float = cases.timed(call, arguments.device.type)[1]
        return taken

    measured = case(cases.Inputs(size, DTYPES[arguments.dtype], str(arguments.device)))
    source = torch.ones(measured.nbytes // 2, dtype=torch.uint8, device=arguments.device)
    target = torch.zeros_like(source)
    times: dict[str, list[float]] = {"copy": [], "op": []}
    for _ in range(arguments.rounds + 1):
        times["copy"].append(seconds(lambda: target.copy_(source)))
        times["op"].append(seconds(measured.op))
    copy, op = (statistics.median(times[name][1:]) for name in ("copy", "op"))
    return {
        "op": case.__name__,
        "bytes": measured.nbytes,
        "seconds": op,
        "GB/s": measured.nbytes / op / 1e9,
        "time / copy": op / copy,
        "plain torch / time": seconds(measured.twin) / op,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'op':14} {'ms':>9} {'GB/s':>7} {'time/copy':>9} {'plain torch/time':>16}"]
    lines += [
        f"{row['op']:14} {row['seconds'] * 1e3:9.2f} {row['GB/s']:7.1f} {row['time / copy']:9.2f}"
        f" {row['plain torch / time']:16.1f}"
        for row in rows
    ]
    return "\n".join(lines)
