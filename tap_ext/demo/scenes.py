"""The pictures the demo model learned from: crops of free photographs and drawn scenes.

Every class mixes smooth and textured regions, so that the tokens of one picture change at
different speeds during sampling. The photographs are those inside the installed scikit-image
package (public domain, CC0 or without known copyright restrictions); nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 48
"""Height and width of a picture, in pixels."""

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Photo:
    """How to crop one photograph of scikit-image; lengths are fractions of its shorter side."""

    name: str
    centre: tuple[float, float]
    crop: tuple[float, float]
    jitter: float


PHOTOS: dict[str, Photo] = {
    "cat": Photo("chelsea", (0.50, 0.78), (0.80, 1.00), 0.06),
    "coffee": Photo("coffee", (0.50, 0.78), (0.80, 1.00), 0.06),
    "rocket": Photo("rocket", (0.50, 0.80), (0.70, 1.00), 0.08),
    "galaxies": Photo("hubble_deep_field", (0.50, 0.60), (0.16, 0.20), 0.05),
    "tissue": Photo("immunohistochemistry", (0.50, 0.50), (0.45, 0.60), 0.10),
    "retina": Photo("retina", (0.50, 0.50), (0.85, 1.00), 0.05),
}


def _colour(rng: np.random.Generator, rgb: tuple[float, float, float], spread: float) -> Array:
    """`rgb` with a little shared brightness and a little noise per channel."""
    jitter = rng.uniform(-spread, spread) + rng.uniform(-spread / 2, spread / 2, 3)
    return np.clip(np.asarray(rgb) + jitter, 0, 1).astype(np.float32)


class _Canvas:
    """A square picture in the making; `x` runs right and `y` down, both from 0 to 1."""

    def __init__(self, side: int) -> None:
        grid = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.y, self.x = np.meshgrid(grid, grid, indexing="ij")
        self.picture: Array = np.zeros((side, side, 3), np.float32)

    def gradient(self, top: Array, bottom: Array, horizon: float) -> None:
        """A vertical gradient that reaches `bottom` at the horizon."""
        blend = np.clip(self.y / horizon, 0, 1)[..., None]
        self.picture = np.asarray((1 - blend) * top + blend * bottom, np.float32)

    def paint(self, mask: NDArray[np.bool_], colour: Array) -> None:
        """Sets the masked pixels; `colour` is one colour or a picture."""
        self.picture = np.where(mask[..., None], colour, self.picture)

    def disc(self, x: float, y: float, radius: float) -> NDArray[np.bool_]:
        """The pixels within `radius` of a point."""
        return (self.x - x) ** 2 + (self.y - y) ** 2 < radius**2

    def waves(self, rng: np.random.Generator, count: int, low: float, high: float) -> Array:
        """A sum of sines along x with random phases, between -1 and 1."""
        terms = [
            np.sin(2 * np.pi * (frequency * self.x + rng.uniform()))
            for frequency in rng.uniform(low, high, count)
        ]
        return np.asarray(np.mean(terms, axis=0), dtype=np.float32)


def _hills(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A sunset behind two ranges, the near one covered in grass."""
    canvas.gradient(
        _colour(rng, (0.30, 0.25, 0.55), 0.05), _colour(rng, (0.98, 0.65, 0.35), 0.04), 0.6
    )
    sun = canvas.disc(rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.45), rng.uniform(0.09, 0.13))
    canvas.paint(sun, _colour(rng, (1.0, 0.93, 0.60), 0.03))
    far = canvas.y > 0.55 + 0.10 * canvas.waves(rng, 2, 0.8, 2.0)
    canvas.paint(far, _colour(rng, (0.38, 0.28, 0.45), 0.04))
    near = canvas.y > 0.72 + 0.08 * canvas.waves(rng, 2, 0.5, 1.5)
    blades = np.sin(60 * canvas.x + 6 * np.sin(14 * canvas.y)) * np.sin(55 * canvas.y)
    grass = _colour(rng, (0.20, 0.38, 0.14), 0.03) * (1 + 0.45 * blades[..., None])
    canvas.paint(near, grass)


