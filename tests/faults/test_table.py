"""Every one of the 37 faults has a test, which names its row first thing in its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROWS = 37


def test_every_row_has_a_test() -> None:
    named: set[int] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                rows = re.match(r"Rows? ([\d, ]+)", ast.get_docstring(node) or "")
                named |= set(map(int, re.findall(r"\d+", rows[1]))) if rows else set()
    assert named == set(range(1, ROWS + 1))
