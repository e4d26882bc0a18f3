"""The order that each token takes, over the picture and over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tap_ext.evaluate.plots import style
from tap_ext.evaluate.plots.trajectory import Seen
from tap_ext.plots.orders import grid, orders, shares

__all__ = ["figure"]

_STEPS = 4


def figure(seen: Seen) -> Figure:
    """Per picture its tokens' favourite orders and their orders at some steps; below, shares."""
    pictures = len(seen.prompts)
    count = seen.trace[0].rows.difference.shape[1]
    cells = grid(seen.trace[0].index.shape[1], *seen.untouched.shape[-2:])
    maps = cells is not None and seen.untouched.dim() == 4
    tall = 1.95 * pictures if maps else 0.01
    drawn = style.figure(12, tall + 3.6)
    papers: Any = drawn.subfigures(2, 1, height_ratios=(tall, 3.2))
    above, below = papers
    if maps:
        _maps(above, seen, cells, count)
    _over_steps(below.subplots(), seen, count)
    way = seen.way
    title = f"Which order each token takes: {way.method}, {way.budget} of {way.steps} steps full"
    drawn.suptitle(title, fontsize=13, color=style.INK, x=0.01, ha="left")
    return drawn


def _maps(paper: Any, seen: Seen, cells: Any, count: int) -> None:
    colours = style.order_colours(count)
    pictures = len(seen.prompts)
    some = sorted({round(i) for i in np.linspace(0, len(seen.trace) - 1, _STEPS)})
    panels = paper.subplots(pictures, 2 + len(some), squeeze=False)
    favourites = shares(seen.trace)[-pictures:].numpy().reshape(pictures, *cells, count)
    for i, prompt in enumerate(seen.prompts):
        style.image(panels[i][0], style.pixels(seen.untouched[i]), prompt[:24])
        strength = np.minimum(1.5 * favourites[i].max(-1, keepdims=True), 1)
        favourite = 1 - strength * (1 - colours[favourites[i].argmax(-1)])
        style.image(panels[i][1], favourite, "favourite" if i == 0 else "")
        for column, number in enumerate(some, start=2):
            choice = seen.trace[number]
            taken = orders(choice)[-pictures:].numpy()[i].reshape(cells)
            title = f"step {choice.step}" if i == 0 else ""
            style.image(panels[i][column], colours[taken], title)


def _over_steps(axes: Any, seen: Seen, count: int) -> None:
    steps = [choice.step for choice in seen.trace]
    pictures = len(seen.prompts)
    taken = [orders(choice)[-pictures:].numpy() for choice in seen.trace]
    base = np.zeros(len(steps))
    colours = style.order_colours(count)
    for order in range(count):
        share = np.array([(one == order).mean() for one in taken])
        axes.bar(steps, share, 0.95, base, color=colours[order])
        base += share
    for step in seen.full_steps:
        axes.axvline(step, color=style.GREY, linewidth=1.2, linestyle=":")
    style.plain(axes, "share of the tokens, over the steps", "step (dotted: full)", "")
    axes.set_xlim(-1, seen.way.steps)
    axes.set_ylim(0, 1)
    handles = [
        Patch(color=tuple(colour), label=f"{order} {style.ORDERS[order]}")
        for order, colour in enumerate(colours)
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
