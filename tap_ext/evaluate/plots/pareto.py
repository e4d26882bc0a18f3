"""Cost against each metric, one line per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from tap_ext.evaluate.methods import UNTOUCHED
from tap_ext.evaluate.metrics import Metric
from tap_ext.evaluate.plots import style

__all__ = ["figure"]

_MARKERS = "osD^vPX*<>hp"
_COSTS = (("full_steps", "full steps"), ("seconds", "seconds per picture"))


def figure(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> Figure:
    """One row of panels per cost, one column per metric; bars are standard errors."""
    columns = max(len(metrics), 1)
    drawn = style.figure(3.9 * columns + 1.8, 7.2)
    panels = drawn.subplots(len(_COSTS), columns, squeeze=False)
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != UNTOUCHED))
    for line, (cost, x) in enumerate(_COSTS):
        for column, metric in enumerate(metrics):
            axes = panels[line][column]
            for number, method in enumerate(methods):
                own = [row for row in rows if row["method"] == method]
                _line(axes, number, method, own, cost, metric.name)
            better = "up" if metric.higher else "down"
            title = f"{metric.title} ({better} is better)" if line == 0 else ""
            style.plain(axes, title, x, metric.title)
            if cost == "full_steps":
                axes.set_xticks(sorted({row[cost] for row in rows if row["method"] != UNTOUCHED}))
    handles, labels = panels[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=10)
    if rows:
        title = (
            f"{rows[0]['model']}: distance to the untouched pictures, {rows[0]['samples']} samples"
        )
        drawn.suptitle(title, fontsize=13, color=style.INK, x=0.01, ha="left")
    return drawn


def _line(
    axes: Any, number: int, method: str, own: Sequence[dict[str, Any]], cost: str, metric: str
) -> None:
    points = sorted(
        (row[cost], row[metric], row[f"{metric}_se"] or 0.0)
        for row in own
        if row[metric] is not None
    )
    x, y, error = zip(*points, strict=True) if points else ((), (), ())
    first = number == 0
    axes.errorbar(
        x,
        y,
        error,
        label=method,
        color=style.INK if first else colormaps["tab20"]((number - 1) * 2 % 20 + (number > 10)),
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=6,
        linewidth=2.4 if first else 1.4,
        elinewidth=1,
        capsize=2,
        zorder=3 if first else 2,
    )
