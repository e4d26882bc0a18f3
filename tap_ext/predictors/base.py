"""What a predictor is, and what the predictors of this package share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tap_ext import _arguments
from tap_ext.predictors.positions import MAX_HISTORY, Array, Positions, as_positions, usable

WeightFunction: TypeAlias = Callable[[Array, float], npt.ArrayLike]


class Predictor(Protocol):
    """Weights over the past values of a feature: its forecast at ``target`` is sum_j w_j F_j."""

    @property
    def history(self) -> int:
        """How many past full steps it can use; it is shown no more."""

    def weights(self, past: Array, target: float) -> npt.ArrayLike:
        """Returns one weight per past value.

        Args:
            past: positions of the full steps, shape (K,), newest first, strictly monotone, with
                1 <= K <= history.
            target: the position to predict at.

        Returns:
            Shape (K,), finite.
        """


class Family(ABC):
    """A predictor that lowers its order where the history is short, down to reuse at one point."""

    @property
    @abstractmethod
    def history(self) -> int:
        """How many past full steps it can use."""

    @abstractmethod
    def _weights(self, past: Array, target: float) -> Array:
        """Returns the weights (K,) for 2 <= K <= history strictly monotone positions."""

    def weights(self, past: Positions, target: float) -> Array:
        """Returns the weights over the past values.

        Args:
            past: positions of the full steps, newest first, shape (K,) with any K >= 1. Only the
                ``usable`` ones among the newest ``history`` get a weight; the others' is zero.
            target: the position to predict at.

        Returns:
            Shape (K,).

        Raises:
            ValueError: no position is usable, or ``target`` is not finite.
        """
        positions = as_positions(past)
        known = usable(positions)[: self.history]
        if known.size == 0:
            raise ValueError(f"past must begin with a finite position, got {positions}")
        at = _arguments.real("target", target)
        result = np.zeros(positions.size)
        result[: known.size] = 1.0 if known.size == 1 else self._weights(known, at)
        return result


@dataclass(frozen=True)
class Function:
    """A plain function of (past, target) as a predictor."""

    function: WeightFunction
    history: int = 3

    def __post_init__(self) -> None:
        """Check the fields."""
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}")
        _arguments.integer("history", self.history, 1, MAX_HISTORY)

    def __str__(self) -> str:
        """The function's name, which is the same in every process."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def weights(self, past: Array, target: float) -> npt.ArrayLike:
        """Returns what the function returns."""
        return self.function(past, target)


def as_predictor(value: Predictor | WeightFunction) -> Predictor:
    """Returns ``value`` itself if it is a predictor, and a plain function wrapped as ``Function``.

    Raises:
        TypeError: it is neither, or a class where an instance is needed.
        ValueError: its history is out of range.
    """
    if isinstance(value, type):
        raise TypeError(f"a predictor must be an instance, got the class {value.__name__}")
    if hasattr(value, "weights") and hasattr(value, "history"):
        predictor = cast(Predictor, value)
        _arguments.integer(f"history of {value!r}", predictor.history, 1, MAX_HISTORY)
        return predictor
    if callable(value):
        return Function(value)
    raise TypeError(
        f"a predictor must have weights(past, target) and history, or be a function, got {value!r}"
    )
