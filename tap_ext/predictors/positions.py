"""Positions of the full steps, and the two bases in which a prediction can be written.

A prediction is a weighted sum of past values: sum_j raw_j F_j, newest first. A stack holds divided
differences D_i = f[x_0..x_i] in their stead: sum_i w_i D_i. Both hold the same numbers, and each
conversion is one product with a triangular matrix known in closed form: nothing is inverted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tap_ext import _arguments

Array: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = "Array | Sequence[float]"

MAX_HISTORY = 8
"""The most past full steps that a predictor may use, and the most planes that a stack may have."""


def as_positions(past: Positions) -> Array:
    """Returns ``past`` as a float64 vector of shape (K,).

    Raises:
        TypeError: the entries are not real numbers.
        ValueError: ``past`` is not one-dimensional.
    """
    array = np.asarray(past)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"past must hold numbers, got {array.dtype} in {past!r}")
    if array.ndim != 1:
        raise ValueError(f"past must have shape (K,), got {array.shape}")
    return array.astype(np.float64)


def usable(past: Positions) -> Array:
    """Returns the longest prefix of ``past`` that differences can be formed on.

    That is the longest one, newest first, with finite entries and strictly monotone in either
    direction: step indices fall towards the past, noise levels rise. A scheduler that repeats a
    position or turns back thus lowers the order of a prediction; nothing is divided by zero.

    Args:
        past: positions of the full steps, shape (K,), newest first.
    """
    array = as_positions(past)
    finite = np.isfinite(array)
    count = array.size if finite.all() else int(np.argmin(finite))
    array = array[:count]
    steps = np.sign(array[:-1] - array[1:])
    broken = (steps == 0) | (steps != steps[:1])
    return array[: 1 + int(np.argmax(broken))] if broken.any() else array


def gaps(past: Positions, planes: int) -> Array:
    """Returns what the differences of a stack are divided by at a full step.

    Args:
        past: positions of the full steps, newest first, the step now being recorded included.
        planes: S, the number of planes of the stack.

    Returns:
        Shape (S-1,): t_0 - t_i for i = 1..S-1 where ``t_i`` is usable, and infinity beyond, which
        leaves a zero plane.
    """
    count = _arguments.integer("planes", planes, 1, MAX_HISTORY)
    known = usable(past)[:count]
    result = np.full(count - 1, np.inf)
    result[: max(known.size - 1, 0)] = known[:1] - known[1:]
    return result


def to_difference(raw: npt.ArrayLike, past: Positions) -> Array:
    """Rewrites weights over values as weights over divided differences.

    By Newton's formula F_j = sum_i D_i prod_{l<i} (x_j - x_l), for any spacing. The weights of a
    prediction from the m newest values are exactly zero on D_m and beyond.

    Args:
        raw: weights over F_0..F_{K-1}, shape (..., K).
        past: their positions, shape (K,), newest first, strictly monotone.

    Returns:
        Weights over D_0..D_{K-1}, shape (..., K).
    """
    weights, known = _pair("raw", raw, past)
    apart = known[:, None] - known
    basis = np.cumprod(np.column_stack([np.ones(known.size), apart[:, :-1]]), axis=1)
    return np.asarray(weights @ basis)


def to_raw(difference: npt.ArrayLike, past: Positions) -> Array:
    """Rewrites weights over divided differences as weights over values: undoes ``to_difference``.

    By Lagrange's formula D_i = sum_{j<=i} F_j / prod_{l<=i, l!=j} (x_j - x_l).

    Args:
        difference: weights over D_0..D_{K-1}, shape (..., K).
        past: positions of the values, shape (K,), newest first, strictly monotone.

    Returns:
        Weights over F_0..F_{K-1}, shape (..., K).
    """
    weights, known = _pair("difference", difference, past)
    apart = known[:, None] - known
    np.fill_diagonal(apart, 1.0)
    return np.asarray(weights @ np.tril(1.0 / np.cumprod(apart, axis=1).T))


def _pair(name: str, weights: npt.ArrayLike, past: Positions) -> tuple[Array, Array]:
    known = as_positions(past)
    if known.size == 0 or usable(known).size != known.size:
        raise ValueError(f"past must be finite and strictly monotone, got {known}")
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != known.size:
        raise ValueError(f"{name} must have shape (..., {known.size}), got {array.shape}")
    return array, known
