"""Which configuration is nearest to the untouched pictures on one's own pipeline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tap_ext.accelerate import accelerate, restore
from tap_ext.config import Config
from tap_ext.integrations import diffusers as host

__all__ = ["Chosen", "choose"]

Vector = np.ndarray[Any, np.dtype[np.float64]]

EXACT = 200.0
"""What counts as no error, in dB; an infinite one would have no mean."""

CLEAR = 2.0
"""How many standard errors a difference must be, to be more than the choice of samples."""


@dataclass(frozen=True)
class Chosen:
    """What ``choose`` found.

    Attributes:
        name: of the configuration chosen.
        config: the same, for ``accelerate``.
        fidelity: dB per candidate and sample: the untouched result's spread over the error.
    """

    name: str
    config: Config
    fidelity: Mapping[str, tuple[float, ...]]

    def lead(self, name: str) -> tuple[float, float]:
        """How many dB a candidate is ahead of the first one: paired mean, and standard error."""
        first = next(iter(self.fidelity.values()))
        return _paired(self.fidelity[name], first)

    def __str__(self) -> str:
        """One line per candidate."""
        lines = []
        for position, (name, values) in enumerate(self.fidelity.items()):
            mean, error = self.lead(name)
            ahead = f", {mean:+.2f} ± {error:.2f} dB to the first" if position else ""
            mark = "  <- chosen" if name == self.name else ""
            lines.append(f"{name}: {statistics.fmean(values):.2f} dB{ahead}{mark}")
        return "\n".join(lines)


def choose(
    target: Any,
    generate: Callable[[int], object],
    candidates: Mapping[str, Config],
    *,
    seeds: Iterable[int] = range(4),
) -> Chosen:
    """Makes the same pictures untouched and under each configuration, and compares.

    Above all for few steps, where fewer plain ones may be better than any forecast::

        found = tap_ext.choose(
            pipe,
            lambda seed: pipe(
                prompts[seed], generator=torch.Generator().manual_seed(seed), output_type="pt"
            ),
            {
                "forecast": tap_ext.Config(full_steps=4),
                "plain": tap_ext.Config(full_steps=4, method="steps"),
            },
        )
        tap_ext.accelerate(pipe, found.config)

    Args:
        target: a pipeline, which must not be accelerated; it stays as it is.
        generate: makes what belongs to a seed, the same every time: a tensor, an array, a picture,
            lists of them, or what a pipeline returns.
        candidates: configurations by name. The first is chosen unless another is clearly better:
            the best of those that are ahead of it by two standard errors.
        seeds: of the samples, two at least.

    Raises:
        TypeError: ``target`` is no pipeline, ``generate`` is no function, a candidate no
            ``Config``, or what is made holds no numbers.
        ValueError: ``target`` is accelerated, there is no candidate or only one seed, or what is
            made differs in size or is not finite.
    """
    chosen_seeds = _check(target, generate, candidates, seeds)
    truth = {seed: _numbers(generate(seed)) for seed in chosen_seeds}
    fidelity: dict[str, tuple[float, ...]] = {}
    for name, config in candidates.items():
        accelerate(target, config)
        try:
            made = {seed: _numbers(generate(seed)) for seed in chosen_seeds}
        finally:
            restore(target)
        fidelity[name] = tuple(_fidelity(truth[seed], made[seed], seed) for seed in chosen_seeds)
    name = _best(fidelity)
    return Chosen(name, candidates[name], MappingProxyType(fidelity))


def _check(
    target: Any, generate: Any, candidates: Mapping[str, Config], seeds: Iterable[int]
) -> list[int]:
    if not host.is_pipeline(target):
        raise TypeError(f"target must be a diffusers pipeline, got {type(target).__name__}")
    if not callable(generate):
        raise TypeError(f"generate must be a function, got {type(generate).__name__}")
    if host.engines_of(target):
        raise ValueError("target must not be accelerated while it is tried; restore() it")
    if not candidates:
        raise ValueError("candidates must hold at least one configuration, got none")
    for name, config in candidates.items():
        if not isinstance(config, Config):
            raise TypeError(f"candidates[{name!r}] must be a Config, got {type(config).__name__}")
    chosen = list(dict.fromkeys(seeds))
    if len(chosen) < 2:
        raise ValueError(f"seeds must hold at least two different ones, got {chosen}")
    return chosen


def _best(fidelity: Mapping[str, tuple[float, ...]]) -> str:
    first, *others = fidelity
    leads = {name: _paired(fidelity[name], fidelity[first]) for name in others}
    clear = {name: mean for name, (mean, error) in leads.items() if mean > CLEAR * error}
    return max(clear, key=clear.__getitem__, default=first)


def _paired(left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, float]:
    differences = [a - b for a, b in zip(left, right, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error


def _fidelity(truth: Vector, made: Vector, seed: int) -> float:
    """The spread of what is true over the root mean square error, in dB."""
    if truth.shape != made.shape:
        raise ValueError(
            f"generate({seed}) must make as much each time, got {len(truth)} and {len(made)} values"
        )
    if not (np.isfinite(truth).all() and np.isfinite(made).all()):
        raise ValueError(f"generate({seed}) must make finite values")
    error, spread = float(np.square(made - truth).mean()), float(truth.var())
    if error == 0 or spread == 0:
        return EXACT if error == 0 else -EXACT
    return min(10 * math.log10(spread / error), EXACT)


def _numbers(made: object) -> Vector:
    found = list(_leaves(made))
    if not found:
        raise TypeError(
            f"generate must make tensors, arrays or pictures, got {type(made).__name__}"
        )
    return np.concatenate(found)


def _leaves(made: Any) -> Iterable[Vector]:
    if isinstance(made, Tensor):
        yield made.detach().to("cpu", torch.float64).flatten().numpy()
    elif isinstance(made, np.ndarray) or hasattr(made, "__array_interface__"):  # a PIL picture
        yield np.asarray(made, dtype=np.float64).ravel()
    elif isinstance(made, Mapping):  # what a pipeline returns
        for value in made.values():
            yield from _leaves(value)
    elif isinstance(made, (list, tuple)):
        for value in made:
            yield from _leaves(value)
