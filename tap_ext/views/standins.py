"""What stands in a view where a module of the model stood."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from tap_ext.backbones.spec import Blocks, Stream
from tap_ext.modulation import Modulation
from tap_ext.views.call import Call, current_call
from tap_ext.views.graft import AdapterError, graft, module_at
from tap_ext.views.offloading import fetched

__all__ = [
    "AbsentBlock",
    "Exit",
    "Head",
    "Idle",
    "Probe",
    "Stand",
    "WatchedBlock",
    "argument_names",
]


T = TypeVar("T")


class Stand(nn.Module):
    """Stands in a view where ``real`` stands in the model; other attributes are the real one's.

    ``real`` is a submodule, so that what walks a view (LoRA scaling does) finds it.
    """

    def __init__(self, real: nn.Module, path: str) -> None:
        """In place of ``real``, at ``path``."""
        super().__init__()
        self.real = real
        self._path = path

    def __getattr__(self, name: str) -> Any:
        """What it lacks, the real one has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("real"), name)


def argument_names(block: nn.Module) -> tuple[str, ...]:
    """The arguments of a block's forward, in order."""
    return tuple(inspect.signature(type(block).forward).parameters)[1:]


class _Block(Stand):
    """A main block that reads its arguments by name, however they were passed.

    The first of all notes what enters each stream; every one notes that it was called.
    """

    def __init__(self, real: nn.Module, path: str, blocks: Blocks, probes: Sequence[Probe]) -> None:
        super().__init__(real, path)
        self._probes = tuple(probes)
        self._names = argument_names(real)
        self._returned = blocks.returns
        for name in (*blocks.returns, *(probe.hidden for probe in probes)):
            if name not in self._names:
                raise AdapterError(
                    f"{type(real).__name__}.forward has no argument {name!r}, "
                    f"it has {', '.join(self._names)}"
                )

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        call = current_call()
        args, kwargs = self._shared(args, kwargs)
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        if self._probes:
            with fetched(self.real):
                self._look(call, arguments)
        call.visited.append(self._path)
        return arguments

    def _look(self, call: Call, arguments: dict[str, Any]) -> None:
        """Note what enters each stream, and its probe."""
        for passage, probe in zip(call.passages, self._probes, strict=False):
            passage.hidden = arguments.get(probe.hidden)
            if passage.hidden is None:
                continue
            if not call.want_probe:
                passage.probe = passage.hidden
                continue
            passage.modulation = probe.modulation(arguments) if call.unwritten else None
            if passage.modulation is None:  # under autocast, a norm may give float32
                passage.probe = probe(arguments).to(passage.hidden.dtype)

    def _shared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the block's own forward gets: under context parallelism, this rank's tokens.

        diffusers divides them in a hook of a block. That is a view of them, and no collective.
        """
        registry = self.real.__dict__.get("_diffusers_hook")
        for name, hook in list(getattr(registry, "hooks", {}).items()):
            if name.startswith("cp_input---"):
                args, kwargs = hook.pre_forward(self.real, *args, **kwargs)
        return args, kwargs


class WatchedBlock(_Block):
    """Full view: notes what enters, then runs the block."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block returns."""
        self._enter(args, kwargs)
        return self.real(*args, **kwargs)


class AbsentBlock(_Block):
    """Skip view: hands its inputs on in the block's own order of returning them."""

    @property
    def follows(self) -> bool:
        """Whether it is not the first of all, so that nothing of the real one runs."""
        return not self._probes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block would return if it changed nothing."""
        arguments = self._enter(args, kwargs)
        for passage, probe in zip(current_call().passages, self._probes, strict=False):
            if passage.nudge is not None:
                arguments[probe.hidden] = arguments[probe.hidden] + passage.nudge
        # a model shared out over devices goes on where the block's hook would have moved it
        device = getattr(self.real.__dict__.get("_hf_hook"), "execution_device", None)
        returned = tuple(_on(device, arguments.get(name)) for name in self._returned)
        return returned[0] if len(returned) == 1 else returned


def _on(device: Any, value: Any) -> Any:
    return value if device is None or not isinstance(value, Tensor) else value.to(device)


class Head(Stand):
    """Notes the hidden state that reaches the head; on a skip step replaces it.

    Replaced, never added to: what a model adds between its blocks (ControlNet residuals) is already
    in the residual and must not count twice.
    """

    def __init__(self, real: nn.Module, path: str, stream: Stream, number: int) -> None:
        """The head of the stream of this number."""
        super().__init__(real, path)
        self._first = argument_names(real)[0]
        self._tokens = stream.tokens
        self._number = number

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the head returns for the hidden state, or for its forecast."""
        if not args:  # then by name, in whatever order
            args = (kwargs.pop(self._first),)
        hidden, args = args[0], args[1:]
        hidden = _leave(self._number, self._path, self._tokens, hidden)
        return self.real(hidden, *args, **kwargs)


