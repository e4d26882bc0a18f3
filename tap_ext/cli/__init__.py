"""The command line: ``python -m tap_ext COMMAND``, one file per command."""

from __future__ import annotations

from collections.abc import Sequence

from tap_ext.cli import demo, doctor, evaluate, flops, spec
from tap_ext.cli.arguments import Parser

__all__ = ["main"]

COMMANDS = {
    "demo": (demo, "measure, and draw what was measured"),
    "doctor": (doctor, "print versions and how the ops run"),
    "evaluate": (evaluate, "compare methods over many pictures, with errors"),
    "flops": (flops, "count what a run of a model computes, untouched and accelerated"),
    "spec": (spec, "show how models are entered"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: its arguments; default: those of the process.

    Returns:
        The exit status: 0, 1 if something failed, 130 if interrupted.

    Raises:
        SystemExit: with status 2, after one line on stderr, if an argument is wrong.
    """
    parser = Parser(prog="tap_ext", description="Token-adaptive prediction for FLUX and others.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (command, purpose) in COMMANDS.items():
        command.add(commands.add_parser(name, help=purpose))
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
