"""Tables of Markdown from the JSON of ``pytest bench --benchmark-json``.

python -m bench.report ops.json steps.json loops.json > docs/benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def tables(results: dict[str, Any]) -> str:
    """One table per group of a file, with every figure that its benchmarks have."""
    machine = results["machine_info"]
    lines = [
        f"{results['datetime'][:10]}, {machine['cpu'].get('brand_raw', 'unknown processor')}, "
        f"Python {machine['python_version']}, commit {results['commit_info']['id'][:10]}",
        "",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in results["benchmarks"]:
        groups.setdefault(entry["group"] or "", []).append(entry)
    for group, entries in sorted(groups.items()):
        names = list(dict.fromkeys(name for entry in entries for name in entry["extra_info"]))
        names = [n for n in names if all(_is_figure(e["extra_info"].get(n)) for e in entries)]
        lines += [f"### {group}", "", _row(["", *names]), _row(["---"] * (len(names) + 1))]
        for entry in entries:
            figures = [_figure(entry["extra_info"].get(name)) for name in names]
            lines.append(_row([_name(entry), *figures]))
        lines.append("")
    return "\n".join(lines)


def _name(entry: dict[str, Any]) -> str:
    """What tells a benchmark from the others of its group."""
    inside = str(entry["name"]).partition("[")[2].rstrip("]")
    known = str(entry["group"]).split()
    return "-".join(part for part in inside.split("-") if part not in "-".join(known).split("-"))


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(paths: list[str]) -> int:
    """Print the tables of every file."""
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    for path in paths:
        print(f"## {Path(path).stem}\n\n{tables(json.loads(Path(path).read_text()))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
