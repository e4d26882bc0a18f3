"""Writes the tables of docs/quality.md and README.md from the results under bench/results.

python tools/quality_page.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quality.md"
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
DATE = "2026-11-22"
MODELS = ("bundled", "digits")

DEFAULT, PAPER = "paced-residual", "paper"
CONTROLS = (
    "speca",
    "teacache",
    "taylorseer",
    "taylorseer-blocks",
    "freqca",
    "fora",
    "newton",
    "steps",
    "steps2",
)
"""What the default has to be ahead of; ``newton`` and ``taylorseer`` are single rows."""

AHEAD = 1.0
"""Of the best control, in dB."""
AHEAD_OF_PAPER = {12: 2.0, 10: 2.0, 8: 6.0, 7: 6.0}

Row = dict[str, Any]
Cells = dict[tuple[str, int], Row]


def page(path: Path = PAGE) -> str:
    """A page with its tables as the results have them."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{BLOCKS[found[2]]().strip()}\n\n{found[4]}"

    pattern = r"(<!-- made by tools/quality_page.py: ([a-z-]+) -->)(.*?)(<!-- end -->)"
    return re.sub(pattern, made, path.read_text(), flags=re.DOTALL)


def _rows(kind: str, model: str) -> list[Row]:
    path = RESULTS / f"{DATE}-{kind}-{model}.json"
    if not path.is_file():
        return []
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return rows


def _cells(rows: Iterable[Row]) -> Cells:
    return {(row["method"], row["full_steps"]): row for row in rows}


def _budgets(rows: Iterable[Row]) -> list[int]:
    return sorted({r["full_steps"] for r in rows if r["method"] != "untouched"}, reverse=True)


# Every method, by metric


def _all_methods() -> str:
    return "\n".join(_of_model(model, _rows("quality", model)) for model in MODELS)


def _of_model(name: str, rows: list[Row]) -> str:
    budgets, cells = _budgets(rows), _cells(rows)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "untouched"))
    lines = _heading(name, rows)
    for metric, digits, words in (
        ("psnr", 1, "PSNR in dB; in brackets the mean of the worst tenth of the pictures"),
        ("ssim", 4, "SSIM"),
        ("flip", 4, "FLIP"),
    ):
        lines += [f"{words}:", "", _line("full of 50", *budgets), _rule(len(budgets))]
        for method in methods:
            found = [cells.get((method, budget)) for budget in budgets]
            lines.append(_line(f"`{method}`", *(_cell(row, metric, digits) for row in found)))
        lines.append("")
    lines += _made(rows)
    return "\n".join(lines)


# The README's


def _readme() -> str:
    budgets = (14, 10, 8, 7)
    cells = [_cells(_rows("quality", model)) for model in MODELS]
    lines = [_line("PSNR dB at full steps of 50", *budgets), _rule(len(budgets))]
    for method, words in _README.items():
        found = [[known.get((method, budget)) for known in cells] for budget in budgets]
        own = [known[DEFAULT, budgets[0]]["samples"] for known in cells]
        whole = all(row is not None for pair in found for row in pair)
        if whole and all([r["samples"] for r in pair if r] == own for pair in found):
            texts = [" / ".join(f"{row['psnr']:.1f}" for row in pair if row) for pair in found]
            lines.append(_line(words, *texts))
    return "\n".join(lines)


_README = {
    DEFAULT: "default",
    PAPER: "the paper's setting",
    "taylorseer": "one Taylor row (TaylorSeer)",
    "taylorseer-blocks": "TaylorSeer in every block, as its code has it",
    "speca": "SpeCa, tuned to as many in the mean",
    "teacache": "TeaCache, likewise",
    "steps": "fewer plain steps",
    "steps2": "fewer steps, second-order solver",
}


def _heading(model: str, rows: list[Row]) -> list[str]:
    """The model, and of how many pictures the numbers are."""
    samples = {row["method"]: row["samples"] for row in rows}
    most = max(samples.values())
    fewer = {method: count for method, count in samples.items() if count < most}
    lines = [f"### {model}, {most} pictures", ""]
    if fewer:
        listed = ", ".join(f"`{method}` {count}" for method, count in fewer.items())
        lines += [f"Of some methods the first ones only: {listed}.", ""]
    return lines


def _made(rows: Iterable[Row]) -> list[str]:
    """How many steps were full where a threshold decides."""
    tuned = [row for row in rows if row["method"] in ("speca", "teacache")]
    listed = ", ".join(
        f"`{row['method']}` {row['full_steps']}: {row['full_steps_made']:.1f}"
        for row in sorted(tuned, key=lambda row: (row["method"], -row["full_steps"]))
    )
    return [f"Full steps that were made, in the mean: {listed}.", ""] if tuned else []


# The goal, cell by cell


def _goal() -> str:
    parts = []
    for model in MODELS:
        rows = _rows("quality", model)
        cells = _cells(rows)
        there = dict.fromkeys(row["method"] for row in rows if row["method"] in CONTROLS)
        parts.append(f"### {model}, against {', '.join(f'`{name}`' for name in there)}\n")
        head = (
            "full of 50",
            "default, dB",
            "best control, dB (pictures)",
            "ahead of it",
            "ahead of `paper`",
        )
        head += ("SSIM and FLIP", "worst tenth, `paper`'s", "met")
        lines = [_line(*head), _rule(len(head) - 1)]
        lines += [_goal_line(cells, budget) for budget in _budgets(rows)]
        parts += [*lines, ""]
    return "\n".join(parts)


