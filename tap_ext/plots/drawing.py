"""The figure of ``tap_ext.plot``: maps of the tokens, choices per step, distances per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tap_ext.plots import maps, style
from tap_ext.plots.orders import orders, shares
from tap_ext.report import Choice

__all__ = ["Layout", "draw"]

_STEPS = 4
_LINE = "#0b7a75"


@dataclass(frozen=True)
class Layout:
    """How the tokens lie: see ``tap_ext.plot``."""

    picture: Any
    height: int | None
    width: int | None
    frames: int
    row: int


def draw(
    choices: Sequence[Choice],
    full_steps: Sequence[int],
    names: Sequence[str],
    layout: Layout,
    title: str,
) -> Figure:
    """Draws one branch of one run.

    Args:
        choices: of its skip steps.
        full_steps: indices of the others.
        names: of the candidates, in the order of the family.
        layout: how the tokens lie.
        title: above all.
    """
    picture = None if layout.picture is None else maps.as_array(layout.picture)
    shape: Any = (layout.height, layout.width)
    if layout.height is None and picture is not None:
        shape = picture.shape[:2]
    tokens = choices[0].index.shape[1] // layout.frames
    cells = maps.cells_of(tokens, *shape)
    tall = 2.6 if cells is not None else 0.01
    drawn = style.figure(12, tall + 6.6)
    papers: Any = drawn.subfigures(3, 1, height_ratios=(tall, 3.6, 3.0))
    count = choices[0].rows.difference.shape[1]
    if cells is not None:
        _maps(papers[0], choices, layout, cells, picture)
    left, right = papers[1].subplots(1, 2, width_ratios=(1, 1))
    _orders(left, choices, full_steps, count)
    _candidates(right, choices, full_steps, names)
    _distances(papers[2].subplots(), choices, full_steps)
    drawn.suptitle(title, fontsize=13, color=style.INK, x=0.01, ha="left")
    return drawn


def _maps(
    paper: Any, choices: Sequence[Choice], layout: Layout, cells: maps.Cells, picture: Any
) -> None:
    count = choices[0].rows.difference.shape[1]
    colours = style.order_colours(count)
    some = sorted({round(i) for i in np.linspace(0, len(choices) - 1, _STEPS + 2)[1:-1]})
    shown = [] if picture is None else [(picture, "the picture")]
    favourite = shares(choices).argmax(-1)
    taken = [(favourite, "most often")]
    taken += [(orders(choices[number]), f"step {choices[number].step}") for number in some]
    for values, title in taken:
        tokens = maps.laid_out(values, cells, layout.frames, layout.row)
        shown.append((maps.over(colours[tokens], picture, 0.6), title))
    panels = paper.subplots(1, len(shown), squeeze=False)[0]
    for axes, (image, title) in zip(panels, shown, strict=True):
        style.image(axes, image, title)


def _orders(axes: Any, choices: Sequence[Choice], full: Sequence[int], count: int) -> None:
    steps = [choice.step for choice in choices]
    taken = [orders(choice).numpy() for choice in choices]
    base = np.zeros(len(steps))
    colours = style.order_colours(count)
    for order in range(count):
        share = np.array([(one == order).mean() for one in taken])
        axes.bar(steps, share, 0.95, base, color=colours[order])
        base += share
    _finish(axes, "order: share of the tokens", "", full, steps)
    axes.set_ylim(0, 1)
    handles = [
        Patch(color=tuple(colour), label=_order(order)) for order, colour in enumerate(colours)
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=min(count, 4),
        frameon=False,
        fontsize=9,
    )


def _order(order: int) -> str:
    return style.ORDERS[order] if order < len(style.ORDERS) else f"order {order}"


def _candidates(
    axes: Any, choices: Sequence[Choice], full: Sequence[int], names: Sequence[str]
) -> None:
    steps = [choice.step for choice in choices]
    last = max([*steps, *full])
    share = np.full((len(names), last + 1), np.nan)
    for choice in choices:
        counts = np.bincount(choice.index.cpu().numpy().ravel(), minlength=len(choice.rows))
        share[:, choice.step] = 0
        np.add.at(share[:, choice.step], list(choice.rows.source), counts / max(counts.sum(), 1))
    shown = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    _finish(axes, "candidate: share of the tokens", "", full, steps)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(visible=False)
    axes.figure.colorbar(shown, ax=axes, shrink=0.8)


def _distances(axes: Any, choices: Sequence[Choice], full: Sequence[int]) -> None:
    steps = np.arange(max([choice.step for choice in choices] + [*full]) + 1)
    low, middle, high = np.full((3, len(steps)), np.nan)  # a gap at every full step
    for choice in choices:
        values = np.maximum(choice.distance.float().cpu().numpy().ravel(), 1e-12)
        at = choice.step
        low[at], middle[at], high[at] = np.quantile(values, (0.1, 0.5, 0.9))
    axes.fill_between(steps, low, high, color=_LINE, alpha=0.2, linewidth=0, label="10 to 90 %")
    axes.plot(steps, middle, color=_LINE, marker="o", markersize=3, label="median")
    axes.set_yscale("log")
    _finish(
        axes, "distance of the chosen candidate's probe to the true one", "", full, [len(steps) - 1]
    )
    axes.legend(frameon=False, fontsize=9)


def _finish(axes: Any, title: str, y: str, full: Sequence[int], steps: Sequence[int]) -> None:
    for step in full:
        axes.axvline(step, color=style.GREY, linewidth=1.0, linestyle=":")
    style.plain(axes, title, "step (dotted: full)", y)
    axes.set_xlim(-0.7, max([*steps, *full]) + 0.7)
