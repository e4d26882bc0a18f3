"""Every choice a user can make, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tap_ext import _arguments
from tap_ext.plan import MAX_STEPS, Plan, Schedule, Spread
from tap_ext.predictors import MAX_HISTORY, Predictor, as_predictor, candidates

__all__ = ["PRESETS", "Config"]

Metric = Literal["cosine", "l2"]
Probe = Literal["modulated", "input"]
Forecast = Literal["residual", "hidden"]
Position = Literal["step", "sigma"]
Graphs = Literal["auto", "skip", "all", "off"]


class _FromPreset:
    """Stands for "whatever the preset says", so that an explicit value always wins over it."""

    def __repr__(self) -> str:
        return "<preset>"


_FROM_PRESET: Any = _FromPreset()

_PAPER: Mapping[str, Any] = {
    "window": 6,
    "warmup": 3,
    "tail": 0,
    "order": 2,
    "lookback": 4.0,
    "lookback_step": 1.0,
    "metric": "cosine",
    "probe": "modulated",
    "forecast": "residual",
    "position": "step",
    "predictors": None,
    "schedule": None,
    "graphs": "auto",
    "self_check": True,
    "trace": False,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {"default": _PAPER, "paper": _PAPER}
"""Field values by preset name. ``paper`` is section 4.1 of arXiv 2603.03792 at N = 6 and stays as
it is whatever ``default`` becomes."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a model is accelerated. Immutable; every field is validated at construction.

    A field that is not given takes its value from ``preset``.

    Attributes:
        preset: ``"default"`` or ``"paper"`` (the setting of arXiv 2603.03792).
        window: one full step per this many steps after the warm-up (N in the paper), >= 1.
        warmup: the first steps that are all full (3 in the paper), >= 1.
        tail: the last steps that are all full, >= 0; needs a run whose length is known.
        order: highest Taylor order of the candidates (M in the paper), 0 to 7.
        lookback: how far behind the nominal distance k the shortest candidate's distance lies, in
            steps (lambda in the paper), >= 0.
        lookback_step: spacing of those distances, in steps (delta in the paper); at least 1/64 of
            ``lookback``.
        metric: distance between a candidate's probe and the true one: ``"cosine"`` (eq. 7) or
            ``"l2"``.
        probe: ``"modulated"``, the modulated input of the first layer (eq. 5), or ``"input"``, the
            hidden state that enters it.
        forecast: what the weights are applied to: ``"residual"``, output minus input of the blocks
            (eq. 6), or ``"hidden"``, their output.
        position: the abscissa of the predictors: ``"step"`` counts steps; ``"sigma"`` reads the
            timestep, which costs one device read per step on a GPU.
        predictors: predictors to use instead of the Taylor family, the nominal one first.
        schedule: which steps are full, instead of ``window``, ``warmup`` and ``tail``; or
            ``"even"``: as many as these two give, evenly spread, where the length of the run is
            known (a pipeline tells it).
        graphs: which steps may be captured as CUDA graphs. Without a CUDA device nothing is.
        self_check: verify on the first full step of each new shape that a skip step with the true
            residual reproduces the model's output; refuse to accelerate when it does not.
        trace: keep the index of every skip step in ``stats(...).trace``, for plots.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range; the message names field, range and value.
    """

    preset: str = "default"
    window: int = _FROM_PRESET
    warmup: int = _FROM_PRESET
    tail: int = _FROM_PRESET
    order: int = _FROM_PRESET
    lookback: float = _FROM_PRESET
    lookback_step: float = _FROM_PRESET
    metric: Metric = _FROM_PRESET
    probe: Probe = _FROM_PRESET
    forecast: Forecast = _FROM_PRESET
    position: Position = _FROM_PRESET
    predictors: tuple[Predictor, ...] | None = _FROM_PRESET
    schedule: Schedule | Literal["even"] | None = _FROM_PRESET
    graphs: Graphs = _FROM_PRESET
    self_check: bool = _FROM_PRESET
    trace: bool = _FROM_PRESET

    def __post_init__(self) -> None:
        """Fill unset fields from the preset and check all of them."""
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {_names(PRESETS)}, got {self.preset!r}")
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is _FROM_PRESET:
                object.__setattr__(self, name, value)
        for name, low, high in _INTEGERS:
            _arguments.integer(name, getattr(self, name), low, high)
        lookback = _arguments.real("lookback", self.lookback, 0, MAX_LOOKBACK)
        _arguments.real("lookback_step", self.lookback_step, max(lookback / 64, 1e-3), MAX_LOOKBACK)
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {_names(choices)}, got {value!r}")
        for name in ("self_check", "trace"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
        named = self.schedule is None or self.schedule == "even"
        if not named and not callable(getattr(self.schedule, "is_full", None)):
            raise TypeError(
                "schedule must be None, 'even' or have a method is_full(step, num_steps) -> bool, "
                f"got {self.schedule!r} ({type(self.schedule).__name__})"
            )
        object.__setattr__(self, "predictors", _check_predictors(self.predictors))

    def family(self) -> tuple[Predictor, ...]:
        """The candidate predictors, the nominal one first."""
        if self.predictors is not None:
            return self.predictors
        return candidates(self.order, self.lookback, self.lookback_step)

    @property
    def planes(self) -> int:
        """S: how many planes a stack must hold for the candidates of this configuration."""
        return max(predictor.history for predictor in self.family())

    def plan(self, num_steps: int | None = None) -> Plan:
        """The plan of a run of ``num_steps`` steps (None: unknown)."""
        schedule = self.schedule
        if schedule == "even":
            schedule = Spread(self.window, self.warmup)
        return Plan(self.window, self.warmup, self.tail, num_steps, schedule)

    def replace(self, **changes: Any) -> Config:
        """A copy with other values, validated anew."""
        return dataclasses.replace(self, **changes)


_INTEGERS = (
    ("window", 1, MAX_STEPS),
    ("warmup", 1, MAX_STEPS),
    ("tail", 0, MAX_STEPS),
    ("order", 0, MAX_HISTORY - 1),
)
MAX_LOOKBACK = 1000.0

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "metric": get_args(Metric),
    "probe": get_args(Probe),
    "forecast": get_args(Forecast),
    "position": get_args(Position),
    "graphs": get_args(Graphs),
}


def _names(choices: Any) -> str:
    return ", ".join(repr(choice) for choice in choices)


def _check_predictors(value: Any) -> tuple[Predictor, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"predictors must be a sequence of predictors, got {type(value).__name__} {value!r}"
        )
    try:
        family = tuple(as_predictor(predictor) for predictor in value)
    except TypeError as error:
        raise TypeError(f"predictors must hold predictors only: {error}") from None
    if not 1 <= len(family) <= 64:
        raise ValueError(f"predictors must hold 1 to 64 predictors, got {len(family)}")
    return family
