"""``tap_ext evaluate``: models by methods by budgets by prompts by seeds."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_ext.cli.arguments import DTYPES, device, failed, path, whole

if TYPE_CHECKING:
    from tap_ext.evaluate.methods import Way
    from tap_ext.evaluate.models import Model
    from tap_ext.evaluate.run import Job
    from tap_ext.evaluate.tables import Table

__all__ = ["add"]

EXTRA = "pip install --no-build-isolation -e '.[evaluate]'"
MAX_SEED = 2**31 - 1000


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Generates the same pictures untouched and by every method at every number of full steps, "
        "and prints how far they are from the untouched ones. Every picture's numbers are stored "
        "at once: a run that was broken off goes on where it was."
    )
    add_argument = parser.add_argument
    add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a bundled model, or a folder with a diffusers pipeline; may be repeated; bundled",
    )
    add_argument("--methods", type=_words, help="see --list; default")
    add_argument("--full-steps", type=_numbers, metavar="N,N", help="the budgets; 8")
    add_argument("--steps", type=whole(1, 1000), help="of an untouched run; 50")
    add_argument(
        "--table",
        type=_words,
        metavar="NAME",
        help="instead of these three and --against: a table of the paper by its name, see --list, "
        "or all",
    )
    add_argument("--seeds", type=whole(1, 10**6), default=16, help="how many; 16")
    add_argument("--first-seed", type=whole(0, MAX_SEED), default=0, help="0")
    add_argument(
        "--prompts",
        type=path,
        metavar="FILE",
        help="one per line, DrawBench's CSV or VBench's JSON: every prompt with every seed; "
        "without it a bundled model's own are dealt out, one to a seed",
    )
    add_argument(
        "--metrics", type=_words, help="see --list; psnr, ssim, ms_ssim, flip; fid keeps pictures"
    )
    add_argument(
        "--calibration",
        type=path,
        metavar="FILE",
        help="of tap_ext calibrate: adds the methods 'calibrated' and 'calibrated-hidden'",
    )
    add_argument("--against", metavar="METHOD", help="to compare with; default")
    add_argument("--batch", type=whole(1, 4096), help="pictures per call; the model's own")
    add_argument("--size", type=whole(16, 8192), help="height and width; the pipeline's own")
    add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; cpu")
    add_argument("--dtype", choices=DTYPES, help="float32 if bundled, else bfloat16")
    add_argument(
        "--out", type=path, default="tap_ext_evaluation", metavar="DIR", help="%(default)s"
    )
    add_argument("--pictures", action="store_true", help="keep the pictures in DIR too")
    add_argument("--plots", type=path, metavar="DIR", help="draw what was measured")
    add_argument("--possible", action="store_true", help="leave out what cannot be run, and say so")
    add_argument("--list", action="store_true", help="list models and methods")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help='print {"rows": [...]}')
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.set_defaults(run=lambda arguments: _evaluate(parser, arguments))


def _evaluate(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    # Importing a pipeline makes transformers speak of image processors that nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if arguments.list:
            return _list(arguments.json)
        return _run(parser, arguments, _parts(parser, arguments))
    except ImportError as error:
        if (error.name or "").startswith("tap_ext"):
            raise
        missing = error.name or str(error).strip().partition("\n")[0]
        return failed(parser, f"the evaluation needs {missing}, which {EXTRA} installs")


def _list(as_json: bool) -> int:
    from tap_ext.evaluate.methods import METHODS
    from tap_ext.evaluate.metrics import METRICS
    from tap_ext.evaluate.models import MODELS
    from tap_ext.evaluate.tables import TABLES

    listed: dict[str, dict[str, str]] = {
        "methods": {name: method.purpose for name, method in METHODS.items()},
        "tables": {name: table.title for name, table in TABLES.items()},
        "metrics": {name: metric.lacks or metric.title for name, metric in METRICS.items()},
    }
    if as_json:
        print(json.dumps({"models": list(MODELS), **listed}, indent=2))
        return 0
    print("models:", ", ".join(MODELS), "or a folder")
    for title, entries in listed.items():
        print(f"{title}:")
        width = max(map(len, entries))
        for name, purpose in entries.items():
            print(f"{name.ljust(width)}  {purpose}")
    return 0


@dataclass
class _Part:
    """Jobs over the same methods, one per model, that make one table."""

    name: str | None
    title: str
    against: str
    jobs: list[Job]


def _parts(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[_Part]:
    """What is asked for; leaves with one line where it cannot be done."""
    from tap_ext.evaluate import methods, metrics, models, prompts, run, tables

    def read(argument: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (ValueError, OSError) as error:
            parser.error(f"argument {argument}: {error}")

    if arguments.calibration is not None:
        read("--calibration", lambda: methods.register_calibrated(arguments.calibration))
    wanted = [tables.Table("", "", *_asked(arguments))]
    if arguments.table:
        for name in ("methods", "full_steps", "steps", "against"):
            if getattr(arguments, name) is not None:
                option = name.replace("_", "-")
                parser.error(f"argument --{option}: not allowed with argument --table")
        wanted = read("--table", lambda: tables.chosen(arguments.table))
    several = bool(arguments.table)
    ways = [_ways(parser, table, arguments.possible or several) for table in wanted]
    measured = read("--metrics", lambda: metrics.choose(arguments.metrics))
    texts = None
    if arguments.prompts is not None:
        texts = read("--prompts", lambda: prompts.load(arguments.prompts))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if seeds[-1] > MAX_SEED:
        parser.error(f"argument --first-seed: the last seed must be at most {MAX_SEED}")

    def opened(name: str) -> tuple[Model, list[run.Sample]]:
        dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
        size = arguments.size
        model = read("--model", lambda: models.open_model(name, arguments.device, dtype, size))
        if texts is not None:
            read("--prompts", lambda: model.check(texts))
            return model, run.product(texts, seeds)
        if model.prompts is None:
            parser.error(f"argument --prompts: {name} needs a file of prompts")
        return model, run.deal(model.prompts, seeds)

    known = [opened(name) for name in dict.fromkeys(arguments.model or ["bundled"])]
    batch = arguments.batch
    keep = arguments.pictures or any(metric.of_sets for metric in measured)
    return [
        _Part(
            table.name or None,
            table.title,
            table.against,
            [run.Job(m, table.steps, found, s, measured, batch, keep) for m, s in known],
        )
        for table, found in zip(wanted, ways, strict=True)
    ]


def _asked(arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[int, ...], int, str]:
    """Methods, budgets, steps and whom to compare with, where no table says so."""
    return (
        tuple(arguments.methods or ("default",)),
        tuple(arguments.full_steps or (8,)),
        arguments.steps or 50,
        arguments.against or "default",
    )


def _ways(parser: argparse.ArgumentParser, table: Table, possible: bool) -> list[Way]:
    """What can be run of a table; says what is left out."""
    from tap_ext.evaluate import methods

    try:
        found, refused = methods.ways(table.methods, table.full_steps, table.steps)
    except ValueError as error:
        parser.error(f"argument --methods: {error}")
    reasons = list(dict.fromkeys(f"{name}: {reason}" for (name, _), reason in refused.items()))
    if refused and (not possible or not found):
        parser.error(f"argument --full-steps: {'; '.join(reasons)}")
    for reason in reasons:
        print(f"{parser.prog}: left out: {reason}", file=sys.stderr)
    return found


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace, parts: list[_Part]) -> int:
    """Does all jobs and tells what came out."""
    from tap_ext.evaluate import run, table
    from tap_ext.evaluate.progress import progress
    from tap_ext.evaluate.store import Store

    kept = 0
    found: list[tuple[_Part, list[dict[str, Any]]]] = []
    try:
        with Store.open(arguments.out) as store:
            kept = store.pictures
            total = sum(job.pictures_to_make for part in parts for job in part.jobs)
            try:
                with progress(total, "tap_ext evaluate", "picture") as advance:
                    for part in parts:
                        part.jobs = [run.evaluate(job, store, advance) for job in part.jobs]
            finally:
                new, kept = store.pictures - kept, store.pictures
            for part in parts:
                rows = [row for job in part.jobs for row in table.rows(job, store, part.against)]
                found.append((part, rows))
            forms = _forms(found)
            _write(arguments.out, forms)
            if arguments.plots:
                _plot(arguments, found)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {_kept(arguments, kept)}") from None
    except (OSError, RuntimeError, ValueError) as error:
        return failed(parser, f"{_words_of(error)}; {_kept(arguments, kept)}")
    print(forms["json" if arguments.json else "csv" if arguments.csv else "md"].rstrip("\n"))
    print(
        f"{new} of {total} pictures made now, the rest were stored; see {arguments.out}",
        file=sys.stderr,
    )
    return 0


def _forms(found: list[tuple[_Part, list[dict[str, Any]]]]) -> dict[str, str]:
    """All parts in each form; rows of a named table say which."""
    from tap_ext.evaluate import table

    rows = [({"table": part.name} if part.name else {}) | row for part, own in found for row in own]
    texts = []
    for part, own in found:
        heading = f"## {part.name}: {part.title}\n\n" if part.name else ""
        texts.append(heading + table.as_markdown(own, part.against))
    return {"json": table.as_json(rows), "csv": table.as_csv(rows), "md": "\n\n".join(texts)}


def _write(folder: Path, forms: dict[str, str]) -> None:
    from tap_ext.files import write

    for suffix, text in forms.items():
        write(folder / f"table.{suffix}", text.rstrip("\n") + "\n")


def _plot(arguments: argparse.Namespace, found: list[tuple[_Part, list[dict[str, Any]]]]) -> None:
    from tap_ext.evaluate import plots

    arguments.plots.mkdir(parents=True, exist_ok=True)
    for part, rows in found:
        for job in part.jobs:
            own = [row for row in rows if row["model"] == job.model.name]
            plots.draw(job, own, arguments.plots, part.name)


def _kept(arguments: argparse.Namespace, count: int) -> str:
    if not count:
        return "no picture was finished"
    return f"{count} finished pictures are kept in {arguments.out}, the same command goes on"


def _words_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"must be names with commas between, got {text!r}")
    return list(dict.fromkeys(words))


def _numbers(text: str) -> list[int]:
    parse = whole(1, 1000)
    return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
