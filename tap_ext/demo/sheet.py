"""A figure that is measured in pixels from its upper left corner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tap_ext.files import replacing

__all__ = ["Pixels", "Sheet"]

Pixels = NDArray[np.floating[Any]]
"""(H, W, 3), in [0, 1]."""

INK = "#1d2433"

_DPI = 100


class Sheet:
    """White paper of a size in pixels."""

    def __init__(self, width: int, height: int) -> None:
        """An empty sheet."""
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Matplotlib's axes over a rectangle."""
        box = (x / self.width, 1 - (y + height) / self.height)
        return self._figure.add_axes((*box, width / self.width, height / self.height))

    def image(self, x: float, y: float, size: tuple[int, int], pixels: Pixels) -> None:
        """A picture on (width, height) pixels: enlarged in squares, reduced smoothly."""
        axes = self.axes(x, y, *size)
        smooth = "antialiased" if pixels.shape[1] > size[0] else "nearest"
        axes.imshow(pixels, interpolation=smooth, aspect="auto")
        axes.set_axis_off()

    def square(self, x: float, y: float, side: int, colour: Any) -> None:
        """A square of one colour."""
        self.image(x, y, (side, side), np.asarray(colour, dtype=float).reshape(1, 1, 3))

    def text(self, x: float, y: float, words: str, size: float = 26, **style: Any) -> None:
        """Words on the baseline ``y``, in a font of ``size`` pixels."""
        style = {"color": INK, "va": "baseline"} | style
        place = (x / self.width, 1 - y / self.height)
        self._figure.text(*place, words, fontsize=points(size), **style)

    def save(self, path: Path) -> None:
        """Writes a PNG; at no time is there half a file at ``path``.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(path) as partial:
            self._figure.savefig(partial, format="png", dpi=_DPI)


def points(pixels: float) -> float:
    """The font size of so many pixels."""
    return pixels * 72 / _DPI
