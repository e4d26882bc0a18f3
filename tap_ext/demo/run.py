"""The demo's measurement: the same pictures untouched, accelerated, and with fewer steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import tap_ext
from tap_ext.demo.subject import Subject
from tap_ext.evaluate.clocks import call_times, wall_time
from tap_ext.evaluate.flops import StepFlops, step_flops
from tap_ext.evaluate.metrics import psnr, ssim
from tap_ext.plots import orders

__all__ = ["Comparison", "Method", "compare", "model_calls"]

REPEATS = 2
WARM_UP = 5


@dataclass(eq=False)
class Method:
    """One way of making the pictures, and what it took.

    Attributes:
        name: ``untouched``, ``accelerated``, ``paper's setting`` or ``fewer steps``.
        pipe: a pipeline of its own.
        steps: steps of a run.
        full: full steps of a run.
        corrected: how many of them were forecast first, to make up for skip steps.
        window: the window, of an accelerated method only.
        config: how it is accelerated; None: not at all.
        pictures: (B, 3, H, W) in [0, 1].
        orders: (B, h, w, K), the share of the skip steps in which each token took each order
            0..K-1; None without skip steps.
        seconds: of each timed call of the pipeline.
        full_ms: of each full step, the transformer alone.
        skip_ms: of each skip step.
        flops_ratio: how many times fewer operations than ``untouched``.
        psnr: per picture, in dB, against ``untouched``.
        ssim: per picture, against ``untouched``.
    """

    name: str
    pipe: Any
    steps: int
    full: int
    corrected: int = 0
    window: int | None = None
    config: tap_ext.Config | None = None
    pictures: Tensor = field(default_factory=lambda: torch.empty(0))
    orders: Tensor | None = None
    seconds: list[float] = field(default_factory=list)
    full_ms: list[float] = field(default_factory=list)
    skip_ms: list[float] = field(default_factory=list)
    flops_ratio: float = math.nan
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All methods on the same pictures.

    Attributes:
        titles: names of the B pictures.
        setting: dtype and device, in words.
        untouched: the pipeline as it is.
        accelerated: one method per window.
        paper: the same under the paper's setting.
        fewer: for each of them the plain pipeline with as many steps as it has full ones.
    """

    titles: tuple[str, ...]
    setting: str
    untouched: Method
    accelerated: tuple[Method, ...]
    paper: tuple[Method, ...]
    fewer: tuple[Method, ...]

    @property
    def methods(self) -> tuple[Method, ...]:
        """All of them, each accelerated one followed by its equals in full steps."""
        equals = zip(self.accelerated, self.paper, self.fewer, strict=True)
        return (self.untouched, *(method for equal in equals for method in equal))

    @property
    def spread(self) -> float:
        """How many times its fastest the slowest run of a method took, at worst."""
        return max(max(method.seconds) / min(method.seconds) for method in self.methods)

    def rows(self) -> list[dict[str, Any]]:
        """One row of plain values per method; ratios are gains over ``untouched``.

        Medians of times, means over pictures; None where there is nothing to tell, or where the
        PSNR is infinite.
        """
        base = statistics.median(self.untouched.seconds)
        return [
            {
                "method": method.name,
                "window": method.window,
                "full_steps": method.full,
                "steps": method.steps,
                "flops_ratio": method.flops_ratio,
                "wall_clock_ratio": base / statistics.median(method.seconds),
                "seconds": statistics.median(method.seconds),
                "full_step_ms": statistics.median(method.full_ms),
                "skip_step_ms": statistics.median(method.skip_ms) if method.skip_ms else None,
                "psnr": _mean(method.psnr),
                "ssim": _mean(method.ssim),
            }
            for method in self.methods
        ]


DEMONSTRATED = tap_ext.Config(schedule="paced")


def full_steps(steps: int, window: int) -> int:
    """How many steps of a run are full."""
    return len(tap_ext.Plan.full_steps(steps, window=window))


def model_calls(steps: int, windows: Sequence[int], repeats: int = REPEATS) -> int:
    """How often ``compare`` calls its ``advance``: once per step of every run."""
    lengths = [steps, *(n for w in windows for n in (steps, steps, full_steps(steps, w)))]
    return sum((1 + repeats) * n + WARM_UP for n in lengths)


