"""What was recorded of one branch of calls."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tap_ext.graphs.inputs import PLAIN, Inputs, Uncapturable, joiner, strangers, unpack
from tap_ext.graphs.recorder import Recorder, Recording

__all__ = ["Graphs"]

MAX_GRAPHS = 8
"""Kept per branch; a run has two or three, of full and skip steps."""


class _Graph:
    """One recorded function of tensors."""

    def __init__(
        self,
        recorder: Recorder,
        function: Callable[[Sequence[Tensor]], Any],
        given: Sequence[Tensor],
    ) -> None:
        """Record ``function`` of tensors like ``given``."""
        self._inputs = Inputs(given)
        self._inputs.load(given)
        self._recording: Recording
        self._recording, result = recorder.record(lambda: function(self._inputs.tensors))
        self._tensors, self._join = _apart(result)

    def __call__(self, given: Sequence[Tensor], places: Sequence[int] | None = None) -> Any:
        """What the function would return, in memory of its own."""
        self._inputs.load(given, places)
        self._recording.replay()
        # whoever called may keep what was returned; the next replay writes where this one did
        return self._join([tensor.clone() for tensor in self._tensors])


def _apart(result: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """The tensors in a result, and what puts others in their place.

    Raises:
        Uncapturable: it holds what is neither tensor nor plain.
    """
    found, rest = unpack(result)
    if not any(strangers(rest)):
        join = joiner(rest)
        return found, lambda tensors: join(iter(tensors))
    leaves, tree = pytree.tree_flatten(result)  # knows the outputs of diffusers' models
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for leaf in leaves:
        if not isinstance(leaf, Tensor) and type(leaf) not in PLAIN:
            raise Uncapturable(f"the model returns a {type(leaf).__name__}")

    def join_leaves(tensors: list[Tensor]) -> Any:
        found = dict(zip(places, tensors, strict=True))
        return pytree.tree_unflatten([found.get(i, leaf) for i, leaf in enumerate(leaves)], tree)

    return [leaves[place] for place in places], join_leaves


class _Mark(enum.Enum):
    """A function that is not recorded."""

    CALLED = 1  # once, as it is; to be recorded at the next call
    FAILED = 2


class Graphs:
    """Recorded functions by key; each is called once as it is before it is recorded.

    One that cannot be recorded is not tried again under the same premise.

    Attributes:
        captured: functions recorded so far.
        replayed: calls that were replays.
    """

    def __init__(self, recorder: Recorder, tell: Callable[[str], None]) -> None:
        """Nothing recorded. ``tell`` is told, in words, why a function could not be."""
        self._recorder = recorder
        self._tell = tell
        self._graphs: dict[Hashable, _Graph | _Mark] = {}
        self._premises: dict[Hashable, Hashable] = {}
        self._latest: tuple[Hashable, _Graph] | None = None
        self.captured = 0
        self.replayed = 0

    def expect(self, kind: Hashable, premise: Hashable) -> bool:
        """What recordings of a kind take for granted; another premise than the last drops all.

        Returns:
            Whether it is a new one.
        """
        if kind in self._premises:
            if premise == self._premises[kind]:
                return False
            self._clear()
        self._premises[kind] = premise
        return True

    def call(
        self,
        key: Hashable,
        function: Callable[[Sequence[Tensor]], Any],
        given: Sequence[Tensor],
        moving: Sequence[int] | None = None,
        around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Any:
        """``function(given)``, replayed where it has been recorded under ``key``.

        Args:
            key: what the function does depends on nothing but this, the premise and the tensors.
            function: of tensors, all on one device.
            given: at least one.
            moving: which of them may be others, or others' values, than at the last call with this
                very object as key; None: any.
            around: entered where the function is recorded.

        Returns:
            What the function returns.

        Raises:
            Exception: the function's own, from a call that was no recording.
        """
        if self._latest is not None and self._latest[0] is key:
            self.replayed += 1
            return self._latest[1](given, moving)
        graph = self._graphs.get(key)
        if graph is _Mark.FAILED:
            return function(given)
        if graph is None:
            if len(self._graphs) >= MAX_GRAPHS:
                self._tell(
                    f"more than {MAX_GRAPHS} kinds of step in a run, as where the timestep is a "
                    "number and no tensor"
                )
                self._clear()
            self._graphs[key] = _Mark.CALLED
            return function(given)
        if graph is _Mark.CALLED:
            with around():
                made = self._record(key, function, given)
            if made is None:
                return function(given)
            graph = made
        self.replayed += 1
        self._latest = None  # until all inputs are there
        output = graph(given)
        self._latest = key, graph
        return output

    def _clear(self) -> None:
        self._graphs.clear()
        self._latest = None

    def _record(
        self, key: Hashable, function: Callable[[Sequence[Tensor]], Any], given: Sequence[Tensor]
    ) -> _Graph | None:
        if (reason := self._recorder.busy()) is not None:
            self._tell(reason)
            return None
        try:
            graph = _Graph(self._recorder, function, given)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                self._clear()  # what is recorded holds memory that the step may need
            self._graphs[key] = _Mark.FAILED
            self._tell(_in_words(error))
            return None
        self._graphs[key] = graph
        self.captured += 1
        return graph


def _in_words(error: Exception) -> str:
    if isinstance(error, Uncapturable):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "no memory was left to capture a step"
    lines = str(error).splitlines() or [type(error).__name__]
    return f"capturing a step failed: {lines[0]}"
