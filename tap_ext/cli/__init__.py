"""The command line: ``python -m tap_ext COMMAND``, one file per command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tap_ext
from tap_ext.cli import app, bench, calibrate, demo, doctor, evaluate, flops, generate, plot, spec
from tap_ext.cli.arguments import Parser, words_of

__all__ = ["main"]

COMMANDS = {
    "app": (app, "serve a page that compares untouched and accelerated pictures"),
    "bench": (bench, "time the ops beside a copy of as many bytes and plain torch"),
    "calibrate": (calibrate, "find where full steps lie best on a model, for any budget"),
    "demo": (demo, "measure, and draw what was measured"),
    "doctor": (doctor, "tell what is here, what runs how, and what is supported"),
    "evaluate": (evaluate, "compare methods over many pictures, with errors"),
    "flops": (flops, "count what a run of a model computes, untouched and accelerated"),
    "generate": (generate, "generate pictures or videos with a local model, accelerated"),
    "plot": (plot, "draw what a run chose, token by token and step by step"),
    "spec": (spec, "show how models are entered"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: its arguments; default: those of the process.

    Returns:
        The exit status: 0, 1 if something failed, 130 if interrupted, 141 if nobody reads on.

    Raises:
        SystemExit: with status 2, after one line on stderr, if an argument is wrong.
    """
    parser = Parser(prog="tap_ext", description="Token-adaptive prediction for FLUX and others.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {tap_ext.__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )
    for name, (command, purpose) in COMMANDS.items():
        command.add(commands.add_parser(name, help=purpose))
    arguments = parser.parse_args(argv)
    program = f"{parser.prog} {arguments.command}"
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        print(f"{program}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `tap_ext ... | head`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("TAP_EXT_TRACEBACK", "0") not in ("", "0"):
            raise
        kind = type(error).__name__
        hint = "TAP_EXT_TRACEBACK=1 shows where"
        print(f"{program}: {kind}: {words_of(error)}; {hint}", file=sys.stderr)
        return 1
