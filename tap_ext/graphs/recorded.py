"""What was recorded of one branch of calls."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tap_ext.graphs.inputs import PLAIN, Inputs, Uncapturable
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
        self._leaves, self._tree = pytree.tree_flatten(result)
        for leaf in self._leaves:
            if not isinstance(leaf, Tensor) and type(leaf) not in PLAIN:
                raise Uncapturable(f"the model returns a {type(leaf).__name__}")

    def __call__(self, given: Sequence[Tensor]) -> Any:
        """What the function would return, in memory of its own."""
        self._inputs.load(given)
        self._recording.replay()
        # whoever called may keep what was returned; the next replay writes where this one did
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return pytree.tree_unflatten(leaves, self._tree)


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
            self._graphs.clear()
        self._premises[kind] = premise
        return True

    def call(
        self, key: Hashable, function: Callable[[Sequence[Tensor]], Any], given: Sequence[Tensor]
    ) -> Any:
        """``function(given)``, replayed where it has been recorded under ``key``.

        Args:
            key: what the function does depends on nothing but this, the premise and the tensors.
            function: of tensors, all on one device.
            given: at least one.

        Returns:
            What the function returns.

        Raises:
            Exception: the function's own, from a call that was no recording.
        """
        graph = self._graphs.get(key)
        if graph is _Mark.FAILED:
            return function(given)
        if graph is None:
            if len(self._graphs) >= MAX_GRAPHS:
                self._tell(
                    f"more than {MAX_GRAPHS} kinds of step in a run, as where the timestep is a "
                    "number and no tensor"
                )
                self._graphs.clear()
            self._graphs[key] = _Mark.CALLED
            return function(given)
        if graph is _Mark.CALLED:
            made = self._record(key, function, given)
            if made is None:
                return function(given)
            graph = made
        self.replayed += 1
        return graph(given)

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
                self._graphs.clear()  # what is recorded holds memory that the step may need
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
