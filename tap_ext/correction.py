"""How much of a full step's forecast error makes up for the skip steps before it.

A forecast extrapolates the features of past full steps. The next full step shows what it would have
forecast wrong there, and so how wrong it was on the way: the polynomial that passes through the new
point, too, differs from the old one by Newton's next term,

    new(t) - old(t) = (true(T) - old(T)) * prod_k (t - t_k) / (T - t_k),

over the past full steps t_k: a known curve times the error at T. What a sampler made of the wrong
outputs is linear in them, so the whole of it is one number times that error, and adding it to what
the full step returns puts the sample where it should be. This is the corrector of an Adams method
(Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, III.1) for steps already made;
it costs one forecast per full step and no memory. Nothing here knows of models or tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tap_ext import _arguments

__all__ = ["Prediction", "Sampling"]

Prediction = Literal["flow", "velocity", "noise", "sample"]

NODES = 2
"""Past full steps t_k that shape the error. The nominal forecast has three; tokens that took a
lower order have fewer."""

MOST = 8.0
"""The largest gain: a sampler that all but stands still at T can put nothing right there."""


@dataclass(frozen=True)
class Sampling:
    """How a sampler of first order moves the sample by what the model returns.

    It is right for DDIM and Euler, near enough for samplers of higher order, which spread what a
    step returns over two or three.

    Attributes:
        angles: phi, tan(phi) = noise / signal, before each step and after the last.
        prediction: what the model returns: ``"flow"``, noise less signal where both are mixed
            linearly; where they are mixed with squares that add up to 1 ``"velocity"``,
            ``"noise"`` or ``"sample"``, the signal.
    """

    angles: tuple[float, ...]
    prediction: Prediction

    def __post_init__(self) -> None:
        """Check the fields."""
        angles = tuple(_arguments.real("angles", a, 0.0, math.pi / 2) for a in self.angles)
        object.__setattr__(self, "angles", angles)
        if self.prediction not in get_args(Prediction):
            raise ValueError(
                f"prediction must be one of {', '.join(map(repr, get_args(Prediction)))}, got "
                f"{self.prediction!r}"
            )

    def gain(
        self,
        step: int,
        position: float,
        past: Sequence[float],
        skipped: Sequence[tuple[int, float]],
    ) -> float:
        """How often the forecast's error at a full step is to be added to what it returns.

        An error that was put right is not returned to: as the sample is moved on from this step,
        it shrinks as the noise does, as if the model's idea of the picture did not change with it.

        Args:
            step: index T of the full step.
            position: its abscissa.
            past: abscissae of the full steps before it, newest first.
            skipped: index and abscissa of the steps since the newest of them, rising.

        Returns:
            The gain, 0 to ``MOST``; 0 where nothing was skipped or the run is longer than this.
        """
        if not skipped or not past or step >= len(self.angles) - 1:
            return 0.0
        nodes = past[:NODES]
        missed, moved = dict(skipped), 0.0
        for index in range(skipped[0][0], step):
            kept, weight = self._move(index)
            moved *= kept
            if (t := missed.get(index)) is not None:
                moved += weight * math.prod((t - node) / (position - node) for node in nodes)
        _, weight = self._move(step)
        noise, left = (self._noise(phi) for phi in self.angles[step : step + 2])
        if not weight or not noise:
            return 0.0
        gain = moved / weight * min(left / noise, 1.0)
        return min(max(gain, 0.0), MOST) if math.isfinite(gain) else 0.0

    def _noise(self, phi: float) -> float:
        signal, noise = math.cos(phi), math.sin(phi)
        return noise / (signal + noise) if self.prediction == "flow" else noise

    def _move(self, step: int) -> tuple[float, float]:
        """(a, b): the step takes a sample x and a model's output v to ``a x + b v``."""
        phi, to = self.angles[step], self.angles[step + 1]
        if self.prediction == "flow":
            return 1.0, self._noise(to) - self._noise(phi)
        if self.prediction == "velocity":
            return math.cos(phi - to), -math.sin(phi - to)
        if self.prediction == "noise":
            kept = math.cos(to) / max(math.cos(phi), 1e-9)
            return kept, math.sin(to) - kept * math.sin(phi)
        kept = math.sin(to) / max(math.sin(phi), 1e-9)
        return kept, math.cos(to) - kept * math.cos(phi)
