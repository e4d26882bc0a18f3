"""Argument checks whose messages name the argument, what it may be and what came instead."""

from __future__ import annotations

import math
from numbers import Integral, Real


def integer(name: str, value: object, low: int, high: int) -> int:
    """Returns ``value`` as an int of [low, high].

    Raises:
        TypeError: ``value`` is no integer; a bool, a float and a str are none.
        ValueError: ``value`` lies outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {number}")
    return number


def real(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Returns ``value`` as a finite float of [low, high].

    Raises:
        TypeError: ``value`` is no real number; a bool and a str are none.
        ValueError: ``value`` is not finite or lies outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    if not low <= number <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {number}")
    return number
