"""Which code made a number, so that a stored one is not taken for another's."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from pathlib import Path

import torch

import tap_ext
from tap_ext.ops import library_status

__all__ = ["versions"]

_APART = {"app", "cli", "demo", "evaluate", "plots"}
_MEASURING = ("blocks.py", "freqca.py", "metrics.py", "oracle.py", "solvers.py")


@functools.cache
def versions() -> dict[str, str]:
    """What computes the numbers: versions, and a digest of the package's own code.

    Comments and docstrings do not count, nor do commands, tables and plots.
    """
    return {
        "tap_ext": tap_ext.__version__,
        "code": _digest(),
        "ops": "compiled" if library_status().compiled else "plain torch",
        "torch": torch.__version__,
        "diffusers": importlib.metadata.version("diffusers"),
    }


def _digest() -> str:
    root = Path(tap_ext.__file__).parent
    paths = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in _APART]
    paths += [Path(__file__).with_name(name) for name in _MEASURING]
    found = hashlib.sha256()
    for path in sorted(paths):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_words(part)]  # type: ignore[attr-defined]
        found.update(f"{path.relative_to(root)} {ast.dump(tree)}\n".encode())
    return found.hexdigest()[:12]


def _is_words(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
