"""How one step of one branch runs: eagerly, or as a CUDA graph captured before."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tap_ext.buffers import NOTHING
from tap_ext.config import Config
from tap_ext.given import Given
from tap_ext.graphs import (
    Graphs,
    Uncapturable,
    hooked,
    join,
    recorder_for,
)
from tap_ext.hindsight import Hindsight
from tap_ext.modulation import Modulation
from tap_ext.runtime import Branch
from tap_ext.state import Step
from tap_ext.uploads import stream_of, type_of
from tap_ext.views import Call, Views, run_view

__all__ = ["OtherTokens", "Steps"]

Function = Callable[[tuple[Any, ...], dict[str, Any], Mapping[str, list[Any]]], Any]
"""A step as a function of the call's arguments and of what idle modules gave."""


_NOTHING: dict[str, Any] = {}
"""Beside the arguments of a full step; one object, since it is told by its identity."""


class OtherTokens(Exception):
    """A step has other tokens than its history: their number may depend on a mask's values."""


class Steps:
    """Runs the steps of one model whose views are known to be right.

    Attributes:
        captured: steps captured so far.
        replayed: steps that were replays.
        blended: skip steps in which the curve had a share.
        uncaptured: why steps were not captured, by reason.
    """

    def __init__(self, config: Config) -> None:
        """Steps as ``config`` asks for them."""
        self._config = config
        self._modulated = config.probe == "modulated"
        self.uncaptured: Counter[str] = Counter()
        self.captured = 0
        self.replayed = 0
        self.blended = 0

    def skip(self, views: Views, branch: Branch, given: Given) -> Any:
        """Run what stands around the blocks, with a forecast between.

        Raises:
            OtherTokens: the history does not fit; nothing was predicted.
            FullStepWanted: the plan looked at the step and wants it full.
        """
        blend = branch.blend
        aim = NOTHING if blend is None else blend.aim(branch.states[0].position)
        for state in branch.states.values():
            if state.due is Step.SKIP:
                state.aim(aim)
        output, used = self._forecast(views, branch, given)
        for stream in used:
            branch.states[stream].conclude()
        self.blended += bool(aim[0])
        return output

    def look_back(self, views: Views, branch: Branch, given: Given) -> Hindsight | None:
        """What a full step that is due would have been as a skip step, where that is of use.

        Raises:
            OtherTokens: the history does not fit; nothing was predicted.
        """
        states, blend = list(branch.states.values()), branch.blend
        gains = [state.correction() for state in states]
        seen = [state.look_back() for state in states] if blend is not None else gains
        if not seen or not seen[0]:  # the first decides for all, as it does on the steps
            return None
        plain, used = self._forecast(views, branch, given)
        if 0 not in used:  # a call that only fills a cache of keys and values, say
            return None
        forecast = plain
        if blend is not None and gains[0]:
            forecast = blend.mix(plain, blend.aim(states[0].position))
        return Hindsight(gains[0], forecast, len(views.spec.streams), plain)

    def _forecast(self, views: Views, branch: Branch, given: Given) -> tuple[Any, tuple[int, ...]]:
        """What the skip view returns, and which streams were there."""
        unwritten = not branch.states[0].decides_from_data  # who compares probes needs them

        def step(args: tuple[Any, ...], kwargs: dict[str, Any], idle: Any) -> Any:
            used = []

            def forecast(stream: int, hidden: Tensor, probe: Tensor | Modulation) -> Tensor:
                state = branch.states[stream]
                if not state.fits(hidden, probe):
                    raise OtherTokens
                used.append(stream)
                return state.apply(hidden, probe)

            call = Call.after(
                branch.takes, idle, forecast, want_probe=self._modulated, unwritten=unwritten
            )
            output = run_view(views.skip, call, args, kwargs)
            if branch.blend is not None:
                output = branch.blend.mix(output, branch.states[0].beside)
            return output, tuple(used)

        made: tuple[Any, tuple[int, ...]] = self._run(Step.SKIP, step, views, branch, given)
        return made

    def full(self, views: Views, branch: Branch, given: Given) -> Any:
        """Run the whole model and add to a history that is known to fit.

        Raises:
            OtherTokens: it does not.
        """
        for state in branch.states.values():
            state.aim()

        def step(args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> Any:
            call = Call.full(views.spec, branch.takes, want_probe=self._modulated)
            output = run_view(views.full, call, args, kwargs)
            for stream, passage in enumerate(call.passages):
                state = branch.states.get(stream)
                if passage.used != (state is not None):
                    raise OtherTokens
                if state is not None and passage.output is not None:
                    hidden, probe = passage.taken(passage.hidden), passage.taken(passage.probe)
                    if not state.fits(passage.output, probe):
                        raise OtherTokens
                    state.update(hidden, passage.output, probe)
            return output, dict(call.idle)

        output, branch.idle = self._run(Step.FULL, step, views, branch, given)
        for state in branch.states.values():
            state.conclude()
        return output

    def asked(self, kind: Step, branch: Branch) -> bool:
        """Whether steps of this kind are to be captured."""
        graphs = self._config.graphs
        wanted = graphs == "all" or (kind is Step.SKIP and graphs != "off")
        return wanted and branch.captures

    def _obstacle(self, kind: Step, views: Views, branch: Branch) -> str | None:
        """What stands against capturing."""
        can = views.spec.graphs
        if torch.compiler.is_compiling():
            return "the model is being compiled as a whole"
        if can == "none" or (kind is Step.FULL and can != "all"):
            return f"a {kind.value} step of {views.spec.name} waits for the device"
        if branch.states[0].decides_from_data:
            return "the schedule looks at every step"
        if self._config.trace:
            return "trace=True looks at every step"
        return None

    def _run(
        self,
        kind: Step,
        step: Function,
        views: Views,
        branch: Branch,
        given: Given,
    ) -> Any:
        plain = functools.partial(step, given.args, given.kwargs, branch.idle)
        device = branch.states[0].device
        if device is None or not self.asked(kind, branch):
            return plain()
        graphs = self._graphs(kind, views, branch, device)
        if graphs is None:
            return plain()
        try:
            idle = branch.idle if kind is Step.SKIP else _NOTHING
            flat = given.flatten(kind, idle, device)
        except Uncapturable as error:
            self._tell(str(error))
            return plain()

        def function(inputs: Sequence[Tensor]) -> Any:
            return step(*join(inputs, flat.rest))

        before = graphs.captured, graphs.replayed
        around = views.parts[False].narrowed if kind is Step.SKIP else contextlib.nullcontext
        output = graphs.call(flat.key, function, flat.tensors, flat.moving, around)
        self.captured += graphs.captured - before[0]
        self.replayed += graphs.replayed - before[1]
        return output

    def _graphs(
        self, kind: Step, views: Views, branch: Branch, device: torch.device
    ) -> Graphs | None:
        """What was captured of a branch, where a step of this kind can be replayed."""
        slot = branch.slot
        if slot.graphs is None:
            recorder = recorder_for(device)
            if recorder is None:
                return None
            slot.graphs = Graphs(recorder, self._warn)
        reason = self._obstacle(kind, views, branch)
        if reason is None and slot.graphs.expect(kind, self._premise(kind, views, branch, device)):
            reason = hooked(views.parts[kind is Step.FULL])
            if reason is not None:
                slot.graphs.expect(kind, None)
        if reason is not None:
            self._tell(reason)
            return None
        return slot.graphs

    def _premise(self, kind: Step, views: Views, branch: Branch, device: torch.device) -> Any:
        """What a replay takes for granted beside its inputs."""
        where, blend = type_of(device), branch.blend
        autocast = torch.is_autocast_enabled(where)
        return (
            views,
            views.parts[kind is Step.FULL].version(),
            torch.get_autocast_dtype(where) if autocast else None,
            torch.is_inference_mode_enabled(),
            stream_of(device),
            0 if blend is None else blend.moves,
            tuple([state.moves for state in branch.states.values()]),
        )

    def _tell(self, reason: str) -> None:
        """Count a step that was not captured; warn once where captures were asked for by name."""
        if self._config.graphs == "auto":
            self.uncaptured[reason] += 1
        else:
            self._warn(reason)

    def _warn(self, reason: str) -> None:
        if reason not in self.uncaptured:
            warnings.warn(f"tap_ext: a step runs eagerly: {reason}", stacklevel=2)
        self.uncaptured[reason] += 1
