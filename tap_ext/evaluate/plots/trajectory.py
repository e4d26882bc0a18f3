"""What a method chooses, and what it could have known: seen from an untouched run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import tap_ext
from tap_ext.evaluate.methods import Way
from tap_ext.evaluate.run import Job
from tap_ext.predictors import rows, to_raw, usable
from tap_ext.report import Choice
from tap_ext.state import State

__all__ = ["Seen", "Step", "chooser", "watch"]

SHOWN = 4


@dataclass(frozen=True)
class Step:
    """One skip step on the untouched trajectory, all (B, N), relative to the residual's length.

    Attributes:
        step: its index.
        proxy: cosine distance of the chosen candidate's probe to the true one (eq. 7).
        nominal_proxy: the same of the nominal candidate.
        chosen: |forecast - truth| / |truth| of the chosen candidate.
        nominal: of the nominal one.
        best: of the candidate for which it is least.
    """

    step: int
    proxy: Tensor
    nominal_proxy: Tensor
    chosen: Tensor
    nominal: Tensor
    best: Tensor


@dataclass
class Seen:
    """One batch, once by a method and once untouched.

    Attributes:
        way: the method.
        prompts: of the B pictures.
        untouched: their pictures.
        made: the method's.
        full_steps: its full steps, first branch.
        trace: its choices, first branch.
        skips: what it would have met on the untouched trajectory, at the same full steps.
        probe_change: (steps - 1, B, N), |change of the probe| / |probe| from step to step.
        output_change: the same of what is forecast.
    """

    way: Way
    prompts: list[str]
    untouched: Tensor
    made: Tensor
    full_steps: list[int]
    trace: list[Choice]
    skips: list[Step] = field(default_factory=list)
    probe_change: list[Tensor] = field(default_factory=list)
    output_change: list[Tensor] = field(default_factory=list)


def chooser(job: Job) -> Way | None:
    """The way to look at: the first with a choice of rows, at its lowest budget."""
    having = [
        way
        for way in job.ways
        if way.config is not None and len(way.config.family()) > 1 and way.budget < way.steps
    ]
    if not having:
        return None
    methods = [way.method for way in having]
    chosen = "default" if "default" in methods else methods[0]
    return min((way for way in having if way.method == chosen), key=lambda way: way.budget)


def watch(job: Job, way: Way) -> Seen:
    """Generates the first samples by ``way`` and untouched, and looks at every step."""
    assert way.config is not None
    samples = job.samples[:SHOWN]
    prompts, seeds = [s.prompt for s in samples], [s.seed for s in samples]
    pipe = tap_ext.accelerate(job.model.twin(), way.config, trace=True)
    made = job.model.generate(pipe, prompts, seeds, way.steps)
    stats = tap_ext.stats(pipe)
    branch = stats.models[0].branches[0]
    trace = [choice for choice in stats.models[0].trace if choice.branch == branch.name]
    seen = Seen(way, prompts, made, made, list(branch.full_steps), trace)
    pipe = tap_ext.accelerate(job.model.twin(), tap_ext.Config(preset="paper", window=1))
    with _recording(_Observer(seen, len(samples))):
        seen.untouched = job.model.generate(pipe, prompts, seeds, way.steps)
    return seen


Record = Callable[[State, Tensor, Tensor, Tensor], None]


@contextlib.contextmanager
def _recording(observe: Record) -> Iterator[None]:
    """Shows every full step of every state to ``observe``, for as long as it lasts."""
    original = State.record

    def record(self: State, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
        observe(self, hidden, output, probe)
        original(self, hidden, output, probe)

    with mock.patch.object(State, "record", record):
        yield


class _Observer:
    """Follows one branch, in float32, and keeps no more features than a stack has planes."""

    def __init__(self, seen: Seen, pictures: int) -> None:
        self.seen, self.pictures = seen, pictures
        config = seen.way.config
        assert config is not None
        self.family, self.planes = config.family(), config.planes
        self.residual = config.forecast == "residual"
        self.past: list[tuple[int, Tensor, Tensor]] = []
        self.before: tuple[Tensor, Tensor] | None = None
        self.followed: State | None = None

    def __call__(self, state: State, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
        self.followed = self.followed or state
        if state is not self.followed:
            return
        target = output - hidden if self.residual else output
        # Where guidance doubles the batch, its second half is the conditional one.
        feature, key = (t[-self.pictures :].float().clone() for t in (target, probe))
        if self.before is not None:
            self.seen.probe_change.append(_relative(key, self.before[0]))
            self.seen.output_change.append(_relative(feature, self.before[1]))
        self.before = key, feature
        if state.step in self.seen.full_steps:
            self.past = [(state.step, key, feature), *self.past][: self.planes]
        elif self.past:
            self.seen.skips.append(self._skip(state.step, key, feature))

    def _skip(self, step: int, key: Tensor, feature: Tensor) -> Step:
        positions = usable([position for position, *_ in self.past])
        table = rows(self.family, positions, step, self.planes)
        count = len(positions)
        weights = [to_raw(row[:count], np.asarray(positions, float)) for row in table.difference]
        proxies = torch.stack([_cosine(self._combine(w, 1), key) for w in weights])
        errors = torch.stack([_relative(self._combine(w, 2), feature) for w in weights])
        index = proxies.argmin(0, keepdim=True)
        proxy, chosen = (values.gather(0, index)[0].cpu() for values in (proxies, errors))
        best = errors.amin(0).cpu()
        return Step(step, proxy, proxies[0].cpu(), chosen, errors[0].cpu(), best)

    def _combine(self, weights: Iterable[float], which: int) -> Tensor:
        parts: Any = zip(weights, self.past, strict=False)
        total: Tensor = sum(float(weight) * past[which] for weight, past in parts)
        return total


def _relative(value: Tensor, base: Tensor) -> Tensor:
    ratio: Tensor = (value - base).norm(dim=-1) / base.norm(dim=-1).clamp_min(1e-12)
    return ratio


def _cosine(value: Tensor, base: Tensor) -> Tensor:
    return 1 - torch.cosine_similarity(value.double(), base.double(), dim=-1)
