"""The evaluation: makes what is missing, picture by picture, and remembers it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tap_ext
from tap_ext.evaluate import calibration, pictures
from tap_ext.evaluate.clocks import wall_time
from tap_ext.evaluate.code import versions
from tap_ext.evaluate.flops import StepFlops, step_flops
from tap_ext.evaluate.methods import UNTOUCHED, Way
from tap_ext.evaluate.metrics import METRICS, Metric, measure
from tap_ext.evaluate.models import Model
from tap_ext.evaluate.solvers import second_order
from tap_ext.evaluate.store import Line, Store, key
from tap_ext.flops import looked_back

__all__ = ["Job", "Sample", "deal", "evaluate", "product"]

WARM_UP = 5

MAX_SEED = 2**31


@dataclass(frozen=True)
class Sample:
    """What one picture shows: the same for every method."""

    prompt: str
    seed: int


def deal(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    """One sample per seed; the prompts are dealt out in turn."""
    return [Sample(prompts[i % len(prompts)], seed) for i, seed in enumerate(seeds)]


def product(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
    """Every prompt with every seed."""
    return [Sample(prompt, seed) for prompt in prompts for seed in seeds]


@dataclass(frozen=True)
class Job:
    """One model, its samples, and the ways to make them.

    Attributes:
        model: what generates.
        steps: of an untouched run, the reference of every metric.
        ways: methods at their budgets; the reference is made besides.
        samples: what to generate.
        metrics: what to measure.
        batch: pictures per call; None: as many as the model asks for.
        pictures: whether every picture is kept too.
    """

    model: Model
    steps: int
    ways: Sequence[Way]
    samples: Sequence[Sample]
    metrics: Sequence[Metric]
    batch: int | None = None
    pictures: bool = False

    @property
    def all_ways(self) -> list[Way]:
        """The reference first."""
        return [Way(UNTOUCHED, self.steps, self.steps), *self.ways]

    def chunks(self) -> list[Sequence[Sample]]:
        """The samples in the batches in which they are generated."""
        size = self.batch or self.model.batch
        return [self.samples[i : i + size] for i in range(0, len(self.samples), size)]

    @property
    def pictures_to_make(self) -> int:
        """How many pictures there are, those already stored included."""
        return len(self.all_ways) * len(self.samples)

    def settings(self, way: Way, sample: Sample) -> dict[str, Any]:
        """All that one picture and its numbers depend on."""
        return {
            "model": self.model.name,
            **self.model.settings,
            "method": way.method,
            "full_steps": way.budget,
            **way.settings(),
            "reference_steps": self.steps,
            "prompt": sample.prompt,
            "seed": sample.seed,
            "batch": 1 if way.alone else self.batch or self.model.batch,
            "versions": versions(),
        }

    def line(self, store: Store, way: Way, sample: Sample) -> Line | None:
        """What is stored of a picture; None: it is missing, or something asked for is."""
        line = store.lines.get(key(self.settings(way, sample)))
        if line is None or (self.pictures and not _kept(store, line)):
            return None
        return line if all(metric.name in line for metric in self.measured(way)) else None

    def measured(self, way: Way) -> list[Metric]:
        """The metrics of each picture; the reference is compared with prompts only."""
        each = [metric for metric in self.metrics if not metric.of_sets]
        return [metric for metric in each if metric.by_prompt or way.method != UNTOUCHED]


def evaluate(job: Job, store: Store, advance: Callable[[int], object] = lambda count: None) -> Job:
    """Makes and stores every picture of a job that the store does not have.

    Batch by batch, every method of a batch after its reference; a batch's lines of one method are
    stored together. Whenever it is broken off, what was stored stays, and another call goes on.

    Args:
        job: what to do.
        store: where it is kept.
        advance: called with a number of pictures whenever so many more are there.

    Returns:
        The job with every threshold found: what ``table.rows`` and the plots go by.

    Raises:
        OSError: the disk is full, say.
        RuntimeError: a model could not be accelerated as planned; the message says why.
        ValueError: a method cannot be run on this model, or a metric not on its pictures.
    """
    runner: _Runner | None = None
    if any(way.tuned and way.config is None for way in job.ways):
        runner = _Runner(job, job.chunks()[0])
        job = dataclasses.replace(job, ways=[runner.settled(way, store) for way in job.ways])
    for chunk in job.chunks():
        missing = [
            way for way in job.all_ways if any(job.line(store, way, one) is None for one in chunk)
        ]
        advance(len(chunk) * (len(job.all_ways) - len(missing)))
        if not missing:
            continue
        runner = runner or _Runner(job, chunk)
        reference = runner.make(job.all_ways[0], chunk)
        for way in missing:
            made = reference if way.method == UNTOUCHED else runner.make(way, chunk)
            lines = [_with_old(store, line) for line in runner.lines(way, chunk, made, reference)]
            new = [i for i, one in enumerate(chunk) if job.line(store, way, one) is None]
            if job.pictures:
                for i in new:
                    pictures.save(store.folder, made.outputs[i], lines[i])
            store.append(lines[i] for i in new)
            advance(len(chunk))
    return job


@dataclass(frozen=True)
class _Made:
    """A batch of outputs and what it took."""

    outputs: Tensor
    seconds: float
    peak_bytes: int | None
    held_bytes: int | None
    branches: list[dict[str, list[int]] | None]


class _Runner:
    """Pipelines over one set of weights: untouched, accelerated, with another solver."""

    def __init__(self, job: Job, chunk: Sequence[Sample]) -> None:
        self.job = job
        self.plain = job.model.twin()
        self.device = torch.device(self.plain.device)
        self.flops = _flops(job.model, chunk[0])
        # The first call of a kind sets things up that later ones find.
        configs = [way.config for way in job.ways if way.config is not None]
        self._generate(self.plain, chunk, min(WARM_UP, job.steps))
        if configs:
            fast = tap_ext.accelerate(self.fast, configs[0].replace(schedule=None))
            self._generate(fast, chunk, min(WARM_UP, job.steps))

    @functools.cached_property
    def fast(self) -> Any:
        """To be accelerated; reconfigured from way to way."""
        return self.job.model.twin()

    @functools.cached_property
    def other_solver(self) -> Any:
        """Untouched, but for a second-order scheduler."""
        pipe = self.job.model.twin()
        pipe.scheduler = second_order(pipe.scheduler)
        return pipe

    def make(self, way: Way, chunk: Sequence[Sample]) -> _Made:
        """One batch."""
        pipe = self.other_solver if way.second_order else self.plain
        if way.config is not None:
            pipe = tap_ext.accelerate(self.fast, way.config)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        parts: list[Sequence[Sample]] = [[one] for one in chunk] if way.alone else [chunk]
        outputs, branches, total = [], [], 0.0
        around = contextlib.nullcontext() if way.control is None else way.control.around(pipe)
        with around as more:
            for part in parts:
                with wall_time(self.device) as seconds:
                    outputs.append(self._generate(pipe, part, way.steps))
                total += seconds[0]
                branches += [_branches(pipe, way)] * len(part)
            held = _held(pipe, way, more) / len(parts[-1])
        peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else None
        return _Made(torch.cat(outputs), total, peak, round(held), branches)

    def settled(self, way: Way, store: Store) -> Way:
        """The way itself, with its threshold where it needs one; tuned on samples of its own."""
        if way.tuned is None or way.config is not None:
            return way
        prompts = list(dict.fromkeys(sample.prompt for sample in self.job.samples))
        seeds = range(MAX_SEED - calibration.TUNED_ON, MAX_SEED)
        samples = deal(prompts, seeds)

        def count(candidate: Way) -> list[int]:
            found = self.make(candidate, samples).branches
            return [max(map(len, (branches or {"": []}).values())) for branches in found]

        settings = {"prompts": prompts[: len(samples)], "versions": versions()}
        settings |= {"model": self.job.model.name, **self.job.model.settings}
        return calibration.settle(way, settings, store, count)

    def lines(self, way: Way, chunk: Sequence[Sample], made: _Made, reference: _Made) -> list[Line]:
        """What is stored of a batch, one line per picture."""
        if not torch.isfinite(made.outputs).all():
            raise RuntimeError(f"{way.method} at {way.budget} full steps: pictures are not finite")
        if made.outputs.dim() > 4 and (sets := [m.name for m in self.job.metrics if m.of_sets]):
            raise ValueError(f"{sets[0]} compares pictures, {self.job.model.name} makes videos")
        prompts = [sample.prompt for sample in chunk]
        values = {
            metric.name: measure(metric, made.outputs, reference.outputs, prompts)
            for metric in self.job.measured(way)
        }
        lines = []
        for i, sample in enumerate(chunk):
            settings = self.job.settings(way, sample)
            lines.append(
                {
                    "key": key(settings),
                    "model": self.job.model.name,
                    "method": way.method,
                    "full_steps": way.budget,
                    "prompt": sample.prompt,
                    "seed": sample.seed,
                    # JSON has no infinity: identical pictures have no PSNR.
                    **{k: v[i] if abs(v[i]) < float("inf") else None for k, v in values.items()},
                    "seconds": made.seconds / len(chunk),
                    "flops": self._cost(way, made.branches[i]),
                    "peak_bytes": made.peak_bytes,
                    "held_bytes": made.held_bytes,
                    "branches": made.branches[i],
                    "settings": settings,
                }
            )
        return lines

    def _generate(self, pipe: Any, chunk: Sequence[Sample], steps: int) -> Tensor:
        model = self.job.model
        return model.generate(pipe, [s.prompt for s in chunk], [s.seed for s in chunk], steps)

    def _cost(self, way: Way, branches: dict[str, list[int]] | None) -> int | None:
        """Floating-point operations per picture; None: not known."""
        if self.flops is None or way.control is not None:
            return None
        per_step, flops = self.flops
        if branches is None:
            return way.steps * per_step * flops.untouched
        full = sum(map(len, branches.values()))
        skip = way.steps * per_step - full
        if way.config is not None and way.config.looks_back:
            skip += sum(looked_back(steps, way.steps) for steps in branches.values())
        return full * flops.full + skip * flops.skip


def _flops(model: Model, sample: Sample) -> tuple[int, StepFlops] | None:
    """Calls of the transformer per step, and what each kind costs for one picture."""
    if not hasattr(model.pipe, "transformer"):
        return None
    calls = 0

    class Painter:
        def twin(self) -> Any:
            return model.twin()

        def paint(self, pipe: Any, steps: int, callback: Any) -> Any:
            return model.generate(pipe, [sample.prompt], [sample.seed], steps)

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    pipe = model.twin()
    handle = pipe.transformer.register_forward_hook(count)
    try:
        model.generate(pipe, [sample.prompt], [sample.seed], 2)
    finally:
        handle.remove()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "tap_ext", UserWarning)
            return calls // 2, step_flops(Painter())
    except (RuntimeError, NotImplementedError, IndexError):
        return None  # an op that the counter cannot follow


def _held(pipe: Any, way: Way, more: Any) -> int:
    """Bytes that a method holds from step to step beside the model's own."""
    held = 0 if way.config is None else sum(model.nbytes for model in tap_ext.stats(pipe).models)
    return held + int(getattr(more, "nbytes", 0))


