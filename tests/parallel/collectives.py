"""Counts what is said between ranks, call by call of a model."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

SAYING = {"c10d", "_c10d_functional", "c10d_functional"}
BESIDES = ("wait_tensor", "_wrap_tensor_autograd")
"""Ops of those namespaces in which nothing is said."""


class Collectives(TorchDispatchMode):
    """The collectives of each call of ``model``: all of them, and those outside its blocks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.all: list[Counter[str]] = []
        self.outside: list[Counter[str]] = []
        self._within = 0
        self._hooks = [model.register_forward_pre_hook(self._begin)]
        lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
        for block in (block for blocks in lists for block in blocks):
            self._hooks.append(block.register_forward_pre_hook(lambda *_: self._go(1)))
            self._hooks.append(block.register_forward_hook(lambda *_: self._go(-1)))

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _begin(self, *_: Any) -> None:
        self.all.append(Counter())
        self.outside.append(Counter())

    def _go(self, way: int) -> None:
        self._within += way

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace in SAYING and op.__name__.split(".")[0] not in BESIDES:
            self.all[-1][op.__name__] += 1
            self.outside[-1][op.__name__] += not self._within
        return op(*args, **(kwargs or {}))
