"""``tap_ext evaluate``: models by methods by budgets by prompts by seeds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tap_ext.cli.arguments import device, failed, whole

if TYPE_CHECKING:
    from tap_ext.evaluate.run import Job

__all__ = ["add"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
    add_argument("--methods", type=_words, default=["default"], help="see --list; default")
    add_argument("--full-steps", type=_numbers, default=[8], metavar="N,N", help="the budgets; 8")
    add_argument("--steps", type=whole(1, 1000), default=50, help="of an untouched run; 50")
    add_argument("--seeds", type=whole(1, 10**6), default=16, help="how many; 16")
    add_argument("--first-seed", type=whole(0, MAX_SEED), default=0, help="0")
    add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one per line, DrawBench's CSV or VBench's JSON: every prompt with every seed; "
        "without it a bundled model's own are dealt out, one to a seed",
    )
    add_argument("--metrics", type=_words, help="psnr, ssim, ms_ssim, flip; those installed")
    add_argument("--against", default="default", metavar="METHOD", help="to compare with; default")
    add_argument("--batch", type=whole(1, 4096), help="pictures per call; the model's own")
    add_argument("--size", type=whole(16, 8192), help="height and width; the pipeline's own")
    add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; cpu")
    add_argument("--dtype", choices=DTYPES, help="float32 if bundled, else bfloat16")
    add_argument(
        "--out", type=Path, default=Path("tap_ext_evaluation"), metavar="DIR", help="%(default)s"
    )
    add_argument("--pictures", action="store_true", help="keep the pictures in DIR too")
    add_argument("--plots", type=Path, metavar="DIR", help="draw what was measured")
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
            return _list()
        jobs = _jobs(parser, arguments)
        return _run(parser, arguments, jobs)
    except ImportError as error:
        if (error.name or "").startswith("tap_ext"):
            raise
        missing = error.name or str(error).strip().partition("\n")[0]
        return failed(parser, f"the evaluation needs {missing}, which {EXTRA} installs")


def _list() -> int:
    from tap_ext.evaluate.methods import METHODS
    from tap_ext.evaluate.models import MODELS

    print("models:", ", ".join(MODELS), "or a folder")
    width = max(map(len, METHODS))
    for method in METHODS.values():
        print(f"{method.name.ljust(width)}  {method.purpose}")
    return 0


def _jobs(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Job]:
    """What is asked for; leaves with one line where it cannot be done."""
    from tap_ext.evaluate import methods, metrics, models, prompts, run

    def read(argument: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (ValueError, OSError) as error:
            parser.error(f"argument {argument}: {error}")

    found, refused = read(
        "--methods", lambda: methods.ways(arguments.methods, arguments.full_steps, arguments.steps)
    )
    reasons = [f"{name}: {reason}" for (name, _), reason in refused.items()]
    if refused and (not arguments.possible or not found):
        parser.error(f"argument --full-steps: {'; '.join(dict.fromkeys(reasons))}")
    for reason in reasons:
        print(f"{parser.prog}: left out: {reason}", file=sys.stderr)
    measured = read("--metrics", lambda: metrics.choose(arguments.metrics))
    texts = None
    if arguments.prompts is not None:
        texts = read("--prompts", lambda: prompts.load(arguments.prompts))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if seeds[-1] > MAX_SEED:
        parser.error(f"argument --first-seed: the last seed must be at most {MAX_SEED}")

    def job(name: str) -> run.Job:
        dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
        size = arguments.size
        model = read("--model", lambda: models.open_model(name, arguments.device, dtype, size))
        if texts is not None:
            read("--prompts", lambda: model.check(texts))
            samples = run.product(texts, seeds)
        elif model.prompts is not None:
            samples = run.deal(model.prompts, seeds)
        else:
            parser.error(f"argument --prompts: {name} needs a file of prompts")
        keep = arguments.pictures
        return run.Job(model, arguments.steps, found, samples, measured, arguments.batch, keep)

    return [job(name) for name in dict.fromkeys(arguments.model or ["bundled"])]


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace, jobs: list[Job]) -> int:
    """Does all jobs and tells what came out."""
    from tap_ext.evaluate import run, table
    from tap_ext.evaluate.progress import progress
    from tap_ext.evaluate.store import Store

    kept = 0
    try:
        with Store.open(arguments.out) as store:
            kept = store.pictures
            total = sum(job.pictures_to_make for job in jobs)
            try:
                with progress(total, "tap_ext evaluate", "picture") as advance:
                    jobs = [run.evaluate(job, store, advance) for job in jobs]
            finally:
                new, kept = store.pictures - kept, store.pictures
            rows = [row for job in jobs for row in table.rows(job, store, arguments.against)]
            forms = {
                "json": table.as_json(rows),
                "csv": table.as_csv(rows),
                "md": table.as_markdown(rows, arguments.against),
            }
            _write(arguments.out, forms)
            if arguments.plots:
                _plot(arguments, jobs, rows)
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


def _write(folder: Path, forms: dict[str, str]) -> None:
    from tap_ext.files import write

    for suffix, text in forms.items():
        write(folder / f"table.{suffix}", text.rstrip("\n") + "\n")


def _plot(arguments: argparse.Namespace, jobs: list[Job], rows: list[dict[str, Any]]) -> None:
    from tap_ext.evaluate import plots

    arguments.plots.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        plots.draw(job, [row for row in rows if row["model"] == job.model.name], arguments.plots)


def _kept(arguments: argparse.Namespace, count: int) -> str:
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
