"""``tap_ext app``: a page that makes each picture untouched and accelerated."""

from __future__ import annotations

import argparse
import os

from tap_ext.cli.arguments import (
    DTYPES,
    add_model,
    device,
    failed,
    missing_extra,
    pipeline_argument,
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
    add_argument(
        "--set",
        action="append",
        type=pipeline_argument,
        metavar="NAME=VALUE",
        help="another argument of the pipeline's call, for instance height=512; repeatable",
    )
    add_argument("--device", type=device, default="cpu", help="cpu or cuda[:N]; %(default)s")
    add_argument("--dtype", choices=DTYPES, help="float32 if bundled, else bfloat16")
    add_argument("--host", default="127.0.0.1", help="to listen on; %(default)s, this machine only")
    add_argument("--port", type=whole(1, 65535), default=7860, help="%(default)s")
    parser.set_defaults(run=lambda arguments: _app(parser, arguments))


def _app(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio

        from tap_ext.app import compare, page
        from tap_ext.evaluate import models
    except ImportError as error:
        return missing_extra(parser, error, "app")
    dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
    try:
        extra = dict(arguments.set or ())
        model = models.open_model(arguments.model, arguments.device, dtype, extra=extra)
    except (ValueError, OSError) as error:
        parser.error(f"argument --model: {words_of(error)}")
    built = page.build(compare.Comparer(model, pause=PAUSE))
    theme = gradio.themes.Default(font="sans-serif", font_mono="monospace")  # none is fetched
    try:
        built.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            theme=theme,
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        return failed(parser, f"{words_of(error)}; --port chooses another one")
    print(f"http://{arguments.host}:{arguments.port}", flush=True)
    try:
        built.block_thread()
    finally:
        built.close()
    return 0
