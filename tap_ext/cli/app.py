"""``tap_ext app``: a page that makes each picture untouched and accelerated."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading

from tap_ext.cli.arguments import (
    add_call,
    add_model,
    call_of,
    failed,
    missing_extra,
    opened,
    own_steps,
    whole,
    words_of,
)

__all__ = ["add"]

PAUSE = 0.4
"""Seconds between two looks at a run."""


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Serves a page on this machine: a picture untouched and accelerated side by side, their "
        "difference, and the order that each token took. Ctrl-C ends it."
    )
    add_argument = parser.add_argument
    add_model(parser)
    add_call(parser)
    add_argument("--host", default="127.0.0.1", help="to listen on; %(default)s, this machine only")
    add_argument("--port", type=whole(1, 65535), default=7860, help="%(default)s")
    parser.set_defaults(run=lambda arguments: _app(parser, arguments))


def _app(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from tap_ext.app import compare, page
    except ImportError as error:
        return missing_extra(parser, error, "app")
    try:
        model = opened(arguments)
    except (ValueError, OSError) as error:
        parser.error(f"argument --model: {words_of(error)}")
    call = call_of(arguments)
    seen = {name: call[name] for name in ("height", "width", "num_frames") if call.get(name)}
    built = page.build(compare.Comparer(model, pause=PAUSE, **seen), own_steps(model))
    try:
        address = page.serve(built, arguments.host, arguments.port)
    except OSError as error:
        where = f"{arguments.host}:{arguments.port}"
        return failed(parser, f"{where}: {words_of(error)}; --host and --port choose another one")
    print(address, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    built.close(verbose=False)
    return 0