def _sea(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A moonlit sea: a smooth sky, waves that shorten towards the horizon, a bright path."""
    horizon = rng.uniform(0.42, 0.52)
    canvas.gradient(
        _colour(rng, (0.04, 0.06, 0.20), 0.02), _colour(rng, (0.35, 0.45, 0.65), 0.04), horizon
    )
    x = rng.uniform(0.25, 0.75)
    moon = canvas.disc(x, rng.uniform(0.15, 0.25), 0.09)
    canvas.paint(moon, _colour(rng, (0.97, 0.96, 0.86), 0.02))
    depth = np.clip(canvas.y - horizon, 0.02, 1)
    ripple = np.sin(3.2 / depth + 2 * np.sin(9 * canvas.x + rng.uniform(0, 6.3)))
    path = np.exp(-(((canvas.x - x) / (0.06 + 0.25 * depth)) ** 2))
    water = _colour(rng, (0.05, 0.20, 0.36), 0.03) + (0.05 + 0.5 * path * (ripple > 0))[..., None]
    water = water + 0.05 * ripple[..., None]
    canvas.paint(canvas.y > horizon, np.clip(water, 0, 1))


def _checkers(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A chequered plane in perspective under a clear sky, with a shaded ball."""
    horizon = rng.uniform(0.40, 0.50)
    canvas.gradient(
        _colour(rng, (0.25, 0.50, 0.85), 0.04), _colour(rng, (0.80, 0.90, 0.97), 0.03), horizon
    )
    depth = 0.35 / np.clip(canvas.y - horizon + 0.05, 0.05, 1)
    column = np.floor((canvas.x - 0.5) * depth * 4 + rng.uniform(0, 2))
    row = np.floor(depth * 3 + rng.uniform(0, 2))
    dark, light = _colour(rng, (0.15, 0.13, 0.15), 0.03), _colour(rng, (0.93, 0.90, 0.84), 0.03)
    canvas.paint(canvas.y > horizon, np.where(((column + row) % 2 == 0)[..., None], dark, light))
    x, y, radius = rng.uniform(0.3, 0.7), rng.uniform(0.5, 0.6), rng.uniform(0.17, 0.22)
    from_highlight = (canvas.x - x + radius / 3) ** 2 + (canvas.y - y + radius / 3) ** 2
    shade = 1.15 - 2.6 * from_highlight / (0.55 * radius)
    ball = _colour(rng, (0.88, 0.18, 0.16), 0.04) * np.clip(shade, 0.2, 1.2)[..., None]
    canvas.paint(canvas.disc(x, y, radius), np.clip(ball, 0, 1))


def _dunes(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A rippled dune against a smooth sky, its lee side in shadow."""
    canvas.gradient(
        _colour(rng, (0.42, 0.66, 0.88), 0.03), _colour(rng, (0.86, 0.90, 0.90), 0.03), 0.6
    )
    crest = 0.50 + 0.14 * canvas.waves(rng, 2, 0.4, 1.1)
    sand = _colour(rng, (0.88, 0.68, 0.40), 0.03)
    ripples = np.sin(70 * (canvas.y - 0.7 * crest) + 5 * canvas.x)
    canvas.paint(canvas.y > crest, np.clip(sand * (1 + 0.16 * ripples[..., None]), 0, 1))
    ridge = rng.uniform(0.3, 0.7)
    below = np.clip(canvas.y - crest, 0, 1)
    lee = (below > 0) & (canvas.x > ridge + 0.8 * np.sqrt(below) - 0.15)
    canvas.paint(lee & (below < 0.28), canvas.picture * np.float32(0.55))


def _balloons(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Three balloons, one of them striped, over a pale sky with a meadow below."""
    canvas.gradient(
        _colour(rng, (0.45, 0.75, 0.95), 0.03), _colour(rng, (0.95, 0.97, 0.98), 0.02), 0.8
    )
    speckle = np.sin(50 * canvas.x + 9 * canvas.y) * np.sin(43 * canvas.y - 21 * canvas.x)
    meadow = _colour(rng, (0.36, 0.62, 0.24), 0.03) * (1 + 0.35 * speckle[..., None])
    canvas.paint(canvas.y > 0.84 + 0.03 * canvas.waves(rng, 2, 0.5, 2), np.clip(meadow, 0, 1))
    hues = ((0.90, 0.20, 0.25), (0.95, 0.78, 0.15), (0.30, 0.25, 0.75))
    for hue, column in zip(hues, rng.permutation(3), strict=True):
        x, y = 0.2 + 0.3 * column + rng.uniform(-0.04, 0.04), rng.uniform(0.22, 0.55)
        radius = rng.uniform(0.11, 0.15)
        paint = np.broadcast_to(_colour(rng, hue, 0.03), canvas.picture.shape)
        if hue is hues[1]:
            paint = np.where((np.sin(48 * (canvas.x - x)) > 0)[..., None], paint, paint * 0.5)
        canvas.paint(canvas.disc(x, y, radius), paint.astype(np.float32))


def _city(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Towers with lit windows at night."""
    canvas.gradient(
        _colour(rng, (0.05, 0.04, 0.16), 0.02), _colour(rng, (0.55, 0.28, 0.45), 0.04), 0.9
    )
    wall, lamp = _colour(rng, (0.10, 0.11, 0.17), 0.02), _colour(rng, (0.98, 0.83, 0.40), 0.03)
    for tower in range(4):
        left, top = tower / 4, rng.uniform(0.25, 0.65)
        body = (canvas.x >= left) & (canvas.x < left + rng.uniform(0.17, 0.25)) & (canvas.y > top)
        column, row = (canvas.x - left) * 16, (canvas.y - top) * 16
        pane = (column % 1.34 > 0.6) & (row % 1.34 > 0.6)
        canvas.paint(body, wall)
        canvas.paint(body & pane, lamp)


DRAWN: dict[str, Callable[[np.random.Generator, _Canvas], None]] = {
    "hills": _hills,
    "sea": _sea,
    "checkers": _checkers,
    "dunes": _dunes,
    "balloons": _balloons,
    "city": _city,
}

CLASSES: tuple[str, ...] = (*PHOTOS, *DRAWN)
"""The labels, in the order of the model's embeddings."""


def draw(label: str, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draws scenes of one of the `DRAWN` classes, (count, SIZE, SIZE, 3), 0 to 255."""
    rng = np.random.default_rng((seed, CLASSES.index(label)))
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for index in range(count):
        canvas = _Canvas(SIZE * _SUPERSAMPLING)
        DRAWN[label](rng, canvas)
        blocks = canvas.picture.reshape(SIZE, _SUPERSAMPLING, SIZE, _SUPERSAMPLING, 3)
        pictures[index] = np.rint(255 * np.clip(blocks.mean((1, 3)), 0, 1)).astype(np.uint8)
    return pictures


def photograph(label: str, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Crops one of the `PHOTOS` classes, (count, SIZE, SIZE, 3), 0 to 255; flipped half the time.

    The crop's size takes one of eight values, so that the photograph is reduced eight times only.

    Raises:
        ImportError: scikit-image is not installed.
    """
    from skimage import data, transform

    downscale: Any = transform.downscale_local_mean
    resize: Any = transform.resize
    photo = PHOTOS[label]
    rng = np.random.default_rng((seed, CLASSES.index(label)))
    original = getattr(data, photo.name)()[..., :3] / 255
    # `resize` filters slowly where it shrinks much: take whole factors off first.
    factor = max(1, int(photo.crop[0] * min(original.shape[:2]) / (3 * SIZE)))
    original = downscale(original, (factor, factor, 1))
    reduced = []
    for crop in np.linspace(*photo.crop, 8):
        scale = SIZE / (crop * min(original.shape[:2]))
        shape = [max(SIZE, round(scale * side)) for side in original.shape[:2]]
        reduced.append(resize(original, shape, anti_aliasing=True).astype(np.float32))
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for index in range(count):
        image = reduced[rng.integers(len(reduced))]
        short = min(image.shape[:2])
        centre = short * (np.asarray(photo.centre) + rng.uniform(-photo.jitter, photo.jitter, 2))
        corner = np.rint(centre - SIZE / 2).astype(int)
        top, left = np.clip(corner, 0, np.asarray(image.shape[:2]) - SIZE)
        crop = image[top : top + SIZE, left : left + SIZE]
        crop = crop[:, :: rng.choice((1, -1))] * rng.uniform(0.92, 1.08)
        pictures[index] = np.rint(255 * np.clip(crop, 0, 1)).astype(np.uint8)
    return pictures


def dataset(per_class: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All classes: pictures (count, SIZE, SIZE, 3) from 0 to 255, and their class numbers (count,).

    Raises:
        ImportError: scikit-image is not installed.
    """
    pictures = [
        (photograph if label in PHOTOS else draw)(label, per_class, seed) for label in CLASSES
    ]
    return np.concatenate(pictures), np.repeat(np.arange(len(CLASSES)), per_class)