def _goal_line(cells: Cells, budget: int) -> str:
    own = cells[DEFAULT, budget]
    controls = [cells[name, budget] for name in CONTROLS if (name, budget) in cells]
    best = max(controls, key=lambda row: row["psnr_diff"])
    paper = cells[PAPER, budget]
    wanted = AHEAD_OF_PAPER.get(budget)
    not_worse = _not_worse(best) and _not_worse(paper)
    enough = {
        "control": -best["psnr_diff"] >= AHEAD,
        "paper": wanted is None or -paper["psnr_diff"] >= wanted,
        "SSIM or FLIP": not_worse,
        "worst tenth": own["psnr_worst"] >= paper["psnr_worst"],
    }
    failed = [name for name, met in enough.items() if not met]
    return _line(
        budget,
        f"{own['psnr']:.1f}",
        f"`{best['method']}` {best['psnr']:.1f} ({best['samples']})",
        _ahead(best),
        _ahead(paper) + ("" if wanted is None else f" (of {wanted:g})"),
        "not worse" if not_worse else "worse",
        f"{own['psnr_worst']:.1f}, {paper['psnr_worst']:.1f}",
        "yes" if not failed else f"no: {', '.join(failed)}",
    )


def _not_worse(other: Row) -> bool:
    """Whether the default is at most two standard errors worse in SSIM and FLIP."""
    ssim = -other["ssim_diff"] >= -2 * other["ssim_diff_se"]
    flip = -other["flip_diff"] <= 2 * other["flip_diff_se"]
    return bool(ssim and flip)


def _ahead(row: Row) -> str:
    return f"{-row['psnr_diff']:+.1f} ± {row['psnr_diff_se']:.1f}"


# Differences to another method


def _against(kind: str, base: str, metrics: Sequence[str] = ("psnr",)) -> Callable[[], str]:
    def made() -> str:
        parts = []
        for model in MODELS:
            rows = _rows(kind, model)
            if not rows:
                continue
            budgets, cells = _budgets(rows), _cells(rows)
            (steps,) = {row["steps"] for row in rows if row["method"] == "untouched"}
            parts += _heading(model, rows)
            for metric in metrics:
                digits = 1 if metric == "psnr" else 4
                head = [f"{metric.upper()}, full of {steps}", *budgets]
                parts += [_line(*head), _rule(len(budgets))]
                for method in dict.fromkeys(row["method"] for row in rows):
                    if method == "untouched":
                        continue
                    found = [cells.get((method, budget)) for budget in budgets]
                    texts = [_difference(row, metric, digits) for row in found]
                    parts.append(_line(f"`{method}`", *texts))
                parts.append("")
            parts += _made(rows)
        return "\n".join(parts) + f"\nIn brackets what is paired with `{base}`: the method less it."

    return made


def _difference(row: Row | None, metric: str, digits: int) -> str:
    if row is None or row.get(metric) is None:
        return ""
    text = f"{row[metric]:.{digits}f} ± {row[f'{metric}_se']:.{digits}f}"
    if row.get(f"{metric}_diff") is None:
        return text
    difference = f"{row[f'{metric}_diff']:+.{digits}f} ± {row[f'{metric}_diff_se']:.{digits}f}"
    return f"{text} ({difference})"


# The paper's other tables


def _paper_tables() -> str:
    return "\n".join(_tables_of(model) for model in MODELS)


def _tables_of(model: str) -> str:
    rows = _rows("tables", model)
    parts = []
    for name in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == name and row["method"] != "untouched"]
        count, budget = own[0]["samples"], own[0]["full_steps"]
        parts += [f"### {model}, {name}: {budget} full of 50, {count} pictures", ""]
        if name == "memory":
            parts += [_line("method", "KiB held", "PSNR"), _rule(2)]
            parts += [
                _line(f"`{row['method']}`", f"{row['held_bytes'] / 1024:.0f}", _plain(row))
                for row in own
            ]
        else:
            parts += [_line("method", "PSNR", "to `paper`", "SSIM"), _rule(3)]
            parts += [
                _line(f"`{r['method']}`", _plain(r), _signed(r), f"{r['ssim']:.4f}") for r in own
            ]
        parts.append("")
    return "\n".join(parts)


def _plain(row: Row) -> str:
    return f"{row['psnr']:.2f} ± {row['psnr_se']:.2f}"


def _signed(row: Row) -> str:
    if row["psnr_diff"] is None:
        return ""
    return f"{row['psnr_diff']:+.2f} ± {row['psnr_diff_se']:.2f}"


def _cell(row: Row | None, metric: str, digits: int) -> str:
    if row is None or row.get(metric) is None:
        return ""
    mean, error = row[metric], row[f"{metric}_se"]
    text = f"{mean:.{digits}f} ± {error:.{digits}f}"
    return f"{text} ({row['psnr_worst']:.1f})" if metric == "psnr" else text


def _rule(columns: int) -> str:
    return _line("---", *("---:" for _ in range(columns)))


def _line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


BLOCKS: dict[str, Callable[[], str]] = {
    "readme": _readme,
    "goal": _goal,
    "methods": _all_methods,
    "few-step": _against("few-step", DEFAULT, ("psnr", "ssim", "flip")),
    "bound": _against("bound", DEFAULT),
    "tables": _paper_tables,
}


def main() -> int:
    """Write the pages, or say whether they are what would be written."""
    status = 0
    for path in (PAGE, README):
        text = page(path)
        if sys.argv[1:] != ["--check"]:
            path.write_text(text)
        elif text != path.read_text():
            print(f"{path} is out of date: run python tools/quality_page.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
