"""How well the probe tells what is forecast: distances, errors, correlation and regret."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tap_ext.evaluate.plots import style
from tap_ext.evaluate.plots.trajectory import Seen
from tap_ext.plots.orders import grid

__all__ = ["correlation", "figure", "regret"]

_CHOSEN, _NOMINAL, _BEST = "#0b7a75", "#c2571a", "#1d2433"


def regret(seen: Seen) -> Tensor:
    """(B, N): by how much the chosen candidate errs more than the best one; mean of all steps."""
    return torch.stack([skip.chosen - skip.best for skip in seen.skips]).mean(0)


def correlation(seen: Seen) -> tuple[list[float], float]:
    """Pearson's correlation of the changes of probe and output: over tokens per step, and of all.

    The figure 7 of arXiv 2603.03792 is of this kind.
    """
    pairs = zip(seen.probe_change, seen.output_change, strict=True)
    both = [torch.stack((a.flatten(), b.flatten())).double().cpu() for a, b in pairs]
    per_step = [float(torch.corrcoef(pair)[0, 1]) for pair in both]
    return per_step, float(torch.corrcoef(torch.cat(both, 1))[0, 1])


def figure(seen: Seen) -> Figure:
    """Four panels over the steps, and a map of the regret per picture."""
    pictures = len(seen.prompts)
    first = seen.skips[0].chosen
    cells: Any = grid(first.shape[1], *seen.untouched.shape[-2:])
    maps = cells is not None and seen.untouched.dim() == 4
    drawn = style.figure(12, 7.4 + (2.6 if maps else 0.01))
    papers: Any = drawn.subfigures(2, 1, height_ratios=(7, 2.6 if maps else 0.01))
    above, below = papers
    panels = above.subplots(2, 2)
    _distances(panels[0][0], seen)
    _errors(panels[0][1], seen)
    _changes(panels[1][0], seen)
    _correlations(panels[1][1], seen)
    if maps:
        loss = regret(seen).numpy().reshape(pictures, *cells)
        below.suptitle(
            "regret per token: error of the chosen candidate less that of the best one",
            fontsize=11, color=style.INK, fontweight="bold", x=0.01, ha="left",
        )  # fmt: skip
        row = below.subplots(1, 2 * pictures, squeeze=False)[0]
        top = max(float(np.quantile(loss, 0.99)), 1e-9)
        for i in range(pictures):
            style.image(row[2 * i], style.pixels(seen.untouched[i]), seen.prompts[i][:24])
            shown = style.image(row[2 * i + 1], loss[i], cmap="magma", vmin=0, vmax=top)
        below.colorbar(shown, ax=row, shrink=0.8, format="%.1e")
    way = seen.way
    title = (
        f"Candidates on the untouched trajectory: {way.method}, {way.budget} of {way.steps} steps "
        f"full (dotted), {pictures} pictures"
    )
    drawn.suptitle(title, fontsize=13, color=style.INK, x=0.01, ha="left")
    return drawn


def _distances(axes: Any, seen: Seen) -> None:
    chosen = torch.stack([skip.proxy.flatten() for skip in seen.skips]).numpy()
    nominal = torch.stack([skip.nominal_proxy.flatten() for skip in seen.skips]).numpy()
    steps = [skip.step for skip in seen.skips]
    low, high = np.quantile(chosen, (0.1, 0.9), axis=1)
    axes.fill_between(steps, low, high, color=_CHOSEN, alpha=0.2, linewidth=0)
    axes.plot(steps, np.median(chosen, 1), color=_CHOSEN, label="chosen (band: 10 to 90 %)")
    axes.plot(steps, np.median(nominal, 1), color=_NOMINAL, label="nominal")
    _finish(axes, seen, "proxy distance of a token, median", "1 - cosine")


def _errors(axes: Any, seen: Seen) -> None:
    steps = [skip.step for skip in seen.skips]
    for name, colour in (("nominal", _NOMINAL), ("chosen", _CHOSEN), ("best", _BEST)):
        mean = [float(getattr(skip, name).mean()) for skip in seen.skips]
        axes.plot(steps, mean, color=colour, label=name)
    _finish(axes, seen, "true error of a token, mean", "relative to its length")


def _changes(axes: Any, seen: Seen) -> None:
    steps = range(1, len(seen.probe_change) + 1)
    for values, colour, name in (
        (seen.probe_change, _CHOSEN, "probe"),
        (seen.output_change, _NOMINAL, "what is forecast"),
    ):
        axes.plot(steps, [float(one.mean()) for one in values], color=colour, label=name)
    _finish(axes, seen, "change from the step before, mean", "relative to its length")


def _correlations(axes: Any, seen: Seen) -> None:
    per_step, overall = correlation(seen)
    axes.plot(range(1, len(per_step) + 1), per_step, color=_CHOSEN)
    axes.set_ylim(min(0.0, *per_step) - 0.05, 1.02)
    title = f"correlation of the two changes over the tokens (all steps: {overall:.2f})"
    style.plain(axes, title, "step", "Pearson")


def _finish(axes: Any, seen: Seen, title: str, y: str) -> None:
    for step in seen.full_steps:
        axes.axvline(step, color=style.GREY, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=9)
    style.plain(axes, title, "step", y)
