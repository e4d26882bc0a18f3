"""Writes the tables of docs/quality.md from the results committed under bench/results.

python tools/quality_page.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quality.md"
RESULTS = {
    "bundled": ROOT / "bench" / "results" / "2026-11-22-quality-bundled.json",
    "digits": ROOT / "bench" / "results" / "2026-11-22-quality-digits.json",
}
BEGIN, END = "<!-- made by tools/quality_page.py -->", "<!-- end -->"

Row = dict[str, Any]


def page() -> str:
    """The page with its tables as the results have them."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(_tables(name, path) for name, path in RESULTS.items())
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _tables(name: str, path: Path) -> str:
    rows: list[Row] = json.loads(path.read_text())["rows"]
    budgets = sorted(
        {row["full_steps"] for row in rows if row["method"] != "untouched"}, reverse=True
    )
    cells = {(row["method"], row["full_steps"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "untouched"))
    samples = min(row["samples"] for row in rows)
    lines = [f"### {name}, {samples} pictures", ""]
    for metric, digits, words in (
        ("psnr", 1, "PSNR in dB"),
        ("ssim", 4, "SSIM"),
        ("flip", 4, "FLIP"),
    ):
        lines += [f"{words}; in brackets the worst picture's:", ""] if metric == "psnr" else []
        lines += [f"{words}:", ""] if metric != "psnr" else []
        lines += [_line("full of 50", *budgets), _line("---", *("---:" for _ in budgets))]
        for method in methods:
            found = [cells.get((method, budget)) for budget in budgets]
            lines.append(_line(f"`{method}`", *(_cell(row, metric, digits) for row in found)))
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row | None, metric: str, digits: int) -> str:
    if row is None or row.get(metric) is None:
        return ""
    mean, error = row[metric], row[f"{metric}_se"]
    text = f"{mean:.{digits}f} ± {error:.{digits}f}"
    return f"{text} ({row['psnr_worst']:.1f})" if metric == "psnr" else text


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Write the page, or say whether it is what would be written."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if text != PAGE.read_text():
            print(f"{PAGE} is out of date: run python tools/quality_page.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
