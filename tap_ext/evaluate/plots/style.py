"""What all plots have in common."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tap_ext.files import replacing
from tap_ext.plots.style import GREY, INK, ORDERS, figure, image, order_colours, pixels, plain

__all__ = ["GREY", "INK", "ORDERS", "figure", "image", "order_colours", "pixels", "plain", "save"]


def save(drawn: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial:
        drawn.savefig(partial, format="png")
