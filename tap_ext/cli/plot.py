"""``tap_ext plot``: one run of a model, and what it chose."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from typing import Any

from tap_ext.cli.arguments import (
    add_call,
    add_model,
    failed,
    missing_extra,
    opened,
    whole,
    words_of,
    writable,
)
from tap_ext.cli.generate import acceleration, add_acceleration, model_bar

__all__ = ["add"]


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Generates one picture, accelerated, and draws which order each of its tokens took, how "
        "often each candidate was chosen at each step, and how near its probe was."
    )
    add_argument = parser.add_argument
    add_model(parser)
    add_argument("--prompt", metavar="TEXT", help="a bundled model's first, if not given")
    add_argument("--seed", type=whole(0, 2**31 - 1), default=0, help="%(default)s")
    add_argument("--steps", type=whole(2, 1000), default=50, help="%(default)s")
    add_argument("--frames", type=whole(1, 1000), default=1, help="latent frames of a video; 1")
    add_argument("--branch", help="which of the calls of a step: 0, 1, ...; the first")
    add_call(parser)
    add_acceleration(parser)
    add_argument(
        "--out", type=writable, default="tap_ext_plot.png", metavar="PNG", help="%(default)s"
    )
    add_argument("--overwrite", action="store_true", help="replace a file that exists")
    add_argument("--json", action="store_true", help="print shares and distances, step by step")
    parser.set_defaults(run=lambda arguments: _plot(parser, arguments))


def _plot(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments.out.exists() and not arguments.overwrite:
        parser.error(f"argument --out: {arguments.out} exists; --overwrite replaces it")
    config = acceleration(parser, arguments, trace=True)
    try:
        return _draw(parser, arguments, config)
    except ImportError as error:
        return missing_extra(parser, error, "demo")
    except (OSError, RuntimeError, ValueError) as error:
        return failed(parser, words_of(error))


def _draw(parser: argparse.ArgumentParser, arguments: argparse.Namespace, config: Any) -> int:
    import tap_ext
    from tap_ext.evaluate.plots.style import save

    argument = "--model"
    try:
        model = opened(arguments)
        argument = "--prompt"
        prompt = arguments.prompt
        if prompt is None:
            prompt = (model.prompts or ("",))[0]
        if not prompt.strip():
            raise ValueError(f"must be given for {model.name}")
        model.check([prompt])
    except (ValueError, OSError) as error:
        parser.error(f"argument {argument}: {words_of(error)}")
    pipe = tap_ext.accelerate(model.pipe, config)
    model_bar(pipe, "tap_ext plot")
    made = model.generate(pipe, [prompt], [arguments.seed], arguments.steps)[0]
    layout: dict[str, Any] = {"height": made.shape[-2], "width": made.shape[-1]}
    if made.dim() == 3:
        layout = {"picture": made}
    given = {"frames": arguments.frames, "branch": arguments.branch}
    try:
        drawn = tap_ext.plot(pipe, **layout, **given)
    except ValueError as error:
        if not str(error).startswith(("height", "frames")):
            raise
        drawn = tap_ext.plot(pipe, branch=arguments.branch)  # tokens that fill no grid
    save(drawn, arguments.out)
    if arguments.json:
        print(json.dumps({"steps": _figures(tap_ext.stats(pipe).trace)}, indent=2))
    else:
        print(arguments.out)
    return 0


def _figures(trace: Any) -> list[dict[str, Any]]:
    """Shares of the candidates and distances of each skip step."""
    found = []
    for choice in trace:
        index, distance = choice.index.cpu().flatten(), choice.distance.float().cpu().flatten()
        share = {
            name: float((index == row).float().mean()) for row, name in enumerate(choice.rows.names)
        }
        line: dict[str, Any] = {"branch": choice.branch, "step": choice.step, "share": share}
        with contextlib.suppress(RuntimeError):  # no token, no distance
            line["distance"] = {
                "median": float(distance.median()), "largest": float(distance.max())
            }  # fmt: skip
        found.append(line)
    return found
