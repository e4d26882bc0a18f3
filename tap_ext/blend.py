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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tap_ext.buffers import NOTHING, Beside
from tap_ext.samples import put, taken
from tap_ext.uploads import upload

__all__ = ["Blend"]

DEPTH = 3
"""Full steps that a curve goes through at most."""


class Blend:
    """What one branch returned in its last full steps, and how far the curve through it is right.

    As in ``tap_ext.buffers``, what a skip step needs lies at fixed addresses, and a step comes in
    two halves: ``aim`` on the host, ``mix`` on the device. No step waits for the device.

    Attributes:
        moves: how often the buffers were allocated; who has recorded ``mix`` records it again.
    """

    def __init__(self, samples: int = 1) -> None:
        """Nothing is known.

        Args:
            samples: how many of the first things that the model returns are samples.
        """
        self._samples = samples
        self._past: list[float]
        self._learned: bool
        self._curves: list[_Curve] = []
        self.moves = 0
        self.clear()

    def aim(self, position: float) -> Beside:
        """First half of a step that is forecast: where it lies. Host work.

        Args:
            position: the step's abscissa.

        Returns:
            Whether the curve has a share, 0 or 1, and Newton's weights of its first two
            differences: to be sent beside the rows of the step.
        """
        if not self._past or not math.isfinite(position):
            return NOTHING
        return (float(self._learned), *self._newton(position))

    def mix(self, forecast: Any, aim: Beside | Tensor) -> Any:
        """Second half: what the step should return. Work on the device, at fixed addresses.

        Args:
            forecast: what a skip step returned; as it is where no share is known.
            aim: what ``aim`` told, or (3,) float32, the same on the device.
        """
        samples = taken(forecast, self._samples)
        if not self._fits(samples):
            return forecast
        mixes, *newton = self._sent(aim)
        mixed = [
            torch.lerp(sample.float(), curve.at(*newton), curve.share * mixes).to(sample.dtype)
            for sample, curve in zip(samples, self._curves, strict=True)
        ]
        return put(forecast, self._samples, mixed)

    def line(self, forecast: Any, aim: Beside | Tensor) -> Any:
        """The second half were the line all there is; of one full step that step."""
        samples = taken(forecast, self._samples)
        if not self._past or not self._fits(samples):
            return forecast
        _, run, _ = self._sent(aim)
        pairs = zip(samples, self._curves, strict=True)
        return put(forecast, self._samples, [c.line(run).to(s.dtype) for s, c in pairs])

    def learn(self, output: Any, position: float, forecast: Any = None) -> None:
        """Take in a full step.

        Args:
            output: what the model returned.
            position: the step's abscissa.
            forecast: what a skip step would have returned in its place, without the curve; None:
                not known.
        """
        samples = [sample.detach().float() for sample in taken(output, self._samples)]
        if not math.isfinite(position) or len({sample.device for sample in samples}) != 1:
            self.clear()
            return
        if not self._fits(samples) or position in self._past:
            self._allocate(samples)
        guessed = [] if forecast is None else taken(forecast, self._samples)
        if self._past and self._fits(guessed):
            newton = np.array(self._newton(position), dtype=np.float32)
            weights = upload(newton, samples[0].device).unbind()
            for sample, guess, curve in zip(samples, guessed, self._curves, strict=True):
                curve.learn(sample, guess.float(), *weights)
            self._learned = True
        for sample, curve in zip(samples, self._curves, strict=True):
            curve.add(sample, [position - past for past in self._past[: DEPTH - 1]])
        self._past = [position, *self._past][:DEPTH]

    def clear(self) -> None:
        """Forget the run; buffers are kept."""
        self._past, self._learned = [], False
        for curve in self._curves:
            curve.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held: above all one float32 sample per full step that the curve goes by."""
        return sum(curve.nbytes for curve in self._curves)

    def _fits(self, samples: Sequence[Tensor]) -> bool:
        return len(samples) == len(self._curves) and all(
            curve.fits(sample) for sample, curve in zip(samples, self._curves, strict=True)
        )

    def _allocate(self, samples: Sequence[Tensor]) -> None:
        self.clear()
        if not self._fits(samples):
            with torch.inference_mode(False):
                self._curves = [_Curve(sample) for sample in samples]
            self.moves += 1

    def _sent(self, aim: Beside | Tensor) -> tuple[Tensor, ...]:
        device = self._curves[0].share.device
        if not isinstance(aim, Tensor):
            aim = upload(np.array(aim, np.float32), device)
        return aim.to(device).unbind()

    def _newton(self, position: float) -> tuple[float, float]:
        """Newton's weights of the first and the second difference."""
        run = position - self._past[0]
        return run, run * (position - self._past[1]) if len(self._past) > 1 else 0.0


class _Curve:
    """Through what a model returned of one sample: divided differences, and the curve's share.

    Attributes:
        share: (B, 1, ...), of each row, a number where there are none; 0 until it is known.
    """

    def __init__(self, sample: Tensor) -> None:
        """Room for samples like this one."""
        rows = sample.shape[:1] if sample.dim() > 1 else ()
        self._planes = sample.new_zeros((DEPTH, *sample.shape), dtype=torch.float32)
        self.share = sample.new_zeros((*rows, *[1] * (sample.dim() - 1)), dtype=torch.float32)
        self._bend = torch.zeros_like(self.share)  # 1 where the parabola is better

    def fits(self, sample: Tensor) -> bool:
        """Whether there is room for this one."""
        return sample.shape == self._planes[0].shape and sample.device == self._planes.device

    def line(self, run: Tensor) -> Tensor:
        """The line at a position that is ``run`` after the newest step."""
        return torch.addcmul(self._planes[0], self._planes[1], run)

    def at(self, run: Tensor, rise: Tensor) -> Tensor:
        """The line or the parabola, whichever is better."""
        return torch.addcmul(self.line(run), self._planes[2], self._bend * rise)

    def learn(self, sample: Tensor, guess: Tensor, run: Tensor, rise: Tensor) -> None:
        """Find out what share would have been best."""
        error, line = sample - guess, self.line(run)
        share, left = _best(error, line - guess)
        other, less = _best(error, torch.addcmul(line, self._planes[2], rise) - guess)
        self.share.copy_(torch.where(less < left, other, share).view_as(self.share))
        self._bend.copy_((less < left).view_as(self.share))

    def add(self, sample: Tensor, distances: Sequence[float]) -> None:
        """Put a full step in front, by its distances from those before it."""
        fresh = [sample.nan_to_num(0.0, 0.0, 0.0)]  # so that no share is no share: 0 * inf is none
        for distance, old in zip(distances, self._planes, strict=False):
            fresh.append((fresh[-1] - old) / distance)
        for plane, new in zip(self._planes, fresh, strict=False):
            plane.copy_(new)

    def clear(self) -> None:
        """Forget all."""
        for tensor in (self._planes, self.share, self._bend):
            tensor.zero_()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._planes.nbytes + self.share.nbytes + self._bend.nbytes


def _best(error: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """The share of ``apart`` in [0, 1] that leaves least of ``error``, and the square of that."""
    axes = tuple(range(1, error.dim())) or (0,)
    share = (error * apart).sum(axes, keepdim=True) / apart.square().sum(axes, keepdim=True)
    share = share.nan_to_num(0.0).clamp(0.0, 1.0)  # where both forecasts are one
    return share, (error - share * apart).square().sum(axes, keepdim=True)
