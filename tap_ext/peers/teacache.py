"""TeaCache (arXiv 2411.19108): reuse until the probe has changed by so much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tap_ext import _arguments
from tap_ext.plan import Look

__all__ = ["COEFFICIENTS", "TeaCache", "fit_teacache"]

COEFFICIENTS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "flux": (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
        "flux-kontext": (-1046.55119, 312.563399, -16.9500694, 0.410995971, 0.0374537863),
        "hunyuan-video": (733.226126, -401.131952, 67.5869174, -3.1498780, 0.0961237896),
        "lumina2": (393.76566581, -603.50993606, 209.10239044, -23.00726601, 0.86377344),
        "wan2.1-t2v-1.3b": (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
        "wan2.1-t2v-14b": (
            -5784.54975374,
            5449.50911966,
            -1811.16591783,
            256.27178429,
            -13.02252404,
        ),
    }
)
"""Published polynomials, highest power first, of models sampled as their authors did."""


@dataclass(frozen=True)
class TeaCache:
    """Full where the accumulated change of the probe reaches a threshold; first and last step too.

    At every step d = mean|h - h'| / mean|h'| against the probe h' of the step before, and
    accumulated += polynomial(d). Below the threshold the last residual is reused; else the step is
    full and the sum begins anew. So the decision needs the probe: a step found to be full has run
    the embedder twice. Each batch row has a sum of its own, and one that reaches the threshold
    makes the step full for all: at batch 1 this is the published code.

    Attributes:
        threshold: the change, as the polynomial rescales it, that calls for a full step.
        coefficients: the polynomial, highest power first; (1, 0) leaves d as it is. See
            ``COEFFICIENTS`` and ``fit_teacache``.
    """

    threshold: float = 0.4
    coefficients: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        """Check the fields."""
        _arguments.real("threshold", self.threshold, 0.0)
        try:
            listed = tuple(self.coefficients)
        except TypeError:
            raise TypeError(f"coefficients must be numbers, got {self.coefficients!r}") from None
        if not listed:
            raise ValueError("coefficients must hold at least one number, got none")
        listed = tuple(_arguments.real("coefficients", value) for value in listed)
        object.__setattr__(self, "coefficients", listed)

    def is_full(self, step: int, num_steps: int | None) -> bool:
        """Whether ``step`` is full whatever the probe says."""
        return step == 0 or (num_steps is not None and step == num_steps - 1)

    def follow(self, num_steps: int | None) -> _Following:
        """Who decides during a run of ``num_steps``."""
        return _Following(self, num_steps)


class _Following:
    compares = True

    def __init__(self, rule: TeaCache, num_steps: int | None) -> None:
        self.rule = rule
        self.num_steps = num_steps
        self.sums: list[float] = []

    def is_full(self, step: int) -> bool:
        return self.rule.is_full(step, self.num_steps)

    def saw(self, step: int, look: Look) -> bool:
        rises = np.polyval(self.rule.coefficients, look.change()).tolist()
        sums = self.sums or [0.0] * len(rises)
        self.sums = [total + rise for total, rise in zip(sums, rises, strict=True)]
        return any(not total < self.rule.threshold for total in self.sums)

    def recorded(self, step: int) -> None:
        self.sums = []


def fit_teacache(
    probe_changes: npt.ArrayLike | Sequence[float],
    output_changes: npt.ArrayLike | Sequence[float],
    degree: int = 4,
) -> tuple[tuple[float, ...], float]:
    """Fits TeaCache's polynomial, as its authors do: least squares on untouched runs.

    Args:
        probe_changes: relative L1 change of the probe from step to step, any shape.
        output_changes: that of the residual (or of the output) at the same steps.
        degree: of the polynomial; 4 in the published ones.

    Returns:
        The coefficients, highest power first, and R^2, the share of the variance explained.

    Raises:
        ValueError: the shapes differ, a number is not finite, or there are too few.
    """
    _arguments.integer("degree", degree, 0, 20)
    x, y = (np.asarray(value, dtype=np.float64) for value in (probe_changes, output_changes))
    if x.shape != y.shape:
        raise ValueError(f"output_changes must have shape {x.shape}, got {y.shape}")
    x, y = x.ravel(), y.ravel()
    if x.size <= degree:
        raise ValueError(f"probe_changes must hold more than {degree} numbers, got {x.size}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("probe_changes and output_changes must be finite")
    fit = np.polyfit(x, y, degree)
    spread = float(np.square(y - y.mean()).sum())
    missed = float(np.square(y - np.polyval(fit, x)).sum())
    explained = 1.0 - missed / spread if spread else float(missed == 0.0)
    return tuple(fit.tolist()), explained
