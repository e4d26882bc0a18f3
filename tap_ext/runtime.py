"""Which run, which step, which branch: told apart without asking the user.

A *run* is one generation. Where a pipeline is accelerated its call opens one (``run``); a bare
transformer's runs are told apart by the timestep, which must move one way from step to step. A
*branch* is one of the model's calls within a step; it is known by its conditioning tensors, held so
that their addresses cannot be used again, and by how many calls of the step came before with the
same ones. On any doubt the answer is a new branch, which begins with full steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from tap_ext.blend import Blend
from tap_ext.correction import Prediction, Sampling
from tap_ext.given import Pattern
from tap_ext.graphs import Graphs
from tap_ext.held import same, same_or_copy
from tap_ext.locks import Lock
from tap_ext.report import Choice, RunRecord
from tap_ext.state import Log, State

__all__ = [
    "Branch",
    "Branches",
    "Clock",
    "Journal",
    "Moment",
    "Run",
    "Slot",
    "current_run",
    "enter",
    "on_run",
    "run",
]

_logger = logging.getLogger("tap_ext")

MAX_BRANCHES = 8
"""Branches kept per run and model; conditioning that changes at every call must not fill memory."""


class Moment(NamedTuple):
    """Where a pipeline is: in which of its denoising loops, at which of its steps.

    Attributes:
        loop: number of the loop.
        step: the scheduler's step; None: not known.
        done: steps of this loop that are over.
    """

    loop: int
    step: int | None
    done: int = 0


class Clock(Protocol):
    """What a pipeline tells of its denoising loop, without reading the device."""

    def now(self) -> Moment | None:
        """The present step; None: unknown."""

    def num_steps(self) -> int | None:
        """How many steps the loop has; None: unknown."""

    def angles(self) -> tuple[float, ...] | None:
        """Phi, tan(phi) = noise / signal, before each step and after the last; None: unknown."""

    def prediction(self) -> Prediction | None:
        """What the model returns, as the sampler takes it; None: unknown."""

    def refusal(self) -> str | None:
        """Why this loop cannot be accelerated; None: it can."""


class Watcher(Protocol):
    """An engine that was called in a run."""

    def tell_if_idle(self, run: Run) -> None:
        """Warn where no step was skipped that could have been."""


class Run:
    """One generation.

    Attributes:
        clock: the pipeline's, where one is known.
        exact: whether its beginning and end are known; else the timesteps must tell.
        place: the thread and task that an inexact one was opened in.
        steps: the distinct steps seen, each as moment and timestep.
        skips: model calls that were predicted.
        full: model calls that ran in full and were remembered.
        fallbacks: model calls that ran untouched, by reason.
        holders: where its branches are.
        watchers: who wants to say something at its end, where no pipeline does.
    """

    def __init__(self, clock: Clock | None = None, *, exact: bool = True) -> None:
        """A run timed by ``clock``, or by the timesteps alone."""
        self.clock = clock
        self.exact = exact
        self.place = None if exact else _place()
        self.steps: set[tuple[Moment | None, float | None]] = set()
        self.skips = 0
        self.full = 0
        self.fallbacks: Counter[str] = Counter()
        self.holders: weakref.WeakSet[Branches] = weakref.WeakSet()
        self.watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()

    def finish(self) -> None:
        """End its branches; their slots stay for others."""
        for branches in list(self.holders):
            branches.finish(self)


def _place() -> tuple[int, Any]:
    """The thread and the task that run now."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        task = None
    return threading.get_ident(), None if task is None else weakref.ref(task)


_run: ContextVar[Run | None] = ContextVar("tap_ext_run", default=None)


_observers: list[Callable[[RunRecord], object]] = []


