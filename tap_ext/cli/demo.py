"""``tap_ext demo``: the main job."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from tap_ext.cli.arguments import DTYPES, device, failed, ops, path, whole, writable

if TYPE_CHECKING:
    from tap_ext.demo.run import Comparison

__all__ = ["add"]

SCHEDULES = {"windowed": None, "even": "even", "paced": "paced"}
NOISY = 1.3
EXTRA = "pip install --no-build-isolation -e '.[demo]'"


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Generates pictures with FluxPipeline, untouched, accelerated and with fewer steps; prints "
        "a table and writes one PNG."
    )
    add_argument = parser.add_argument
    add_argument(
        "--out", type=writable, default="tap_ext_demo.png", metavar="PNG", help="%(default)s"
    )
    add_argument(
        "--steps", type=whole(1, 1000), default=50, help="of an untouched run; %(default)s"
    )
    add_argument(
        "--windows", type=_windows, default="4,6,8,10", help="one full step in each; %(default)s"
    )
    add_argument("--schedule", choices=SCHEDULES, help="where the full steps lie; paced")
    add_argument("--forecast", choices=("residual", "hidden"), help="what is predicted; residual")
    add_argument("--pictures", type=whole(1, 256), help="how many; 6, or one per prompt")
    add_argument("--seed", type=whole(0, 2**31), default=0, help="%(default)s")
    add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; %(default)s")
    add_argument("--dtype", choices=DTYPES, help="float32, or bfloat16 with --model")
    add_argument(
        "--model", type=path, metavar="FOLDER", help="a local FLUX checkpoint, not the bundled one"
    )
    add_argument("--prompt", action="append", help="what to generate with --model; may be repeated")
    add_argument(
        "--size", type=whole(16, 8192), help="height and width with --model; the pipeline's own"
    )
    add_argument("--json", action="store_true", help='print {"rows": [...]} instead of the table')
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
        return failed(parser, f"the demo needs {missing}, which {EXTRA} installs")
    except (OSError, RuntimeError) as error:
        return failed(parser, str(error))
    if result.spread > NOISY:
        print(
            f"tap_ext: equal runs differed by up to {result.spread:.1f}x, so the times are rough; "
            "is the machine busy?",
            file=sys.stderr,
        )
    about = f"{len(result.titles)} pictures, {result.setting}, ops {ops()}; see {arguments.out}"
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
    from tap_ext.demo import picture, run, subject
    from tap_ext.evaluate.progress import progress

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
    with progress(run.model_calls(arguments.steps, arguments.windows)) as advance:
        config = run.DEMONSTRATED
        if arguments.schedule is not None:
            config = config.replace(schedule=SCHEDULES[arguments.schedule])
        if arguments.forecast is not None:
            config = config.replace(forecast=arguments.forecast)
        result = run.compare(chosen, arguments.steps, arguments.windows, advance, config=config)
    picture.draw(result).save(arguments.out)
    return result


def _windows(text: str) -> list[int]:
    parse = whole(1, 1000)
    return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
