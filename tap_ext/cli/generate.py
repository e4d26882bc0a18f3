"""``tap_ext generate``: pictures or videos from a local model, accelerated."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_ext.calibrate import Calibration
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
)
from tap_ext.config import PRESETS, Config

if TYPE_CHECKING:
    from tap_ext.evaluate.models import Model

__all__ = ["add"]


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Generates every prompt with every seed and writes each result at once, as a PNG or an "
        "MP4, with a JSON file of its settings beside it."
    )
    add_argument = parser.add_argument
    add_model(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    given.add_argument(
        "--prompts",
        type=path,
        metavar="FILE",
        help="one per line, or DrawBench's CSV, VBench's JSON",
    )
    add_argument("--seeds", type=seeds, default=[0], metavar="N,N-N", help="0")
    add_argument("--steps", type=whole(1, 1000), help="the pipeline's own; 50 if bundled")
    add_call(parser)
    add_acceleration(parser)
    add_argument("--untouched", action="store_true", help="do not accelerate")
    add_argument(
        "--out",
        type=path,
        default="tap_ext_pictures",
        metavar="PATH",
        help="a folder, or a .png or .mp4 for one result; %(default)s",
    )
    add_argument("--fps", type=whole(1, 240), default=16, help="of an MP4; %(default)s")
    add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_argument("--json", action="store_true", help='print {"pictures": [...]}')
    parser.set_defaults(run=lambda arguments: _generate(parser, arguments))


def add_acceleration(parser: argparse.ArgumentParser) -> None:
    """The arguments that become a ``Config``."""
    parser.add_argument("--preset", choices=PRESETS, help="see tap_ext.Config; balanced")
    parser.add_argument("--full-steps", type=whole(1, 1000), help="how many steps are full")
    parser.add_argument("--window", type=whole(1, 1000), help="one full step in so many")
    parser.add_argument(
        "--calibration",
        type=path,
        metavar="FILE",
        help="written by tap_ext calibrate: places the full steps; needs --full-steps",
    )


def acceleration(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, **more: Any
) -> Config:
    """The configuration asked for; leaves with one line where it cannot be."""
    if arguments.calibration is not None:
        return _calibrated(parser, arguments, **more)
    names = ("full_steps", "window")
    fields = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    try:
        return Config(preset=arguments.preset or "balanced", **fields, **more)
    except ValueError as error:
        parser.error(str(error))


def _calibrated(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, **more: Any
) -> Config:
    if arguments.preset or arguments.window or not arguments.full_steps:
        parser.error("argument --calibration: needs --full-steps, and no --preset or --window")
    try:
        found = Calibration.load(arguments.calibration)
        return Config(schedule=found.schedule(arguments.full_steps), **more)
    except (ValueError, OSError) as error:
        parser.error(f"argument --calibration: {words_of(error)}")


def _generate(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = (arguments.preset, arguments.full_steps, arguments.window, arguments.calibration)
    if arguments.untouched and any(given):
        parser.error(
            "argument --untouched: not allowed with --preset, --full-steps, --window or "
            "--calibration"
        )
    config = None if arguments.untouched else acceleration(parser, arguments)
    try:
        pairs, model, targets = _prepare(parser, arguments)
        return _run(parser, arguments, config, pairs, model, targets)
    except ImportError as error:
        extra = "video" if error.name == "imageio_ffmpeg" else "demo"
        return missing_extra(parser, error, extra)


def _prepare(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[list[tuple[str, int]], Model, list[Path]]:
    """Reads, loads and checks everything, so that nothing fails that could have failed before."""
    from tap_ext.cli.outputs import names
    from tap_ext.evaluate import prompts

    if arguments.prompt is None and arguments.prompts is None:
        parser.error("give --prompt or --prompts")
    argument = "--prompt" if arguments.prompts is None else "--prompts"
    try:
        texts = arguments.prompt or prompts.load(arguments.prompts)
        if not all(text.strip() for text in texts):
            raise ValueError("must not be empty")
        pairs = [(text, seed) for text in dict.fromkeys(texts) for seed in arguments.seeds]
        argument = "--model"
        model = opened(arguments)
        argument = "--prompt" if arguments.prompts is None else "--prompts"
        model.check(texts)
        argument = "--out"
        video = "num_frames" in inspect.signature(model.pipe.__call__).parameters
        targets = names(arguments.out, pairs, video=video)
    except (ValueError, OSError) as error:
        parser.error(f"argument {argument}: {words_of(error)}")
    if video:
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            error.name = "imageio_ffmpeg"
            raise
    return pairs, model, targets


def _run(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    config: Config | None,
    pairs: list[tuple[str, int]],
    model: Model,
    targets: list[Path],
) -> int:
    from tap_ext.cli.outputs import claimed, save

    done: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(targets, overwrite=arguments.overwrite))
        except OSError as error:
            parser.error(f"argument --out: {words_of(error)}")
        try:
            steps = arguments.steps or own_steps(model)
            pipe = _pipeline(model, config)
            for (prompt, seed), target in zip(pairs, targets, strict=True):
                title = f"{len(done) + 1} of {len(pairs)}"
                model_bar(pipe, title)
                picture, settings = _one(model, pipe, config, prompt, seed, steps)
                settings |= {"file": str(target)}
                save(target, picture, settings, arguments.fps)
                done.append(settings)
                if not arguments.json:
                    print(_words(settings), flush=True)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept("interrupted", done, pairs)) from None
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            return failed(parser, _kept(words_of(error), done, pairs))
    if arguments.json:
        print(json.dumps({"pictures": done}, indent=2, ensure_ascii=False))
    return 0


def _pipeline(model: Model, config: Config | None) -> Any:
    import tap_ext

    return model.pipe if config is None else tap_ext.accelerate(model.pipe, config)


def model_bar(pipe: Any, title: str) -> None:
    """The pipeline's own progress bar, on a terminal only."""
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=None, desc=title, leave=False, file=sys.stderr)


