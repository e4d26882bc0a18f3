"""What a full step shows of the skip steps before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tap_ext.buffers import alike
from tap_ext.samples import put, taken

__all__ = ["Hindsight"]


@dataclass(frozen=True)
class Hindsight:
    """A full step seen from before it was made.

    Attributes:
        gain: how often the error of the forecast is added to what is true.
        forecast: what the step would have returned had it been skipped.
        samples: how many of the first things that a model returns go to a sampler.
        plain: the forecast without the curve's share.
    """

    gain: float
    forecast: Any
    samples: int = 1
    plain: Any = None

    def correct(self, output: Any) -> Any:
        """What the model returned in full, with what makes up for the skip steps before."""
        start, end = taken(self.forecast, self.samples), taken(output, self.samples)
        if not self.gain or len(start) != len(end):
            return output
        weight = 1.0 + self.gain
        blended = [_beyond(a, b, weight) for a, b in zip(start, end, strict=True)]
        return put(output, self.samples, blended)


def _beyond(start: Tensor, end: Tensor, weight: float) -> Tensor:
    fits = end.is_floating_point() and alike(start, end)
    return torch.lerp(start, end, weight) if fits else end