def _leave(number: int, path: str, tokens: str, hidden: Tensor) -> Tensor:
    """Note the hidden state that leaves the blocks; the forecast in its place on a skip step."""
    call = current_call()
    passage = call.passages[number]
    if passage.output is not None:
        raise AdapterError(f"the head {path!r} was called twice")
    passage.output = hidden
    if passage.hidden is not None:
        # some models lay tokens out as (frames, rows, columns) for the head, or for the blocks,
        # some give the head what a bfloat16 block returned as float32, and one that is shared out
        # over devices ends on another
        passage.output = hidden.to(passage.hidden.device, passage.hidden.dtype)
        if hidden.numel() == passage.hidden.numel():
            passage.output = passage.output.reshape(passage.hidden.shape)
            passage.take = slice(0, passage.hidden.shape[-2])
        elif passage.take is None:
            passage.take = _taken(tokens, passage.hidden.shape[-2], hidden.shape[-2])
    if call.forecast is None:
        return hidden
    if passage.hidden is None:
        raise AdapterError(f"the head {path!r} was called before the first block")
    probe = passage.modulation or passage.taken(passage.probe)
    forecast = call.forecast(number, passage.taken(passage.hidden), probe)
    if forecast.numel() != hidden.numel():
        raise AdapterError(
            f"the head {path!r} is given shape {tuple(hidden.shape)} on a skip step, "
            f"{tuple(forecast.shape)} on a full one"
        )
    return forecast.reshape(hidden.shape).to(hidden.device, hidden.dtype)


def _taken(tokens: str, entered: int, left: int) -> slice | None:
    """Which of the tokens that entered the head is given; None: to be looked for."""
    if tokens == "inside":
        return None
    if left > entered or (tokens == "all" and left != entered):
        raise AdapterError(f"{entered} tokens entered the first block, the head is given {left}")
    return slice(entered - left, entered) if tokens == "last" else slice(0, left)


class Exit(Stand):
    """Stands around the last block, for streams that have no head to wait for."""

    def __init__(self, real: nn.Module, path: str, places: Mapping[int, int]) -> None:
        """``places`` tells, by number of the stream, where its state is in what a block returns."""
        super().__init__(real, path)
        self._places = places

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the last block returns, or a forecast of it."""
        output = self.real(*args, **kwargs)
        left = [output] if isinstance(output, Tensor) else list(output)
        for number, place in self._places.items():
            if left[place] is not None:
                left[place] = _leave(number, self._path, "all", left[place])
        return left[0] if isinstance(output, Tensor) else tuple(left)


class Idle(Stand):
    """A module that need not run on a skip step: its outputs of the full step stand in."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output now, or then."""
        call = current_call()
        if call.forecast is not None and not call.awake:
            return call.remembered(self._path)
        output = self.real(*args, **kwargs)
        if call.forecast is None:  # else it is only checked, and what the full step left stays
            call.idle[self._path].append(output)
        return output


class _Intercepted(Exception):
    """Carries the probe out of a block that need not finish."""

    def __init__(self, probe: Tensor) -> None:
        self.probe = probe


class _Intercept(Stand):
    """Takes the place of the first attention and hands out its input of these tokens."""

    def __init__(self, real: nn.Module, path: str, tokens: torch.Size) -> None:
        super().__init__(real, path)
        self._tokens = tokens

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.shape[:-1] == self._tokens:
                raise _Intercepted(value)
        raise AdapterError(f"nothing of shape {(*self._tokens, '...')} reached {self._path!r}")


class Probe:
    """The modulated input of the first layer (eq. 5, arXiv 2603.03792)."""

    def __init__(self, block: nn.Module, stream: Stream) -> None:
        """The probe of one stream, taken at the model's first block."""
        self.hidden = stream.hidden
        self._block = block
        self._formula = stream.probe
        self._modulation = stream.modulation
        self._attention = stream.attention

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        """The probe of what enters the block with these arguments.

        Raises:
            AdapterError: the block is not what the formula takes it for, or its attention is not
                where it should be.
        """
        return self._told(self._write, arguments)

    def modulation(self, arguments: Mapping[str, Any]) -> Modulation | None:
        """What makes the probe of these arguments; None where the probe has to be written.

        Raises:
            AdapterError: the block is not what the formula takes it for.
        """
        return None if self._modulation is None else self._told(self._stand_for, arguments)

    def _write(self, arguments: Mapping[str, Any]) -> Tensor:
        if self._formula is not None:
            return self._formula(self._block, arguments[self.hidden], arguments)
        return self._intercept(arguments)

    def _stand_for(self, arguments: Mapping[str, Any]) -> Modulation | None:
        assert self._modulation is not None
        return self._modulation(self._block, arguments[self.hidden], arguments)

    def _told(self, make: Callable[[Mapping[str, Any]], T], arguments: Mapping[str, Any]) -> T:
        """What ``make`` makes; its errors become the adapter's."""
        try:
            return make(arguments)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            name = type(self._block).__name__
            raise AdapterError(f"the probe of {name} failed: {error}") from error

    def _intercept(self, arguments: Mapping[str, Any]) -> Tensor:
        """What reaches the first block's attention of the stream's tokens: right for any family."""
        attention = module_at(self._block, self._attention)
        tokens = arguments[self.hidden].shape[:-1]
        intercept = _Intercept(attention, self._attention, tokens)
        block = graft(self._block, {self._attention: intercept})
        try:
            type(block).forward(block, **arguments)
        except _Intercepted as caught:
            return caught.probe
        raise AdapterError(f"it never called {self._attention!r}")
