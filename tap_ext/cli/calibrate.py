"""``tap_ext calibrate``: where full steps lie best on one's own model, kept in a file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_ext.cli.arguments import (
    add_call,
    add_model,
    failed,
    missing_extra,
    opened,
    own_steps,
    path,
    seeds,
    whole,
    words_of,
    writable,
)

if TYPE_CHECKING:
    from tap_ext.evaluate.models import Model
    from tap_ext.evaluate.run import Sample

__all__ = ["add"]

_SHOWN = (14, 12, 10, 8, 7)


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Generates some pictures untouched, looks at how the model's output moves from step to "
        "step, and writes a small file from which full steps are placed for any budget: for this "
        "model with this sampler, guidance and number of steps."
    )
    add_argument = parser.add_argument
    add_model(parser)
    add_argument(
        "--prompts",
        type=path,
        metavar="FILE",
        help="one per line, DrawBench's CSV or VBench's JSON, dealt out to the seeds; without it "
        "a bundled model's own",
    )
    add_argument("--seeds", type=seeds, default=list(range(100, 108)), metavar="N,N-N", help="8")
    add_argument("--steps", type=whole(2, 1000), help="the pipeline's own; 50 if bundled")
    add_call(parser)
    add_argument(
        "--out", type=writable, default="calibration.json", metavar="FILE", help="%(default)s"
    )
    add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.set_defaults(run=lambda arguments: _calibrate(parser, arguments))


def _calibrate(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    out: Path = arguments.out
    if out.exists() and not arguments.overwrite:
        parser.error(f"argument --out: {out} exists; --overwrite replaces it")
    try:
        model, samples = _prepare(parser, arguments)
        return _run(parser, model, samples, arguments.steps or own_steps(model), out)
    except ImportError as error:
        return missing_extra(parser, error, "evaluate")


def _prepare(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[Model, list[Sample]]:
    """Loads and checks everything; leaves with one line where that cannot be."""
    from tap_ext.evaluate import prompts
    from tap_ext.evaluate.run import deal

    try:
        texts = None if arguments.prompts is None else prompts.load(arguments.prompts)
    except (ValueError, OSError) as error:
        parser.error(f"argument --prompts: {words_of(error)}")
    try:
        model = opened(arguments)
        if texts is not None:
            model.check(texts)
    except (ValueError, OSError) as error:
        parser.error(f"argument --model: {words_of(error)}")
    listed = texts or model.prompts
    if listed is None:
        parser.error(f"argument --prompts: {arguments.model} needs a file of prompts")
    return model, deal(listed, arguments.seeds)


def _run(
    parser: argparse.ArgumentParser, model: Model, samples: list[Sample], steps: int, out: Path
) -> int:
    from tap_ext.calibrate import calibrate
    from tap_ext.evaluate.progress import progress

    def generate() -> None:
        with progress(len(samples), "tap_ext calibrate", "picture") as advance:
            for start in range(0, len(samples), model.batch):
                part = samples[start : start + model.batch]
                model.generate(model.pipe, [s.prompt for s in part], [s.seed for s in part], steps)
                advance(len(part))

    try:
        found = calibrate(model.pipe, generate)
        found.save(out)
    except (ValueError, RuntimeError, OSError) as error:
        return failed(parser, words_of(error))
    print(f"{out}: {model.name}, {len(samples)} pictures of {found.num_steps} steps")
    for count in _SHOWN:
        if count < found.num_steps:
            listed: Any = ", ".join(map(str, found.schedule(count).steps))
            print(f"  {count} full: {listed}")
    return 0
