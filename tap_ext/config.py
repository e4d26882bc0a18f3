"""Every choice a user can make, checked when it is made."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tap_ext import _arguments
from tap_ext.peers import METHODS, Adaptive, Method, families, fitted_window
from tap_ext.plan import (
    MAX_STEPS,
    Even,
    Paced,
    Plan,
    Schedule,
    Share,
    Spread,
    Windowed,
    last_full,
)
from tap_ext.predictors import MAX_HISTORY, Predictor, as_predictor

__all__ = ["PRESETS", "Config"]

Metric = Literal["cosine", "l2"]
Probe = Literal["modulated", "input"]
Forecast = Literal["residual", "hidden"]
Position = Literal["step", "sigma"]
Graphs = Literal["auto", "skip", "all", "off"]
Placement = Literal["even", "paced", "adaptive"]


class _FromPreset:
    """Stands for "whatever the preset says", so that an explicit value always wins over it."""

    def __repr__(self) -> str:
        return "<preset>"


_FROM_PRESET: Any = _FromPreset()

_PAPER: Mapping[str, Any] = {
    "method": "tap",
    "full_steps": None,
    "speedup": None,
    "window": 6,
    "warmup": 3,
    "tail": 0,
    "order": 2,
    "lookback": 4.0,
    "lookback_step": 1.0,
    "metric": "cosine",
    "probe": "modulated",
    "forecast": "residual",
    "corrector": False,
    "blend": False,
    "position": "step",
    "predictors": None,
    "schedule": None,
    "graphs": "auto",
    "compile": False,
    "self_check": True,
    "trace": False,
}

_BALANCED: Mapping[str, Any] = {**_PAPER, "schedule": "paced", "corrector": True, "blend": True}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": _BALANCED,
    "quality": {**_BALANCED, "window": 4},
    "balanced": _BALANCED,
    "fast": {**_BALANCED, "window": 10},
    "paper": _PAPER,
}
"""Field values by preset name.

