"""The figures as a small table."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """A heading, the command, and one line per number."""
    lines = [
        "# Soak",
        "",
        f"tap_ext {result['tap_ext']}, torch {result['torch']}, Python {result['python']}, "
        f"{result['device']}.",
        "",
        f"    {result['command']}",
        "",
        "| figure | what | value |",
        "|---|---|---|",
    ]
    for name, figure in result["figures"].items():
        for what, value in figure.items():
            lines.append(f"| {name} | {what} | {_cell(value)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
