"""``tap_ext flops``: what a run computes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from tap_ext.cli.arguments import failed, whole
from tap_ext.config import Config
from tap_ext.flops import WORKLOADS, Cost, count

__all__ = ["add"]


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Counts the floating-point operations of one run, untouched and accelerated, on the meta "
        "device: no weights are needed."
    )
    add_argument = parser.add_argument
    add_argument("model", choices=WORKLOADS, metavar="MODEL", help=", ".join(WORKLOADS))
    for name in ("height", "width", "frames", "text"):
        add_argument(f"--{name}", type=whole(1, 65536), help="the paper's")
    add_argument("--steps", type=whole(1, 1000), help="denoising steps; the model's own")
    add_argument("--window", type=whole(1, 1000), help="one full step in so many")
    add_argument("--warmup", type=whole(1, 1000), help="full steps at the start")
    add_argument("--json", action="store_true", help="print one object")
    parser.set_defaults(run=lambda arguments: _flops(parser, arguments))


def _flops(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    workload = WORKLOADS[arguments.model]
    given = {name: getattr(arguments, name) for name in ("height", "width", "frames", "text")}
    size = replace(workload.size, **{k: v for k, v in given.items() if v is not None})
    fields = {name: getattr(arguments, name) for name in ("window", "warmup")}
    config = Config(**{k: v for k, v in fields.items() if v is not None})
    try:
        cost = count(workload, size, arguments.steps, config)
    except ValueError as error:
        parser.error(str(error))
    except ImportError as error:
        return failed(parser, str(error))
    if arguments.json:
        print(json.dumps({"name": arguments.model, **cost.to_dict()}, indent=2))
    else:
        print(_words(cost))
    return 0


def _words(cost: Cost) -> str:
    tera, giga = 1e12, 1e9
    return "\n".join(
        (
            f"{cost.model}: {cost.full_steps} of {cost.steps} steps full, "
            f"{cost.branches} calls per step",
            f"  full step    {cost.full / tera:10.2f} TFLOP per call",
            f"  skip step    {cost.skip / giga:10.2f} GFLOP per call"
            f" ({cost.skip_rerun / giga:.2f} with constants computed again)",
            f"  untouched    {cost.untouched / tera:10.2f} TFLOP",
            f"  accelerated  {cost.accelerated / tera:10.2f} TFLOP"
            f" ({cost.accelerated_rerun / tera:.2f}), "
            f"{cost.untouched / cost.accelerated:.2f}x less",
        )
    )
