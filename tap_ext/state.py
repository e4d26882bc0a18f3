"""The history of one branch of one run, and the prediction made from it.

Usable with any model: nothing here knows of modules or pipelines. Each step is ``begin``, then
``record`` if it is full or ``predict`` if it is skipped::

    state = State(Plan(window=6), Config())
    for x in steps:
        hidden, probe = embed(x)
        if state.begin() is Step.FULL:
            output = blocks(hidden)
            state.record(hidden, output, probe)
        else:
            output = state.predict(hidden, probe)

A schedule that decides while the run goes on (``Adaptive``, TeaCache, SpeCa) is shown every step.
One that wants the present step full after all, having seen its probe, makes ``predict`` raise
``FullStepWanted``: then the blocks run, and ``record`` follows.

Who knows the sampler sets ``sampling``. Then a full step can make up for the skip steps before it,
as ``correction`` says.
"""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tap_ext import ops
from tap_ext.buffers import NOTHING, Beside, Candidates, Stack, alike
from tap_ext.config import Config
from tap_ext.correction import Sampling
from tap_ext.history import History, Log
from tap_ext.modulation import Modulation
from tap_ext.peers import measures
from tap_ext.plan import Follower, Plan
from tap_ext.predictors import Predictor, Rows, rows

__all__ = ["DTYPES", "FullStepWanted", "Log", "State", "Step"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Step(enum.Enum):
    """What a step does: run the whole model, or predict its output."""

    FULL = "full"
    SKIP = "skip"

    __hash__ = object.__hash__  # an enum's own is Python's, and asks for the name's


_PROGRESS = ("step", "position", "_newest", "_due", "_follower", "_followed", "_skipped")
"""What a state knows of its run besides tensors and log."""


class FullStepWanted(Exception):
    """A skip step whose probe says that it should be full; the state now expects ``record``."""


class State:
    """One branch of one run: when to run the model, what to remember, how to predict.

    Not to be shared between threads or CUDA streams. All tensors are (..., N, D), best with a
    contiguous last axis; ``hidden`` and ``probe`` may differ in D. No step waits for the device.
    """

    def __init__(self, plan: Plan | None = None, config: Config | None = None) -> None:
        """A state that follows ``plan`` (default: the one ``config`` implies)."""
        self.config = Config() if config is None else config
        self.plan = self.config.plan() if plan is None else plan
        self.family = self.config.family()
        self.sampling: Sampling | None = None
        self.on_predict: Callable[[int, Tensor, Rows, Tensor], None] | None = None
        depth = self.config.planes
        self._probes = Stack(depth)
        self._features = Stack(depth)
        self._candidates = Candidates(self.family, depth)
        self._table: Rows | None = None
        self._previous: Tensor | None = None
        self.log = Log(self.family)
        self.reset()

    def reset(self) -> None:
        """Forget the run; buffers are kept, so that the next run of this shape reuses them."""
        self._probes.clear()
        self._features.clear()
        self.step = -1
        self._newest = -1
        self.position = -1.0
        self._due: Step | None = None
        self._follower: Follower | None = None
        self._followed = False
        self._looks_back = False
        self._skipped: tuple[tuple[int, float], ...] = ()
        if self.log.counts is not None:  # outlives the buffer
            self.log.counts = self._candidates.clear()
        self.log = Log(self.family)

    def begin(
        self, step: int | None = None, position: float | None = None, *, full: bool = False
    ) -> Step:
        """Start a step and say what it does. Host arithmetic only.

        Args:
            step: index of the step, from 0; default: the one after the last.
            position: abscissa of the predictors; default: the step index.
            full: ask for a full step whatever the plan says.

        Returns:
            ``Step.FULL`` when the plan says so, when nothing was recorded yet, or when the last
            full step was never recorded (it failed); else ``Step.SKIP``.
        """
        self.step = self.step + 1 if step is None else step
        skips = self.log.skip_steps
        if skips and skips[-1] == self.step:  # predicted, and then wanted in full
            skips.pop()
            self._skipped = self._skipped[:-1]
        self.position = float(self.step) if position is None else position
        unfinished = self._due is Step.FULL
        unknown = not self._features.past or not math.isfinite(self.position)
        if not self._followed:
            self._follower, self._followed = self.plan.follow(), True
        decides = self.plan if self._follower is None else self._follower
        wanted = full or unfinished or unknown or decides.is_full(self.step)
        self._due = Step.FULL if wanted else Step.SKIP
        self._looks_back = False
        return self._due

    def record(self, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
        """Remember a full step.

        Args:
            hidden: (..., N, D), what enters the blocks.
            output: (..., N, D), what leaves them.
            probe: (..., N, Dp), the probe of ``hidden``.

        Raises:
            RuntimeError: the step was not begun as a full one.
        """
        self._expect(Step.FULL, "record")
        self._features.fit(_tokens(output))
        self._probes.fit(_tokens(probe))
        self.aim()
        self.update(hidden, output, probe)
        self.conclude()

    def fits(self, hidden: Tensor, probe: Tensor | Modulation) -> bool:
        """Whether a step's features are of the shapes, dtypes and device of its history."""
        written = hidden if isinstance(probe, Modulation) else probe
        pairs = ((self._features.planes, hidden), (self._probes.planes, written))
        return all(p is not None and alike(p[0], _tokens(f)) for p, f in pairs)

    def predict(self, hidden: Tensor, probe: Tensor | Modulation) -> Tensor:
        """Predict what the blocks would return: one fused op (eq. 7-9, arXiv 2603.03792).

        Args:
            hidden: (..., N, D), what would enter the blocks.
            probe: (..., N, Dp), the probe of ``hidden``; or, of a (B, N, D) one, what makes it.

        Returns:
            (..., N, D).

        Raises:
            RuntimeError: the step was not begun as a skipped one.
            FullStepWanted: the plan decides from data, and decides so.
        """
        self._expect(Step.SKIP, "predict")
        self.aim()
        output = self.apply(hidden, probe)
        self.conclude()
        return output

    def aim(self, beside: Beside = NOTHING) -> None:
        """First of the three parts of a step: where it lies, which candidates there are. Host work.

        ``aim``, then ``update`` (full) or ``apply`` (skip), then ``conclude`` are ``record`` and
        ``predict`` in parts, for who captures the second one in a CUDA graph.

        Args:
            beside: of a skip step, numbers that are to be sent to the device in the same copy.
        """
        self._looks_back = False
        if self._due is Step.FULL:
            self._features.aim(self.position)
            self._probes.aim(self.position)
        else:
            assert self._features.planes is not None
            self._table = self._candidates.aim(
                self._where(), self._rows, self._features.planes.device, beside=beside
            )
            self.log.counts = self._candidates.counts

    def correction(self) -> float:
        """How a full step makes up for the skip steps before it: the first part. Host work.

        Where this is not 0, ``apply(hidden, probe)`` gives what would have been forecast, once,
        before ``record`` or ``aim``. With ``sampled`` and ``forecast`` what the model returns for
        the blocks' own output and for that, the step should return ``sampled + correction *
        (sampled - forecast)``; ``record`` is given what is true.

        Returns:
            ``Sampling.gain`` of the step; 0 where it is not full, or ``sampling`` not known.
        """
        features, self._looks_back = self._features, False
        if self.sampling is None or self._due is not Step.FULL or features.planes is None:
            return 0.0
        gain = self.sampling.gain(self.step, self.position, features.past, self._skipped)
        if gain:
            self._prepare(features.planes.device)
        return gain

    def look_back(self) -> bool:
        """Make a full step ready for ``apply``, as ``correction`` does, to learn from a forecast.

        Returns:
            Whether ``apply(hidden, probe)`` now gives, once, what would have been forecast: where
            the step is full, follows skip steps and is not known to be the run's last.
        """
        planes, steps = self._features.planes, self.plan.num_steps
        if self._due is not Step.FULL or not self._skipped or planes is None:
            return False
        if not self._looks_back and (steps is None or self.step < steps - 1):
            self._prepare(planes.device)
        return self._looks_back

    def _prepare(self, device: torch.device) -> None:
        self._candidates.aim(self._where(), self._rows, device, counted=False)
        self._looks_back = True

    def update(self, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
        """Second part of a full step, on the device alone."""
        residual = self.config.forecast == "residual"
        self._features.update(_tokens(output), _tokens(hidden) if residual else None)
        self._probes.update(_tokens(probe), None)
        if self._follower is not None:
            self._keep(_tokens(probe))

    def apply(self, hidden: Tensor, probe: Tensor | Modulation) -> Tensor:
        """Second part of a skip step, on the device alone: choose, and predict."""
        if not self._looks_back:
            self._expect(Step.SKIP, "predict")
        tokens = _tokens(hidden)
        planes, features, weights = self._probes.planes, self._features, self._candidates.weights
        assert planes is not None and features.planes is not None and weights is not None
        metric, residual = self.config.metric, self.config.forecast == "residual"
        base = tokens if residual else None
        if self._follower is not None and not self._looks_back:
            index = self._ask(self._follower, _written(probe, tokens), weights)
            out = ops.gather_rows(features.planes, weights, index, base)
        else:
            index = tokens.new_empty(tokens.shape[:-1], dtype=torch.int32)
            out = torch.empty_like(tokens, memory_format=torch.contiguous_format)
            if isinstance(probe, Modulation):
                ops.modulated_skip_step_(
                    out,
                    index,
                    planes,
                    tokens,
                    probe.shift,
                    probe.scale,
                    features.planes,
                    weights,
                    probe.eps,
                    metric,
                    add=residual,
                )
            else:
                probes = _tokens(probe)
                ops.skip_step_(out, index, planes, probes, features.planes, base, weights, metric)
        self._candidates.count(index)
        if self.on_predict is not None and self._table is not None and not self._looks_back:
            _, distance = ops.select(planes, _written(probe, tokens), weights, metric)
            self.on_predict(self.step, index, self._table, distance)
        return out.view(hidden.shape)

    def conclude(self) -> None:
        """Third part: the step is done. Host work."""
        if self._due is Step.SKIP:
            self.log.skip_steps.append(self.step)
            self._skipped = (*self._skipped, (self.step, self.position))
        else:
            self._skipped = ()
            if self._follower is not None:
                self._follower.recorded(self.step)
            self._newest = self.step
            self.log.full_steps.append(self.step)
        self._due = None

    @property
    def beside(self) -> Tensor:
        """(3,) float32, what ``aim`` of a skip step sent; always the same memory."""
        assert self._candidates.beside is not None
        return self._candidates.beside

    @property
    def due(self) -> Step | None:
        """What the step that has begun does; None: none has."""
        return self._due

    @property
    def device(self) -> torch.device | None:
        """Where the history lies; None: there never was one."""
        planes = self._features.planes
        return None if planes is None else planes.device

    @property
    def moves(self) -> int:
        """How often its buffers were allocated; who has recorded ``apply`` records it again."""
        return self._features.moves + self._probes.moves

    @property
    def decides_from_data(self) -> bool:
        """Whether the plan looks at every step's features, which no captured step can show it."""
        return self._follower is not None

    def _ask(self, follower: Follower, probe: Tensor, weights: Tensor) -> Tensor:
        """Choose every token's row, and show the step to who decides on it."""
        planes = self._probes.planes
        assert planes is not None
        index, distance = ops.select(planes, probe, weights, self.config.metric)
        look = _Look(planes, probe, weights, index, distance, self._previous)
        wanted = follower.saw(self.step, look)
        self._keep(probe)
        if wanted:
            self._due = Step.FULL
            raise FullStepWanted
        return index

    def _keep(self, probe: Tensor) -> None:
        """Hold the probe of this step for the next one, where that is compared with it."""
        if self._follower is None or not self._follower.compares:
            return
        if self._previous is None or not alike(self._previous, probe):
            self._previous = torch.empty_like(probe, memory_format=torch.contiguous_format)
        self._previous.copy_(probe)

    def detach(self, device: torch.device | str | None = None) -> History:
        """Take the run out, also in the middle of a step; the state is then as after ``reset``.

        Args:
            device: copy the history there, and keep the buffers where they are for the next run.
                None: hand the buffers themselves over, without a copy.
        """
        progress = {name: getattr(self, name) for name in _PROGRESS}
        log = self.log
        with torch.inference_mode(False):
            probes, features = self._probes.detach(device), self._features.detach(device)
            previous = None if self._previous is None else self._previous.clone()
            self.reset()
        kept = History(
            self.config, self.plan, self.sampling, probes, features, previous, log, progress
        )
        return kept if device is None else kept.to(device)

    def attach(self, history: History, device: torch.device | str | None = None) -> None:
        """Go on with a run where it was taken out, forgetting the present one.

        The history is copied, so that it can be attached again; buffers of its shape that this
        state holds already keep their addresses.

        Args:
            history: from a state of the same configuration.
            device: where to hold it; default: where this state's buffers of its shape are, else
                where the history is.

        Raises:
            ValueError: ``history`` is of another configuration.
        """
        if history.config != self.config:
            raise ValueError(
                f"history must be of this state's configuration, expected {self.config}, "
                f"got {history.config}"
            )
        self.reset()
        self.plan, self.sampling = history.plan, history.sampling
        with torch.inference_mode(False):
            self._probes.attach(history.probes, device)
            self._features.attach(history.features, device)
            planes, previous, counts = self._probes.planes, history.previous, history.log.counts
            home = torch.device("cpu") if planes is None else planes.device
            self._previous = None if previous is None else previous.to(home, copy=True)
            self.log = history.log.copy()
            if counts is not None:
                self.log.counts = self._candidates.resume(counts, home)
        for name, value in history.progress.items():
            setattr(self, name, copy.deepcopy(value))

    @property
    def nbytes(self) -> int:
        """Bytes held: two stacks; a probe where steps are compared."""
        compared = 0 if self._previous is None else self._previous.nbytes
        return self._probes.nbytes + self._features.nbytes + compared

    def _where(self) -> tuple[tuple[float, ...], float, int]:
        """What the candidates of this step depend on, beside the configuration."""
        return self._features.past, self.position, self.step - self._newest

    def _rows(self) -> tuple[Rows, float]:
        """The candidates of this step, in steps, and the length of a step in positions.

        A step is as long as the newest full step lies away, by the number of steps to it: so a
        candidate's distance is in steps whatever the abscissa.
        """
        past, target, steps = self._where()
        distance = abs(target - past[0])
        unit = distance / steps if distance and steps else 1.0
        if unit != 1:
            past, target = tuple(position / unit for position in past), target / unit
        return family_rows(self.family, past, target, self._features.depth), unit

    def _expect(self, step: Step, call: str) -> None:
        if self._due is not step:
            raise RuntimeError(
                f"{call}() must follow a begin() that returned {step}, "
                f"got {'no begin()' if self._due is None else self._due}"
            )


@dataclass(frozen=True)
class _Look:
    """What a skip step shows to a follower; each measurement reads one number per batch row."""

    planes: Tensor
    probe: Tensor
    weights: Tensor
    index: Tensor
    rows_distance: Tensor
    previous: Tensor | None

    def distance(self) -> list[float]:
        return measures.per_row(self.rows_distance)

    def change(self) -> list[float]:
        assert self.previous is not None
        return measures.change(self.probe, self.previous)

    def error(self) -> list[float]:
        return measures.error(ops.gather_rows(self.planes, self.weights, self.index), self.probe)


@lru_cache(maxsize=512)  # of 2 kB each
def family_rows(
    family: tuple[Predictor, ...], past: tuple[float, ...], target: float, planes: int
) -> Rows:
    """The rows of a skip step; remembered, because every run asks for the same ones."""
    return rows(family, past, target, planes)


def _tokens(feature: Tensor) -> Tensor:
    """(..., N, D) as (B, N, D) with a contiguous last axis, a view wherever the strides allow.

    What a convolution has cut into patches has its channels outermost, and elementwise operations
    keep that order up to the head.
    """
    tokens = feature[None] if feature.dim() == 2 else feature.flatten(0, -3)
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


def _written(probe: Tensor | Modulation, tokens: Tensor) -> Tensor:
    """The probe of ``tokens`` (B, N, D) as a tensor (B, N, Dp)."""
    return probe.of(tokens) if isinstance(probe, Modulation) else _tokens(probe)
