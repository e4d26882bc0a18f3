"""Predictors that evaluate a polynomial through, or near, the past values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev, hermite_e

from tap_ext import _arguments
from tap_ext.predictors.base import Family
from tap_ext.predictors.positions import MAX_HISTORY, Array, to_raw
from tap_ext.predictors.taylor import MAX_ORDER


@dataclass(frozen=True)
class Newton(Family):
    """The polynomial through the newest values: sum_i D_i prod_{l<i} (t - x_l).

    Exact on every polynomial of its degree, at any spacing. Its slope at the newest full step is
    the curve's own, where ``Taylor`` takes the slope half a gap earlier.

    Attributes:
        degree: of the polynomial.
    """

    degree: int = 2

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("degree", self.degree, 0, MAX_ORDER)

    @property
    def history(self) -> int:
        """One full step more than the degree."""
        return self.degree + 1

    def _weights(self, past: Array, target: float) -> Array:
        return to_raw(np.cumprod(np.append(1.0, target - past[:-1])), past)


@dataclass(frozen=True)
class Hermite(Family):
    """Least squares in the probabilists' Hermite polynomials, section 8 of arXiv 2603.03792.

    The paper leaves open how many full steps are fitted and how time is scaled. The scale does not
    matter: the polynomials up to a degree span the same space under any affine map of time, and
    least squares depend on that space alone. (Here the points span [-1, 1], for conditioning.) The
    number of points does: with degree + 1 of them this is ``Newton``, with more it smooths.

    Attributes:
        degree: of the polynomial.
        points: how many of the newest full steps are fitted, at least degree + 1.
    """

    degree: int = 2
    points: int = 3

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("degree", self.degree, 0, MAX_ORDER)
        _arguments.integer("points", self.points, self.degree + 1, MAX_HISTORY)

    @property
    def history(self) -> int:
        """The points."""
        return self.points

    def _weights(self, past: Array, target: float) -> Array:
        degree = min(self.degree, past.size - 1)
        time = _scale(np.append(past, target), past.min(), past.max())
        return _least_squares(hermite_e.hermevander(time, degree))


@dataclass(frozen=True)
class Chebyshev(Family):
    """Ridge regression in Chebyshev polynomials, after Spectrum (arXiv 2603.01623).

    Its rows do not sum to 1: the ridge shrinks the constant term with the others, as in the
    published code. So a constant series is not predicted exactly, and the weight of D_0 is below 1.
    Spectrum fits all past full steps; here it is the newest ``points`` of them.

    Attributes:
        degree: of the polynomial.
        ridge: the penalty on every coefficient.
        points: how many of the newest full steps are fitted.
        blend: the part of the fit; the rest is the line through the two newest values.
        span: the positions mapped to -1 and 1; Spectrum's code has (0, 50), in step indices. None
            takes the least and the greatest of the points and the target.
    """

    degree: int = 4
    ridge: float = 0.1
    points: int = 6
    blend: float = 1.0
    span: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.integer("degree", self.degree, 0, MAX_ORDER)
        _arguments.real("ridge", self.ridge, 0.0)
        _arguments.integer("points", self.points, self.degree + 1, MAX_HISTORY)
        _arguments.real("blend", self.blend, 0.0, 1.0)
        if self.span is not None:
            if not isinstance(self.span, tuple) or len(self.span) != 2:
                raise TypeError(f"span must be a pair of numbers or None, got {self.span!r}")
            first, last = (_arguments.real("span", end) for end in self.span)
            if first == last:
                raise ValueError(f"span must have two different ends, got {self.span}")

    @property
    def history(self) -> int:
        """The points."""
        return self.points

    def _weights(self, past: Array, target: float) -> Array:
        degree = min(self.degree, past.size - 1)
        time = np.append(past, target)
        first, last = self.span or (time.min(), time.max())
        fit = _least_squares(chebyshev.chebvander(_scale(time, first, last), degree), self.ridge)
        return self.blend * fit + (1.0 - self.blend) * Newton(1).weights(past, target)


def _scale(time: Array, first: float, last: float) -> Array:
    """Maps ``first`` to -1 and ``last`` to 1."""
    return (2.0 * time - (first + last)) / (last - first)


def _least_squares(basis: npt.NDArray[Any], ridge: float = 0.0) -> Array:
    """Returns the weights a (A^T A + ridge I)^-1 A^T, shape (K,).

    By QR of A with sqrt(ridge) I below it, so that the condition number is not squared.

    Args:
        basis: the polynomials at the points (A) and, in the last row, at the target (a): shape
            (K+1, P).
        ridge: the penalty on every coefficient.
    """
    design, target = basis[:-1], basis[-1]
    count, width = design.shape
    q, r = np.linalg.qr(np.vstack([design, np.sqrt(ridge) * np.eye(width)]))
    return np.asarray(q[:count] @ np.linalg.solve(r.T, target))