def on_run(callback: Callable[[RunRecord], object]) -> Callable[[], None]:
    """Have ``callback`` called at the end of every run of this process, failed ones too.

    A run is a call of an accelerated pipeline, or what happens within ``tap_ext.run()``; one in
    which no accelerated transformer was called is not told of. The callback comes in the thread of
    the run, so it should be quick; what it raises is logged and goes no further.

    Args:
        callback: takes a ``RunRecord``.

    Returns:
        A function that ends it.

    Raises:
        TypeError: ``callback`` cannot be called.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}")
    entry = functools.partial(callback)  # an object of its own: one may be given twice

    def end() -> None:
        if entry in _observers:
            _observers.remove(entry)

    _observers.append(entry)
    return end


def _tell(opened: Run, name: str, seconds: float, error: BaseException | None) -> None:
    if not opened.full and not opened.skips and not opened.fallbacks:
        return
    record = RunRecord(
        name=name,
        steps=len(opened.steps),
        full=opened.full,
        skipped=opened.skips,
        fallbacks=MappingProxyType(dict(opened.fallbacks)),
        seconds=seconds,
        error=None if error is None else type(error).__name__,
    )
    _logger.info("%s", record)
    for observer in list(_observers):
        try:
            observer(record)
        except Exception:
            _logger.exception("a callback of tap_ext.on_run failed")


@contextlib.contextmanager
def run(clock: Clock | None = None, name: str = "") -> Iterator[Run]:
    """Mark one generation: what is remembered inside never meets another run's history.

    Accelerated pipelines do this themselves. With a bare transformer it makes runs exact where
    the timesteps alone cannot tell, for instance when a run was given up half-way::

        with tap_ext.run():
            for t in timesteps:
                ...
    """
    opened = Run(clock)
    token = _run.set(opened)
    begin = time.perf_counter()
    failure: BaseException | None = None
    try:
        yield opened
        opened.finish()
        for watcher in list(opened.watchers) if clock is None else ():
            watcher.tell_if_idle(opened)
    except BaseException as error:
        failure = error
        raise
    finally:
        # a generator may be closed from another context, which has nothing to go back to
        with contextlib.suppress(ValueError):
            _run.reset(token)
        _tell(opened, name, time.perf_counter() - begin, failure)


def enter(opened: Run) -> None:
    """Make ``opened`` the run of this context (thread, task) until ``leave`` or the next one.

    For hosts that say where a run begins and give no call to wrap.
    """
    _run.set(opened)


def leave(
    opened: Run, name: str = "", seconds: float = 0.0, error: BaseException | None = None
) -> None:
    """End what ``enter`` began, as the end of a ``run()`` does; ``on_run`` is told."""
    if error is None:
        opened.finish()
    if _run.get() is opened:
        _run.set(None)
    _tell(opened, name, seconds, error)


def current_run() -> Run:
    """The run of this context (thread, task); an inexact one is opened where there is none.

    Tasks, and threads that tasks start, inherit what their parent has: an exact run, which they
    are part of, but not what the parent's own timesteps are guessed to be.
    """
    current = _run.get()
    if current is None or (not current.exact and current.place != _place()):
        current = Run(exact=False)
        _run.set(current)
    return current


@dataclass(eq=False)
class Journal:
    """What one run did; outlives its histories.

    Attributes:
        logs: one log per branch, by its name.
        trace: the choices of every skip step, where they are asked for.
    """

    logs: list[tuple[str, Log]] = field(default_factory=list)
    trace: list[Choice] = field(default_factory=list)


@dataclass(eq=False)
class Slot:
    """The buffers of one branch, and what was recorded upon them; its successors reuse both.

    Attributes:
        signature: of the calls it is for.
        stream: of the device, by number, that orders what is done in it.
        states: a state per stream.
        blend: what forecasts are mixed with; None: with nothing.
        graphs: captured steps; None: nothing was to be captured yet.
    """

    signature: Any
    stream: int
    states: dict[int, State] = field(default_factory=dict)
    blend: Blend | None = None
    graphs: Graphs | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held by histories and the blend."""
        mixed = 0 if self.blend is None else self.blend.nbytes
        return mixed + sum(state.nbytes for state in self.states.values())

    def reset(self) -> None:
        """Forget the run."""
        for state in self.states.values():
            state.reset()
        if self.blend is not None:
            self.blend.clear()


def _captures() -> bool:
    return os.environ.get("TAP_EXT_GRAPHS") != "0"


@dataclass(eq=False)
class Branch:
    """One of the model's calls within a step, and its history.

    Attributes:
        name: for reports: ``0``, ``1``, ... in the order of first appearance.
        pattern: of its last call's arguments; it was found by what these have in common.
        conditioning: what it is known by, as ``held`` gives it.
        slot: where its histories and graphs lie.
        journal: what its run did.
        captures: whether its steps may be captured; ``TAP_EXT_GRAPHS=0`` says no.
        states: its history, one per stream that was seen; the first decides on the steps.
        sampling: what corrections go by; None: there are none.
        takes: which tokens the head of each stream is given, since the last full step.
        idle: outputs of idle modules, from the last full step.
        moment: where the pipeline was at its last call; None: unknown.
        timestep: the timestep of its last call; None: not read.
        trend: +1 where timesteps rise over the run, -1 where they fall; None: not known yet.
    """

    name: str
    pattern: Pattern
    conditioning: Any
    slot: Slot
    journal: Journal
    captures: bool = field(default_factory=_captures)
    states: dict[int, State] = field(default_factory=dict)
    sampling: Sampling | None = None
    takes: tuple[slice | None, ...] = ()
    idle: dict[str, list[Any]] = field(default_factory=dict)
    moment: Moment | None = None
    timestep: float | None = None
    trend: int | None = None

    def advance(self, moment: Moment | None, timestep: float | None) -> None:
        """Note when the branch was called."""
        if self.trend is None:
            self.trend = _sign(self.timestep, timestep)
        self.moment, self.timestep = moment, timestep

    @property
    def blend(self) -> Blend | None:
        """What its forecasts are mixed with; None: with nothing."""
        return self.slot.blend

    def turned(self, timestep: float | None) -> bool:
        """Whether the timestep moves against the trend since the last call."""
        return self.trend is not None and _sign(self.timestep, timestep) == -self.trend


