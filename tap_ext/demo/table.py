"""The demo's rows as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["table"]

COLUMNS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "method": lambda row: _name(row),
    "full steps": lambda row: f"{row['full_steps']} of {row['steps']}",
    "FLOPs": lambda row: f"{row['flops_ratio']:.2f}x",
    "wall clock": lambda row: f"{row['wall_clock_ratio']:.2f}x",
    "ms/full step": lambda row: _number(row["full_step_ms"], 2),
    "ms/skip step": lambda row: _number(row["skip_step_ms"], 2),
    "PSNR dB": lambda row: _number(row["psnr"], 2),
    "SSIM": lambda row: _number(row["ssim"], 4),
}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """``Comparison.rows()`` in columns, and a line on what they mean."""
    cells = [list(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        right = (text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join((name.ljust(widths[0]), *right)))
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += [
        "",
        "FLOPs and wall clock: how many times less than untouched. Wall clock is the whole call of",
        "the pipeline, ms are the transformer alone; medians. PSNR and SSIM: to the untouched",
        "pictures, means.",
    ]
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    return row["method"] if row["window"] is None else f"{row['method']}, window {row['window']}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
