"""The data of the digits model: handwritten digits, enlarged, bent a little and coloured.

The strokes are those of scikit-learn's `load_digits`, 1,797 digits of 8 x 8 cells (E. Alpaydin and
C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
doi:10.24432/C50P49, CC BY 4.0). Nothing is downloaded.
"""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "HELD_OUT", "SIZE", "dataset"]

SIZE = 24
"""Pixels along each side of a picture."""

CLASSES = tuple("0123456789")

HELD_OUT = 297
"""How many of the digits, the last ones, the training never sees."""

_CELLS, _MARGIN = 8, 2


def dataset(
    count: int, seed: int, held_out: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draws pictures, as many of each class as of every other up to one.

    Args:
        count: How many.
        seed: The same seed gives the same pictures.
        held_out: Whether from the digits held out, rather than from all others.

    Returns:
        Pictures (count, SIZE, SIZE, 3), and the positions of their classes in `CLASSES`.
    """
    from scipy.ndimage import (  # type: ignore[import-untyped]
        map_coordinates,
        spline_filter,
    )
    from sklearn.datasets import load_digits

    source: Any = load_digits()
    chosen = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    padding = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    cells = np.pad(source.images[chosen] / 16, padding)
    splines = [spline_filter(digit, order=3) for digit in cells]
    of_class = [np.flatnonzero(source.target[chosen] == number) for number in range(len(CLASSES))]

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        spline = splines[rng.choice(of_class[label])]
        stroke = map_coordinates(spline, _bend(rng), order=3, mode="nearest", prefilter=False)
        # Enlarged cells are blurred; this gives the stroke an edge of about two pixels.
        opacity = 1 / (1 + np.exp(-10 * (stroke - 0.4)))
        picture[:] = np.rint(255 * _colour(opacity, rng))
    return pictures, labels


def _bend(rng: np.random.Generator) -> NDArray[np.float64]:
    """Where in the padded cells each pixel lies, (2, SIZE, SIZE): a random affine map."""
    height = rng.uniform(2.2, 2.7)
    width = height * rng.uniform(0.85, 1.15)
    angle, shear = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.diag([1 / height, 1 / width]) @ np.array([[1, 0], [shear, 1]]) @ turn
    pixels = np.indices((SIZE, SIZE), float) - (SIZE - 1) / 2
    shifted = pixels - rng.uniform(-1.5, 1.5, 2)[:, None, None]
    mapped = np.einsum("ij,jyx->iyx", linear, shifted)
    return np.asarray(mapped + _MARGIN + (_CELLS - 1) / 2)


def _colour(opacity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A bright stroke on a dark ground that runs from one colour to another, (SIZE, SIZE, 3)."""
    hue, first, second = rng.random(3)
    ink = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 1), rng.uniform(0.85, 1)))
    ends = [
        np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.4, 1), rng.uniform(0.05, 0.45)))
        for hue in (first, second)
    ]
    rows, columns = np.indices((SIZE, SIZE)) / (SIZE - 1) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = (rows * np.sin(angle) + columns * np.cos(angle)) / np.sqrt(2) + 0.5
    ground = ends[0] + along[..., None] * (ends[1] - ends[0])
    return np.asarray(ground + opacity[..., None] * (ink - ground))
