"""CUDA graphs played on the CPU: the ops of a function, recorded and run again.

As on a device, recording does none of the work, what is recorded reads and writes the memory that
it was recorded with, nothing of the host runs again, and what waits for the device cannot be
recorded. Numbers from the host are seen as a copy from it, which in a capture would be an error.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tap_ext.steps

R = TypeVar("R")

FROM_THE_HOST = {"aten::lift_fresh", "aten::lift"}
"""What ``torch.tensor([...])`` does last; and ``x[0] = 1``, which on a device is no copy."""


class Illegal(RuntimeError):
    """What a stream refuses while it is being captured."""


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class _Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        if schema.name in FROM_THE_HOST and args[0].numel() and "tensor(" in _line():
            raise Illegal(f"{schema.name}: a copy from the host")
        for argument, value in zip(schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._before += [(tensor, tensor.clone()) for tensor in _tensors(value)]
        for argument in schema.arguments[len(args) :]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = _tensors(kwargs.get(argument.name))
                self._before += [(tensor, tensor.clone()) for tensor in written]
        returned = func(*args, **kwargs)
        if any(not isinstance(leaf, Tensor) for leaf in tree_leaves(returned) if leaf is not None):
            raise Illegal(f"{schema.name}: waits for the device")
        if "nonzero" in schema.name or "masked_select" in schema.name:
            raise Illegal(f"{schema.name}: its shape waits for the device")
        fresh = [
            tensor
            for kind, value in zip(schema.returns, _each(returned, schema), strict=True)
            for tensor in _tensors(value)
            if kind.alias_info is None
        ]
        self.entries.append((func, args, kwargs, fresh))
        return returned

    def undo(self) -> None:
        """As if none of the work had been done."""
        for tensor, before in reversed(self._before):
            tensor.copy_(before)
        for *_, fresh in self.entries:
            for tensor in fresh:
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
                else:
                    tensor.zero_()


def _line() -> str:
    return linecache.getline(*running(__file__))


def running(watcher: str) -> tuple[str, int]:
    """File and line of the model that is running, beneath torch and the file that watches."""
    frame = sys._getframe()
    ours = (__file__, watcher)
    while frame.f_back is not None and (
        frame.f_code.co_filename in ours or "/torch/" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _each(returned: Any, schema: Any) -> tuple[Any, ...]:
    if len(schema.returns) == 1:
        return (returned,)
    return tuple(returned) if schema.returns else ()


class Recording:
    def __init__(self, log: _Log) -> None:
        self._log = log

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, fresh in self._log.entries:
            again = _tensors(func(*args, **kwargs))
            for kept, tensor in zip(fresh, again, strict=False):
                kept.copy_(tensor)


class Recorder:
    """Records on the CPU.

    Attributes:
        reason: why nothing can be recorded now.
        fail: raised in the middle of the next recording.
        tried: recordings begun.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.fail: BaseException | None = None
        self.tried = 0

    def busy(self) -> str | None:
        return self.reason

    def record(self, function: Callable[[], R]) -> tuple[Recording, R]:
        self.tried += 1
        log = _Log()
        try:
            with log:
                result = function()
                if self.fail is not None:
                    raise self.fail
        finally:
            log.undo()
        return Recording(log), result


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """All steps are captured on the CPU, by this recorder."""
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(tap_ext.steps, "recorder_for", lambda device: recorder)
        yield recorder