class _Branches(list[Branch]):
    """Those of one run, in a list that can be referred to weakly."""


class Branches:
    """The branches of one model, by run. A run that is gone takes its branches with it.

    Slots of finished runs are kept, up to ``MAX_BRANCHES``, and reused by later branches of the
    same signature and stream: repeated requests allocate nothing and find their buffers where they
    were.
    """

    def __init__(self) -> None:
        """No run, no branch."""
        self._by_run: weakref.WeakKeyDictionary[Run, _Branches] = weakref.WeakKeyDictionary()
        self._latest: tuple[weakref.ref[Run], weakref.ref[_Branches]] | None = None
        self._spare: list[Slot] = []
        self._lock = Lock()

    def of(self, run: Run) -> list[Branch]:
        """The branches of a run, least recently used first."""
        latest = self._latest  # of the same run, mostly, which is looked up many times a step
        if latest is not None and latest[0]() is run and (known := latest[1]()) is not None:
            return known
        with self._lock:
            run.holders.add(self)
            known = self._by_run.setdefault(run, _Branches())
            self._latest = weakref.ref(run), weakref.ref(known)
        return known

    def find(
        self, run: Run, conditioning: Any, moment: Moment | None, timestep: float | None
    ) -> Branch | None:
        """The branch that a call continues, or None when it begins one.

        A call continues the branch with the same conditioning (the same memory, else the same
        values) that was not called in this step yet. Another loop, or a timestep that stood still
        or turned back since, says that the denoising began anew: then all branches are retired.
        """
        branches = self.of(run)
        known = [b for b in branches if same(b.conditioning, conditioning)]
        if not known:  # offloading may copy the conditioning anew for every call
            known = [b for b in branches if same_or_copy(b.conditioning, conditioning)]
        waiting = known
        if run.exact:
            waiting = [b for b in known if b.moment != moment or b.timestep != timestep]
        elif branches and branches[-1].turned(timestep):
            waiting = branches
        for branch in waiting:
            if _began_anew(branch, moment, timestep):
                for old in list(branches):
                    self.retire(run, old)
                return None
        return waiting[0] if waiting else None

    def use(self, run: Run, branch: Branch) -> None:
        """Note that a branch was used; the least recently used are retired beyond the bound."""
        branches = self.of(run)
        if branches and branches[-1] is branch:
            return
        if branch in branches:
            branches.remove(branch)
        branches.append(branch)
        for old in branches[:-MAX_BRANCHES]:
            self.retire(run, old)

    def slot(self, signature: Any, stream: int) -> Slot:
        """A slot for calls of this signature on this stream: a spare one, or a new one.

        On another stream the device may still be at work on the buffers of a run that is over.
        """
        with self._lock:
            for position, spare in enumerate(self._spare):
                if spare.stream == stream and spare.signature == signature:
                    return self._spare.pop(position)
        return Slot(signature, stream)

    def retire(self, run: Run, branch: Branch) -> None:
        """End one branch and keep its slot for another; nothing where it has ended already."""
        branches = self.of(run)
        if branch not in branches:  # another thread has cleared all
            return
        branches.remove(branch)
        branch.slot.reset()
        with self._lock:
            self._spare.append(branch.slot)
            del self._spare[:-MAX_BRANCHES]

    def finish(self, run: Run) -> None:
        """End a run and keep its slots for others."""
        for branch in list(self.of(run)):
            self.retire(run, branch)
        self.drop(run)

    def drop(self, run: Run) -> None:
        """Forget a run, buffers and all."""
        with self._lock:
            self._latest = None
            self._by_run.pop(run, None)

    def clear(self) -> None:
        """Forget every run and every spare slot."""
        with self._lock:
            self._latest = None
            self._by_run.clear()
            self._spare.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held by all histories, in use or spare."""
        with self._lock:
            used = [b.slot for branches in self._by_run.values() for b in branches]
            return sum(slot.nbytes for slot in (*used, *self._spare))


def _began_anew(branch: Branch, moment: Moment | None, timestep: float | None) -> bool:
    if branch.moment is not None and moment is not None:
        if branch.moment.loop != moment.loop:
            return True
        before, now = branch.moment.step, moment.step
        if before != now:  # the scheduler knows; its timesteps need not move one way
            return now is None or (before is not None and now < before)
    return branch.timestep == timestep is not None or branch.turned(timestep)


def _sign(before: float | None, now: float | None) -> int | None:
    """Which way a timestep moved; None where that cannot be said."""
    if before is None or now is None or now == before:
        return None
    return 1 if now > before else -1
