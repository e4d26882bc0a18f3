"""The rows of a skip step: what all predictors of a family weigh the planes of a stack with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tap_ext import _arguments
from tap_ext.predictors.base import Predictor, WeightFunction, as_predictor
from tap_ext.predictors.positions import MAX_HISTORY, Array, Positions, to_difference, usable

_SAME = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """One row of weights per distinct predictor. The arrays are read-only; M is ``len(rows)``.

    Attributes:
        difference: weights over the planes D_0..D_{S-1}, float64, shape (M, S). Planes beyond the
            usable history have weight zero exactly.
        gain: sum of the absolute weights over the past values, shape (M,): by how much the row can
            amplify an error in them.
        names: the predictor of each row.
        source: its index in the family given.
    """

    difference: Array
    gain: Array
    names: tuple[str, ...]
    source: tuple[int, ...]

    def __len__(self) -> int:
        """M, the number of distinct rows."""
        return len(self.names)

    def __repr__(self) -> str:
        """A table: predictor, weights and gain of each row."""
        wide = max(len("predictor"), *map(len, self.names))
        planes = "".join(f"{f'D_{i}':>12}" for i in range(self.difference.shape[1]))
        lines = [f"{'row':>3}  {'predictor':<{wide}}{planes}{'gain':>12}"]
        for row, name in enumerate(self.names):
            weights = "".join(f"{weight:12.5g}" for weight in self.difference[row])
            lines.append(f"{row:>3}  {name:<{wide}}{weights}{self.gain[row]:12.5g}")
        return "\n".join(lines)


def rows(
    predictors: Sequence[Predictor | WeightFunction],
    past: Positions,
    target: float,
    planes: int,
) -> Rows:
    """Returns the weights of all predictors for one skip step.

    Args:
        predictors: the family, the nominal one first: of equal rows the first is kept.
        past: positions of the full steps, newest first. Those of its ``usable`` prefix count, up to
            S of them, since a stack of S planes knows no more.
        target: the position of the skip step, in the same unit.
        planes: S, the number of planes of the stack.

    Raises:
        TypeError: something in ``predictors`` is no predictor.
        ValueError: ``predictors`` is empty, no position is usable, ``target`` is not finite, or a
            predictor returned a wrong number of weights or one that is not finite.
    """
    count = _arguments.integer("planes", planes, 1, MAX_HISTORY)
    at = _arguments.real("target", target)
    known = usable(past)[:count]
    if known.size == 0:
        raise ValueError(f"past must begin with a finite position, got {past}")
    if len(predictors) == 0:
        raise ValueError("predictors must hold at least one predictor, got none")
    known.flags.writeable = False

    kept = np.empty((0, known.size))
    names: list[str] = []
    source: list[int] = []
    for index, predictor in enumerate(map(as_predictor, predictors)):
        raw = _raw(predictor, known, at)
        # Compared over the values, where weights have no unit and their size is the gain.
        apart = np.abs(kept - raw).max(axis=1)
        size = np.maximum(np.abs(kept).max(axis=1), np.abs(raw).max())
        if (apart <= _SAME * size).any():
            continue
        kept = np.vstack([kept, raw])
        names.append(str(predictor))
        source.append(index)

    difference = np.zeros((len(names), count))
    difference[:, : known.size] = to_difference(kept, known)
    gain = np.abs(kept).sum(axis=1)
    difference.flags.writeable = gain.flags.writeable = False
    return Rows(difference, gain, tuple(names), tuple(source))


def _raw(predictor: Predictor, known: Array, target: float) -> Array:
    """Returns the checked weights of one predictor over all usable values, shape (K,)."""
    shown = known[: predictor.history]
    weights = np.asarray(predictor.weights(shown, target), dtype=np.float64)
    if weights.shape != shown.shape:
        raise ValueError(
            f"{predictor} must return weights of shape {shown.shape}, got {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError(f"{predictor} must return finite weights, got {weights}")
    return np.append(weights, np.zeros(known.size - shown.size))
