"""A device that is nowhere: its tensors have shapes and no values.

What mixes its tensors with the host's, copies from there, or waits for a value is noticed as on a
GPU, where among tensors of the CPU it would pass.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tap_ext.engine
from tests.graphs.recorder import running

DEVICE = torch.device("privateuseone:0")

Waits = (DataDependentOutputException, DynamicOutputShapeException)
"""Raised where a value is waited for, or a shape that depends on values."""


class Nowhere:
    """The device.

    Attributes:
        mode: entered where its tensors are computed with.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def put(self, value: Any) -> Any:
        """``value`` with every tensor there, inside lists, dicts and plain objects too."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self.put(item) for item in value)
        if isinstance(value, dict):
            return {key: self.put(item) for key, item in value.items()}
        if not hasattr(value, "__dict__"):
            return value
        value = copy.copy(value)
        vars(value).update(self.put(vars(value)))
        return value

    def move(self, model: nn.Module) -> None:
        """Move a model's parameters and buffers."""
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(self._tensor(parameter), False)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else self._tensor(buffer)

    def _tensor(self, tensor: Tensor) -> FakeTensor:
        with torch.no_grad():
            return FakeTensor(self.mode, tensor.detach().to("meta"), DEVICE)


@contextmanager
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nowhere]:
    """The device; calls of models with its tensors are accelerated like any."""
    module = types.ModuleType(DEVICE.type)
    vars(module)["get_amp_supported_dtype"] = lambda: [torch.bfloat16, torch.float16]
    _register_guard()
    with monkeypatch.context() as patch:
        patch.setattr(torch, DEVICE.type, module, raising=False)
        patch.setattr(tap_ext.engine, "_holds_nothing", lambda latents: False)
        yield Nowhere()


_guards: list[Any] = []


def _register_guard() -> None:
    """Let torch make it the current device, which is nothing to do."""
    if _guards:
        return

    class Guard(torch._C._acc.DeviceGuard):  # type: ignore[misc, name-defined]
        def type_(self) -> Any:
            return torch._C._autograd.DeviceType.PrivateUse1

    _guards.append(Guard())
    torch._C._acc.register_python_privateuseone_device_guard(_guards[0])


class Obstacles(TorchDispatchMode):
    """What no graph could hold and yet does not raise.

    That is work on tensors of both host and device, be it a copy or a number of the host that a
    replay would not see change, and what waits without asking for a value.

    Attributes:
        lines: where it happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        waits = func._schema.name == "aten::_linalg_check_errors" or _masks(func._schema.name, args)
        if waits or _crosses((args, kwargs, returned)):
            self.lines.append("{}:{}".format(*running(__file__)))
        return returned


def _crosses(values: Any) -> bool:
    """Whether tensors lie on both."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.numel()]
    return len({tensor.device.type for tensor in tensors}) > 1


def _masks(name: str, args: Any) -> bool:
    """Whether values are put where a mask says, for which a device counts its places."""
    if not name.startswith("aten::index_put") or args[2].numel() == 1:
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])
