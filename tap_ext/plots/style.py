"""What all plots have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GREY", "INK", "ORDERS", "figure", "image", "order_colours", "pixels", "plain"]

INK, GREY, RULE = "#1d2433", "#667085", "#e4e7ec"
ORDERS = ("reuse", "linear", "quadratic", "cubic", "quartic", "quintic")


def figure(width: float, height: float) -> Figure:
    """White paper of so many inches."""
    return Figure(figsize=(width, height), dpi=120, facecolor="white", layout="constrained")


def plain(axes: Any, title: str, x: str, y: str) -> None:
    """Axes without what distracts."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", fontweight="bold")
    axes.set_xlabel(x, fontsize=10, color=GREY)
    axes.set_ylabel(y, fontsize=10, color=GREY)
    axes.tick_params(which="both", labelsize=9, labelcolor=GREY, length=0)
    axes.grid(color=RULE)
    axes.set_axisbelow(True)
    axes.set_frame_on(False)


def image(axes: Any, shown: NDArray[Any], title: str = "", **how: Any) -> Any:
    """A picture, or a map of tokens; returns what a colour bar needs."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, color=INK)
    return axes.imshow(shown, interpolation="nearest", **how)


def order_colours(count: int) -> NDArray[Any]:
    """A colour per order, (count, 3)."""
    return np.asarray(colormaps["viridis"](np.linspace(0.95, 0.2, count)))[:, :3]


def pixels(picture: Tensor) -> NDArray[Any]:
    """(3, H, W) as matplotlib wants it; of a video (F, 3, H, W) the first frame."""
    still = picture[0] if picture.dim() == 4 else picture
    return np.asarray(still.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy())
