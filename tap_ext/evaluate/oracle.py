"""A bound: what the same candidates could do if every token knew which of them is right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import tap_ext
from tap_ext.config import Config
from tap_ext.state import State

__all__ = ["Oracle"]


@dataclass(frozen=True)
class Oracle:
    """The true residual in the place of the probe, by a whole model run at every skip step.

    Every token then takes the candidate nearest to the truth (in the sum of squares, with
    ``metric="l2"``): the best that a choice per token and step can do at these full steps. It is
    greedy, one step at a time, so another choice may still end nearer to the untouched picture.
    """

    @contextlib.contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Holds for the calls of an accelerated pipeline, or of an accelerated transformer."""
        model: nn.Module = getattr(pipe, "transformer", pipe)
        knowing = _Knowing(Config(preset="paper", window=1, self_check=False, graphs="off"))
        watched = _twin(model)
        tap_ext.accelerate(watched, knowing.config)
        handle = model.register_forward_pre_hook(
            lambda _, args, kwargs: knowing.ask(watched, args, kwargs), with_kwargs=True
        )
        try:
            with knowing.instead_of_probes():
                yield
        finally:
            handle.remove()
            tap_ext.restore(watched)


def _twin(model: nn.Module) -> nn.Module:
    """A plain module over the same weights."""
    other = object.__new__(type(model))
    other.__dict__.update(model.__dict__)
    other.__dict__.pop("forward", None)
    for name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        other.__dict__[name] = type(getattr(model, name))()
    return other


@dataclass
class _Knowing:
    """Remembers, per stream, what the blocks of the present call really give."""

    config: Config
    truths: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    asking: bool = False
    used: int = 0

    def ask(self, watched: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Runs the model on what it is about to be called with."""
        self.truths.clear()
        self.used, self.asking = 0, True
        try:
            with torch.no_grad():
                watched(*args, **kwargs)
        finally:
            self.asking = False

    @contextlib.contextmanager
    def instead_of_probes(self) -> Iterator[None]:
        """Gives every other state the truth as its probe."""
        record, apply, fits = State.record, State.apply, State.fits

        def recording(state: State, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
            if self.asking:
                self.truths.append((hidden.clone(), output.clone()))
                record(state, hidden, output, probe)
            else:
                record(state, hidden, output, _target(state, hidden, output))

        def applying(state: State, hidden: Tensor, probe: Tensor) -> Tensor:
            _, output = self.truths[self.used]
            self.used += 1
            return apply(state, hidden, _target(state, hidden, output))

        def fitting(state: State, hidden: Tensor, probe: Tensor) -> bool:
            return fits(state, hidden, hidden)

        with (
            mock.patch.object(State, "record", recording),
            mock.patch.object(State, "apply", applying),
            mock.patch.object(State, "fits", fitting),
        ):
            yield


def _target(state: State, hidden: Tensor, output: Tensor) -> Tensor:
    return output - hidden if state.config.forecast == "residual" else output
