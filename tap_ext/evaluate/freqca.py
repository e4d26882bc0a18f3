"""FreqCa: low spatial frequencies of the features are reused, high ones are extrapolated."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tap_ext.predictors import HiCache
from tap_ext.state import State

__all__ = ["FreqCa", "HighBand"]


@dataclass(frozen=True)
class HighBand:
    """``HiCache`` with the guard of the start: differences only at steps after ``first_enhance``-2.

    Attributes:
        order: highest difference.
        sigma: the contraction; 0.71 in the code of FreqCa.
        first_enhance: as in ``TaylorSeer``.
    """

    order: int = 2
    sigma: float = 0.71
    first_enhance: int = 3

    @property
    def history(self) -> int:
        """One full step more than the order."""
        return self.order + 1

    def weights(self, past: npt.NDArray[np.float64], target: float) -> npt.NDArray[np.float64]:
        """Weights over the past values, as a predictor's."""
        formed = int(np.count_nonzero(past > self.first_enhance - 2))
        order = min(self.order, formed, past.size - 1)
        result = np.zeros(past.size)
        known = HiCache(order, self.sigma).weights(past[: order + 1], target)
        result[: order + 1] = known
        return result


@dataclass(frozen=True)
class FreqCa:
    """Puts the newest value in the place of the forecast in the low band (Tammytcl/FreqCa).

    The bands are those of a two-dimensional DCT over a square grid of tokens: low is what lies
    within ``cutoff`` of the greatest frequency, by the Euclidean norm. Both bands are linear in the
    stored values, so one stack does: low(F_0) + high(sum w_j F_j) = f + low(F_0 - f), f being the
    forecast that the configuration makes. Of a sequence that is no square grid nothing is known.

    Attributes:
        cutoff: the share of the greatest frequency that is low.
    """

    cutoff: float = 0.1

    @contextlib.contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Holds for the calls of accelerated pipelines and transformers.

        Raises:
            ValueError: by a call: its tokens are no square grid.
        """
        apply = State.apply

        def applying(state: State, hidden: Tensor, probe: Tensor) -> Tensor:
            output = apply(state, hidden, probe)
            planes = state._features.planes
            assert planes is not None
            forecast = output.view(planes[0].shape)
            low = _low_band(forecast.shape[1], self.cutoff, forecast.device)
            change = low.T @ (planes[0].float() - forecast.float())
            forecast += (low @ change).to(forecast.dtype)
            return output

        with mock.patch.object(State, "apply", applying):
            yield


@functools.lru_cache(maxsize=8)
def _low_band(tokens: int, cutoff: float, device: torch.device) -> Tensor:
    """An orthonormal basis of the low band, (N, number of low frequencies), float32."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"freqca needs a square grid of tokens, got {tokens} of them")
    place, frequency = torch.arange(side).double(), torch.arange(side).double()
    waves = torch.cos(math.pi * (place[:, None] + 0.5) * frequency / side) * math.sqrt(2 / side)
    waves[:, 0] /= math.sqrt(2)
    size = torch.hypot(frequency[:, None], frequency)
    rows, columns = torch.nonzero(size <= cutoff * size.max(), as_tuple=True)
    basis = waves[:, None, rows] * waves[None, :, columns]
    return basis.flatten(0, 1).float().to(device)
