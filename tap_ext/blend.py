"""Two forecasts of what a model returns, mixed as would have been best at the last full step.

One forecast is made of the blocks' features and goes through the model's head. The other is the
curve through what the model itself returned in its last full steps, and costs nothing: linear
multistep samplers go by no more. They err in different ways, so a mixture errs less than either
(Bates and Granger, The Combination of Forecasts, 1969). At a full step that follows skip steps the
truth is there and both forecasts of it can be had; with e = truth - forecast and
d = curve - forecast, the share of the curve that leaves least is

    share = <e, d> / <d, d>, cut to [0, 1],

for each row of the first axis by itself, on the device. It holds until the next such step.

The curve is the line through two full steps or the parabola through three, whichever would have
left less, each with its own share; of one full step it is that step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tap_ext.samples import put, taken

__all__ = ["Blend"]

DEPTH = 3
"""Full steps that a curve goes through at most."""


class Blend:
    """What one branch returned in its last full steps, and how far the curve through it is right.

    No step waits for the device.
    """

    def __init__(self, samples: int = 1) -> None:
        """Nothing is known.

        Args:
            samples: how many of the first things that the model returns are samples.
        """
        self._samples = samples
        self._past: list[float] = []
        self._differences: list[list[Tensor]] = []
        self._shares: list[_Share] | None = None

    def mix(self, forecast: Any, position: float) -> Any:
        """What a step should return, with the curve's share in it.

        Args:
            forecast: what a skip step returned; as it is where no share is known.
            position: the step's abscissa.
        """
        samples = taken(forecast, self._samples)
        if self._shares is None or not self._fits(samples) or not math.isfinite(position):
            return forecast
        mixed = []
        for sample, share, value, *differences in zip(
            samples, self._shares, *self._differences, strict=True
        ):
            curve = self._line(value, differences, position)
            if len(differences) > 1:
                rise = self._rise(position)
                curve = torch.addcmul(curve, differences[1], share.bend, value=rise)
            mixed.append(torch.lerp(sample.float(), curve, share.curve).to(sample.dtype))
        return put(forecast, self._samples, mixed)

    def line(self, forecast: Any, position: float) -> Any:
        """What a step should return were the line all there is; of one full step that step."""
        samples = taken(forecast, self._samples)
        if not self._fits(samples) or not math.isfinite(position):
            return forecast
        pairs = zip(samples, self._curves(position), strict=True)
        lines = [curve.line.to(sample.dtype, copy=True) for sample, curve in pairs]
        return put(forecast, self._samples, lines)

    def learn(self, output: Any, position: float, forecast: Any = None) -> None:
        """Take in a full step.

        Args:
            output: what the model returned.
            position: the step's abscissa.
            forecast: what a skip step would have returned in its place, without the curve; None:
                not known.
        """
        samples = [sample.detach().float() for sample in taken(output, self._samples)]
        guessed = [] if forecast is None else taken(forecast, self._samples)
        if guessed and math.isfinite(position) and self._fits(samples) and self._fits(guessed):
            self._shares = list(map(_learned, samples, guessed, self._curves(position)))
        if math.isfinite(position):
            self._add(samples, position)
        else:
            self._forget()

    @property
    def nbytes(self) -> int:
        """Bytes held: one float32 sample per full step that the curve goes by."""
        return sum(tensor.nbytes for tensors in self._differences for tensor in tensors)

    def _fits(self, samples: Sequence[Tensor]) -> bool:
        known = self._differences[0] if self._differences else []
        return len(samples) == len(known) and all(
            sample.shape == one.shape and sample.device == one.device
            for sample, one in zip(samples, known, strict=True)
        )

    def _curves(self, position: float) -> list[_Curve]:
        """Of each sample, at a position."""
        curves = []
        for value, *differences in zip(*self._differences, strict=True):
            bend = differences[1] * self._rise(position) if len(differences) > 1 else None
            curves.append(_Curve(self._line(value, differences, position), bend))
        return curves

    def _line(self, value: Tensor, differences: Sequence[Tensor], position: float) -> Tensor:
        if not differences:
            return value
        return torch.add(value, differences[0], alpha=self._run(position))

    def _run(self, position: float) -> float:
        """Newton's weight of the first difference."""
        return position - self._past[0]

    def _rise(self, position: float) -> float:
        """Newton's weight of the second difference."""
        return self._run(position) * (position - self._past[1])

    def _forget(self) -> None:
        self._past, self._differences, self._shares = [], [], None

    def _add(self, samples: list[Tensor], position: float) -> None:
        """Newton's divided differences of one full step more, newest first."""
        if not self._fits(samples) or position in self._past:
            self._forget()
        fresh = [[sample.clone() for sample in samples]]
        for past, old in zip(self._past[: DEPTH - 1], self._differences, strict=False):
            pairs = zip(fresh[-1], old, strict=True)
            fresh.append([(new - known) / (position - past) for new, known in pairs])
        self._past = [position, *self._past][:DEPTH]
        self._differences = fresh


@dataclass(frozen=True)
class _Curve:
    """A sample's curve at one position: the line, and what takes it to the parabola."""

    line: Tensor
    bend: Tensor | None


@dataclass(frozen=True)
class _Share:
    """Of a sample's rows, each (B, 1, ...): the curve's share, and whether it is bent."""

    curve: Tensor
    bend: Tensor


def _learned(sample: Tensor, forecast: Tensor, curve: _Curve) -> _Share:
    """What would have been best."""
    guess = forecast.float()
    error = sample - guess
    share, left = _best(error, curve.line - guess)
    if curve.bend is None:
        return _Share(share, torch.zeros_like(share))
    other, less = _best(error, curve.line + curve.bend - guess)
    bent = less < left
    return _Share(torch.where(bent, other, share), bent.to(share.dtype))


def _best(error: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """The share of ``apart`` in [0, 1] that leaves least of ``error``, and the square of that."""
    axes = tuple(range(1, error.dim())) or (0,)
    share = (error * apart).sum(axes, keepdim=True) / apart.square().sum(axes, keepdim=True)
    share = share.nan_to_num(0.0).clamp(0.0, 1.0)  # where both forecasts are one
    return share, (error - share * apart).square().sum(axes, keepdim=True)
