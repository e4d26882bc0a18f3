"""What one setting after the other does: the paper's Figures 2 and 6."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tap_ext.evaluate.metrics import Metric
from tap_ext.evaluate.plots import style

__all__ = ["KINDS", "family", "pool"]

_PAPER = {"order": 2.0, "lookback": 4.0, "spacing": 1.0}
_OWN, _OTHER = "#0b7a75", "#c2571a"

Rows = Sequence[dict[str, Any]]


def family(rows: Rows, metrics: Sequence[Metric]) -> Figure:
    """One panel per setting of the family of candidates; the ring is the paper's setting."""
    metric = metrics[0]
    drawn = style.figure(12, 3.8)
    panels = drawn.subplots(1, len(_PAPER), sharey=True)
    (paper,) = (row for row in rows if row["method"] == "paper")
    for axes, (setting, usual) in zip(panels, _PAPER.items(), strict=True):
        points = {usual: paper}
        for row in rows:
            kind, _, value = row["method"].partition("-")
            if kind == setting:
                points.setdefault(float(value), row)
        x = sorted(points)
        y = [points[value][metric.name] for value in x]
        error = [points[value][f"{metric.name}_se"] or 0.0 for value in x]
        axes.errorbar(x, y, error, color=_OWN, marker="o", capsize=3)
        axes.plot([usual], [paper[metric.name]], "o", mfc="none", mec=_OTHER, ms=13, mew=2)
        style.plain(axes, f"{metric.title} by {setting}", setting, metric.title)
        axes.set_xticks(x)
    return _titled(drawn, rows, "the family of candidates, one setting at a time")


def pool(rows: Rows, metrics: Sequence[Metric]) -> Figure:
    """Single predictors by order and distance, and lines where tokens choose."""
    metric = metrics[0]
    drawn = style.figure(9, 4.4)
    axes = drawn.subplots()
    singles: dict[int, list[tuple[int, float, float]]] = {}
    for row in rows:
        kind, _, rest = row["method"].partition("-")
        if kind == "row":
            order, _, shift = rest.partition("-")
            value = (int(shift or 0), row[metric.name], row[f"{metric.name}_se"] or 0.0)
            singles.setdefault(int(order), []).append(value)
    colours = style.order_colours(max(len(singles), 2))
    for colour, (order, points) in zip(colours, sorted(singles.items()), strict=False):
        x, y, error = zip(*sorted(points), strict=True)
        label = f"order {order}, for all tokens"
        axes.errorbar(x, y, error, color=colour, marker="o", capsize=3, label=label)
    for row in rows:
        if dash := {"paper": "-", "pool-30": "--"}.get(row["method"]):
            axes.axhline(row[metric.name], color=_OTHER, linestyle=dash, label=row["method"])
    style.plain(axes, metric.title, "how far short of the target it is evaluated", metric.title)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return _titled(drawn, rows, "one predictor for all tokens, and a choice per token")


def _titled(drawn: Figure, rows: Rows, what: str) -> Figure:
    row = rows[-1]
    drawn.suptitle(
        f"{row['model']}: {what}; {row['full_steps']} full steps of {rows[0]['steps']}, "
        f"{row['samples']} samples",
        fontsize=13, color=style.INK, x=0.01, ha="left",
    )  # fmt: skip
    return drawn


KINDS: Mapping[str | None, Callable[[Rows, Sequence[Metric]], Figure]] = {
    "family": family,
    "pool": pool,
}
"""By the name of the table."""
