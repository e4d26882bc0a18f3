"""``tap_ext spec``: how models are entered."""

from __future__ import annotations

import argparse
import json

from tap_ext.backbones import SPECS, BackboneSpec
from tap_ext.cli.arguments import failed

__all__ = ["add"]

UNKNOWN = (
    "its first call will be watched, and it is entered if that can be done rightly; "
    "docs/add_a_backbone.md tells how to describe it, --list which classes are"
)


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = "Prints how models of a class, or of every class with a spec, are entered."
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="for instance SD3Transformer2D")
    parser.add_argument("--list", action="store_true", help="every class")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.set_defaults(run=lambda arguments: _spec(parser, arguments))


def _spec(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if bool(arguments.classes) == arguments.list:
        parser.error("give class names or --list")
    for name in arguments.classes:
        if name not in SPECS:
            near = [known for known in SPECS if name.lower() in known.lower()]
            hint = f"did you mean {', '.join(near)}?" if near else UNKNOWN
            return failed(parser, f"{name} has no spec; {hint}")
    chosen = [SPECS[name] for name in arguments.classes] or list(SPECS.values())
    if arguments.json:
        print(json.dumps([spec.to_dict() for spec in chosen], indent=2))
    else:
        print("\n".join(_words(spec) for spec in chosen))
    return 0


def _words(spec: BackboneSpec) -> str:
    lists = ", ".join(blocks.path for blocks in spec.blocks)
    heads = ", ".join(stream.head for stream in spec.streams)
    line = f"{spec.name}: skips {lists}; head {heads}; graphs {spec.graphs}"
    return f"{line}\n    {spec.hazards}" if spec.hazards else line