``quality``, ``balanced`` and ``fast`` have 14, 10 and 7 full steps of 50, paced by the noise; of
few steps they keep at least three, as the windows have them.
``default`` is ``balanced``. ``paper`` is section 4.1 of arXiv 2603.03792 at N = 6 and stays as it
is whatever ``default`` becomes."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a model is accelerated. Immutable; every field is validated at construction.

    A field that is not given takes its value from ``preset``.

    Attributes:
        preset: one of ``PRESETS``; ``"paper"`` is the setting of arXiv 2603.03792.
        method: ``"tap"``, or another method on the same machinery, with its own values for what is
            not given: ``"fora"``, ``"taylorseer"``, ``"teacache"``, ``"speca"``; ``"steps"`` makes
            a pipeline take fewer plain steps.
        full_steps: how many steps of a run are full, placed by ``schedule``; all of them where it
            has no more. The run's length has to be known, as it is to a pipeline.
        speedup: as many full steps as make a run so many times cheaper, skip steps counted as free;
            where its length is not known, every ``speedup``-th step.
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
            (eq. 6), or ``"hidden"``, their output, which can be better where the sampler adds no
            noise and is much worse where it does: noise cannot be forecast.
        corrector: let a full step make up for what the forecasts since the last one got wrong, as
            far as it shows that: what it returns is then no longer the model's own. Where nobody
            tells the noise levels and what the model predicts, as a pipeline's scheduler does,
            there is none.
        blend: mix every forecast with the curve through what the model returned in its last full
            steps, in the share that would have been best at the last of them.
        position: the abscissa of the predictors: ``"step"`` counts steps; ``"sigma"`` reads the
            timestep, which costs one device read per step on a GPU.
        predictors: predictors to use instead of the Taylor family, the nominal one first.
        schedule: which steps are full, instead of ``window``, ``warmup`` and ``tail``; or how as
            many as these (or ``full_steps``, ``speedup``) say are placed where the length of the
            run is known: ``"even"``; ``"paced"``, half evenly and half by how fast the noise goes,
            even where nobody tells that; or ``"adaptive"``, closer together where the run itself
            finds forecasts to be bad. None: by the windows themselves, as where ``window``,
            ``warmup`` or ``tail`` is given and neither this nor a preset, and even where
            ``full_steps`` or ``speedup`` is set.
        graphs: which steps are captured as CUDA graphs and replayed, where they can be:
            ``"auto"`` and ``"skip"`` the skip steps, ``"all"`` full ones too, ``"off"`` none.
            ``"auto"`` warns of failures only, the others of whatever stands against it. Without a
            CUDA device nothing is captured.
        compile: compile every main block with ``torch.compile`` (inductor); ``restore`` undoes
            it. A model that its user compiles, before or after, works as well.
        self_check: verify on the first full step of each new shape that a skip step with the true
            residual reproduces the model's output; refuse to accelerate when it does not.
        trace: keep the index of every skip step in ``stats(...).trace``, for plots.

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of range; the message names field, range and value.
    """

    preset: str = "default"
    method: Method = _FROM_PRESET
    full_steps: int | None = _FROM_PRESET
    speedup: float | None = _FROM_PRESET
    window: int = _FROM_PRESET
    warmup: int = _FROM_PRESET
    tail: int = _FROM_PRESET
    order: int = _FROM_PRESET
    lookback: float = _FROM_PRESET
    lookback_step: float = _FROM_PRESET
    metric: Metric = _FROM_PRESET
    probe: Probe = _FROM_PRESET
    forecast: Forecast = _FROM_PRESET
    corrector: bool = _FROM_PRESET
    blend: bool = _FROM_PRESET
    position: Position = _FROM_PRESET
    predictors: tuple[Predictor, ...] | None = _FROM_PRESET
    schedule: Schedule | Placement | None = _FROM_PRESET
    graphs: Graphs = _FROM_PRESET
    compile: bool = _FROM_PRESET
    self_check: bool = _FROM_PRESET
    trace: bool = _FROM_PRESET

    def __post_init__(self) -> None:
        """Fill unset fields from the preset and check all of them."""
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {_names(PRESETS)}, got {self.preset!r}")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {name: value for name, value in values.items() if value is not _FROM_PRESET}
        object.__setattr__(self, "_given", given)
        for name, value in _resolved(given).items():
            object.__setattr__(self, name, value)
        if self.full_steps is not None:
            _arguments.integer("full_steps", self.full_steps, 1, MAX_STEPS)
        if self.speedup is not None:
            _arguments.real("speedup", self.speedup, 1.0, MAX_STEPS)
        self._check_budget(given)
        for name, low, high in _INTEGERS:
            _arguments.integer(name, getattr(self, name), low, high)
        lookback = _arguments.real("lookback", self.lookback, 0, MAX_LOOKBACK)
        _arguments.real("lookback_step", self.lookback_step, max(lookback / 64, 1e-3), MAX_LOOKBACK)
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} must be one of {_names(choices)}, got {value!r}")
        for name in ("corrector", "blend", "compile", "self_check", "trace"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
        own = callable(getattr(self.schedule, "is_full", None))
        if not own and self.schedule is not None and self.schedule not in get_args(Placement):
            raise TypeError(
                f"schedule must be None, {_names(get_args(Placement))} or have a method "
                "is_full(step, num_steps) -> bool, got "
                f"{self.schedule!r} ({type(self.schedule).__name__})"
            )
        object.__setattr__(self, "predictors", _check_predictors(self.predictors))

    def family(self) -> tuple[Predictor, ...]:
        """The candidate predictors, the nominal one first."""
        if self.predictors is not None:
            return self.predictors
        return families(self.method, self.order, self.warmup, self.lookback, self.lookback_step)

    @property
    def planes(self) -> int:
        """S: how many planes a stack must hold for the candidates of this configuration."""
        return max(predictor.history for predictor in self.family())

    def plan(
        self,
        num_steps: int | None = None,
        angles: Sequence[float] | None = None,
        done: int = 0,
    ) -> Plan:
        """The plan of a run.

        Args:
            num_steps: its number of steps; None: unknown.
            angles: phi, tan(phi) = noise / signal, before each step and after the last, where
                that is known.
            done: how many steps are over, for a model that is first called then, as the second of
                two experts: planned are the others, with their share of ``full_steps``.
        """
        if num_steps is not None and 0 < done < num_steps:
            left, rest = num_steps - done, self
            if self.full_steps is not None:
                share = round(self.full_steps * left / num_steps)
                rest = self.replace(full_steps=max(share, 1))
            return rest.plan(left, None if angles is None else angles[done:])
        if self.method == "steps":
            return Plan(window=1, num_steps=num_steps)  # the run itself has fewer steps
        schedule = self.schedule
        if schedule is None or isinstance(schedule, str):
            schedule = self._placed(num_steps, angles)
        return Plan(self.window, self.warmup, self.tail, num_steps, schedule)

    @property
    def wants_angles(self) -> bool:
        """Whether ``plan``, or the corrector, makes use of angles."""
        paced = self.method == "tap" and self.schedule in ("paced", "adaptive")
        return paced or self.corrector

    @property
    def looks_back(self) -> bool:
        """Whether full steps that follow skip steps are forecast, too, to learn from that."""
        return self.corrector or self.blend

    @functools.cached_property
    def follows(self) -> bool:
        """Whether it depends on what a run computes which of its steps are full."""
        return self.schedule == "adaptive" or hasattr(self.schedule, "follow")

    def budget(self, num_steps: int) -> int:
        """How many steps of a run of ``num_steps`` ``full_steps``, ``speedup`` or the windows ask.

        Args:
            num_steps: the number of steps of the run.
        """
        if self.full_steps is not None:
            return min(self.full_steps, num_steps)
        if self.speedup is not None:
            return min(Share(self.speedup).count(num_steps), num_steps)
        return len(Plan.full_steps(num_steps, self.window, self.warmup, self.tail))

    def _placed(self, num_steps: int | None, angles: Sequence[float] | None) -> Schedule | None:
        """Where the budget lies; None: in the windows."""
        bound = self.full_steps is not None or self.speedup is not None
        if num_steps is None:
            if self.full_steps is not None:
                return Even(self.full_steps)  # which says that it needs the number of steps
            if self.speedup is not None and self.method == "fora":
                return Windowed(math.ceil(self.speedup), 1)
            return None if self.speedup is None else Share(self.speedup)
        if self.method != "tap" and bound:
            return fitted_window(self.budget(num_steps), self.warmup, num_steps)
        count = max(self.budget(num_steps), 1)
        fits = angles is not None and len(angles) == num_steps + 1 > 1
        known = tuple(angles) if angles is not None and fits else None
        if self.schedule == "adaptive":
            return Adaptive(count, known)
        if self.schedule == "paced" and known is not None:
            return Paced(count, known)
        if bound:
            return Even(count, last_full(count, num_steps))
        return None if self.schedule is None else Spread(self.window, self.warmup)

    def replace(self, **changes: Any) -> Config:
        """A copy with other values, validated anew; what was not given still follows the preset."""
        given: dict[str, Any] = self.__dict__["_given"]
        return Config(**(given | changes))

    def _check_budget(self, given: Mapping[str, Any]) -> None:
        """One thing only may say how many steps are full."""
        windows = [name for name in ("window", "warmup", "tail") if name in given]
        for name in ("full_steps", "speedup"):
            if getattr(self, name) is None:
                continue
            others = ["full_steps"] * (name == "speedup" and self.full_steps is not None)
            others += windows
            if not isinstance(self.schedule, str | None):
                others.append("schedule")
            if others:
                raise ValueError(
                    f"{name} must not be given beside {others[0]}, got {name}="
                    f"{getattr(self, name)!r} and {others[0]}={getattr(self, others[0])!r}"
                )
        if self.method == "steps" and self.full_steps is None and self.speedup is None:
            raise ValueError("method 'steps' must be given full_steps or speedup, got neither")


def _resolved(given: Mapping[str, Any]) -> dict[str, Any]:
    """All fields: what is given, else the method's value, else the preset's."""
    preset = PRESETS[given["preset"]]
    method = given.get("method", preset["method"])
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {_names(METHODS)}, got {method!r}")
    values = {**preset, **METHODS[method], **given}
    windowed = bool({"window", "warmup", "tail"} & given.keys())
    if windowed and method == "tap" and given["preset"] == "default":
        values["schedule"] = given.get("schedule")  # the windows themselves were asked for
    own = not isinstance(given.get("schedule"), str | None)
    if own or {"window", "warmup", "tail", "full_steps", "speedup"} & given.keys():
        # another way to say how many steps are full than the preset's
        values |= {name: given.get(name) for name in ("full_steps", "speedup")}
    return values


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