def _branches(pipe: Any, way: Way) -> dict[str, list[int]] | None:
    """The full steps of every branch of the last run; None: of a run of nothing else.

    Raises:
        RuntimeError: they are not as many as planned.
    """
    if way.config is None:
        listed = getattr(way.control, "full_steps", None)
        return None if listed is None else {"0": list(listed)}
    models = [model for model in tap_ext.stats(pipe).models if model.branches or model.fallbacks]
    found = {
        branch.name if number == 0 else f"{number}:{branch.name}": list(branch.full_steps)
        for number, model in enumerate(models)
        for branch in model.branches
    }
    planned = (
        way.tuned or len(models) > 1 or {len(steps) for steps in found.values()} == {way.budget}
    )
    if not planned or any(model.fallbacks for model in models):
        raise RuntimeError(
            f"{way.method} did not run {way.budget} of {way.steps} steps in full:\n"
            f"{tap_ext.explain(pipe)}"
        )
    return found


def _with_old(store: Store, line: Line) -> Line:
    """A line with the metrics that were measured of the same picture before."""
    old = store.lines.get(line["key"], {})
    return {name: value for name, value in old.items() if name in METRICS} | line


def _kept(store: Store, line: Line) -> bool:
    path = pictures.path(store.folder, line)
    return path.is_file() and path.with_suffix(".json").is_file()