def _one(
    model: Model, pipe: Any, config: Config | None, prompt: str, seed: int, steps: int
) -> tuple[Any, dict[str, Any]]:
    """One result (3, H, W) or (F, 3, H, W), and all that it depends on."""
    import tap_ext
    from tap_ext.evaluate.code import versions

    before = None if config is None else tap_ext.stats(pipe)
    begin = time.perf_counter()
    picture = model.generate(pipe, [prompt], [seed], steps)[0]
    seconds = time.perf_counter() - begin
    settings = {
        "prompt": prompt,
        "seed": seed,
        "model": model.name,
        "steps": steps,
        "height": picture.shape[-2],
        "width": picture.shape[-1],
        "config": None if config is None else _plain(config),
        "seconds": round(seconds, 3),
        **model.settings,
        "versions": versions(),
    }
    if before is not None:
        after = tap_ext.stats(pipe)
        settings["full"] = after.full - before.full
        settings["skipped"] = after.skip - before.skip
        settings["untouched"] = _untouched(after) - _untouched(before)
    return picture, settings


def _untouched(stats: Any) -> int:
    return sum(sum(model.fallbacks.values()) for model in stats.models)


def _plain(config: Config) -> dict[str, Any]:
    """The fields of a configuration; what is no plain value, as it would be written."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = (bool, int, float, str, type(None))
    return {name: v if isinstance(v, plain) else repr(v) for name, v in values.items()}


def _words(settings: dict[str, Any]) -> str:
    line = f"{settings['file']}  {settings['seconds']:.1f} s"
    if settings["config"] is not None:
        line += f"  {settings['full']} full and {settings['skipped']} skip steps"
        if settings["untouched"]:
            line += f", {settings['untouched']} untouched"
    return line


def _kept(reason: str, done: list[dict[str, Any]], pairs: list[Any]) -> str:
    finished = "nothing was written" if not done else f"{len(done)} of {len(pairs)} are written"
    return f"{reason}; {finished}"