def compare(
    subject: Subject,
    steps: int,
    windows: Sequence[int],
    advance: Callable[[], object],
    repeats: int = REPEATS,
    config: tap_ext.Config = DEMONSTRATED,
) -> Comparison:
    """Makes the pictures with every method and measures each.

    Every method first runs once for its pictures. Then, all methods being warm, they are timed
    in turns, so that a load on the machine meets all of them alike.

    Args:
        subject: what to generate.
        steps: steps of an untouched run.
        windows: one accelerated method for each.
        advance: called after every step.
        repeats: timed runs of each method.
        config: how to accelerate, but for the window.

    Raises:
        RuntimeError: a model could not be accelerated as planned; the message says why.
    """
    untouched = Method("untouched", subject.twin(), steps, steps)
    paper = tap_ext.Config(preset="paper")

    def predicted(name: str, window: int, base: tap_ext.Config) -> Method:
        chosen = base.replace(window=window)
        full = full_steps(steps, window)
        return Method(name, subject.twin(), steps, full, window=window, config=chosen)

    counts = [full_steps(steps, window) for window in windows]
    comparison = Comparison(
        subject.titles,
        _setting(subject),
        untouched,
        tuple(predicted("accelerated", window, config) for window in windows),
        tuple(predicted("paper's setting", window, paper) for window in windows),
        tuple(Method("fewer steps", subject.twin(), count, count) for count in counts),
    )
    flops = step_flops(subject)
    callback = _calling(advance)
    for method in comparison.methods:
        _make_pictures(subject, method, callback)
        _rate(method, untouched, flops)
    for method in comparison.methods:
        if method.config is not None:
            tap_ext.accelerate(method.pipe, method.config)  # without the trace
        subject.paint(method.pipe, WARM_UP, callback)
    for _ in range(repeats):
        for method in comparison.methods:
            _time(subject, method, callback)
    return comparison


def _make_pictures(subject: Subject, method: Method, callback: Any) -> None:
    if method.config is not None:
        tap_ext.accelerate(method.pipe, method.config, trace=True)
    method.pictures = subject.paint(method.pipe, method.steps, callback)
    if method.config is None:
        return
    (branch,) = tap_ext.stats(method.pipe).models[0].branches or (None,)
    if branch is None or len(branch.full_steps) != method.full:
        raise RuntimeError(f"not accelerated as planned:\n{tap_ext.explain(method.pipe)}")
    method.corrected = tap_ext.stats(method.pipe).models[0].corrected or 0
    method.orders = _orders(method)


def _orders(method: Method) -> Tensor | None:
    """Counts the orders (B, h, w, K) out of the trace."""
    trace = tap_ext.stats(method.pipe).trace
    if not trace:
        return None
    counted = orders.shares(trace)
    cells = orders.grid(counted.shape[1], *method.pictures.shape[-2:])
    if cells is None:
        return None
    return counted.reshape(len(counted), *cells, -1)


def _rate(method: Method, untouched: Method, flops: StepFlops) -> None:
    if method.config is None:
        method.flops_ratio = untouched.steps / method.steps
    else:
        forecasts = method.steps - method.full + method.corrected
        method.flops_ratio = flops.ratio(method.steps, method.full, forecasts)
    if method is not untouched:
        method.psnr = psnr(method.pictures, untouched.pictures)
        method.ssim = ssim(method.pictures, untouched.pictures)


def _time(subject: Subject, method: Method, callback: Any) -> None:
    pipe = method.pipe
    with wall_time(pipe.device) as seconds, call_times(pipe.transformer, pipe.device) as calls:
        subject.paint(pipe, method.steps, callback)
    method.seconds += seconds
    full = set(range(method.steps))
    if method.config is not None:
        full = set(tap_ext.stats(pipe).models[0].branches[0].full_steps)
    for step, milliseconds in enumerate(calls):
        (method.full_ms if step in full else method.skip_ms).append(milliseconds)


def _calling(advance: Callable[[], object]) -> Any:
    def callback(*_: Any) -> dict[str, Any]:
        advance()
        return {}

    return callback


def _setting(subject: Subject) -> str:
    pipe = subject.pipe
    dtype = str(pipe.transformer.dtype).removeprefix("torch.")
    if pipe.device.type == "cuda":
        device = torch.cuda.get_device_name(pipe.device)
    else:
        threads = torch.get_num_threads()
        device = f"{pipe.device} with {threads} thread{'s' * (threads > 1)}"
    return f"{dtype} on {device}"


def _mean(values: list[float]) -> float | None:
    mean = statistics.fmean(values) if values else math.inf
    return mean if math.isfinite(mean) else None
