"""Compiling the blocks of a transformer, whose whole cannot be one graph.

What is decided from call to call has no place in compiled code: a model that was compiled as a
whole breaks at every decision, and fails where breaks are forbidden (``fullgraph=True``). Its
blocks do nearly all of the work, and each kind of them is one graph.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

__all__ = ["Compilation"]

Compiler = Callable[[Callable[..., Any]], Any]
"""What ``torch.compile`` made of its settings: compiles one function."""


class Compilation:
    """What is compiled of one transformer while it is accelerated.

    Attributes:
        instead: whether blocks are compiled because the user had compiled the whole.
    """

    def __init__(self) -> None:
        """Nothing is."""
        self.instead = False
        self._compiler: Compiler | None = None
        self._blocks: list[nn.Module] = []
        self._undo: list[Callable[[], None]] = []

    def set_aside(self, module: nn.Module) -> bool:
        """Let a transformer that was compiled as a whole be called as it is, until ``release``.

        Args:
            module: the transformer, or ``torch.compile``'s wrapper around it.

        Returns:
            Whether it had been compiled. Its blocks are then compiled with the same settings by
            ``apply``, and anew where that was done with others.
        """
        found = self._in_wrapper(module) or self._in_module(module)
        if found:
            self._release_blocks()
            self.instead = True
        return found

    def _in_wrapper(self, module: nn.Module) -> bool:
        inner = module.__dict__.get("_modules", {}).get("_orig_mod")
        forward = module.__dict__.get("forward")
        if inner is None or not hasattr(forward, "_torchdynamo_orig_callable"):
            return False
        from torch._dynamo.eval_frame import OptimizeContext  # late: it takes a second to import

        context = module.__dict__.get("dynamo_ctx")
        if not isinstance(context, OptimizeContext):  # torch.compiler.disable has wrappers, too
            return False
        self._compiler = context
        self._undo.append(functools.partial(setattr, module, "forward", forward))
        module.forward = inner.__call__
        return True

    def _in_module(self, module: nn.Module) -> bool:
        compiled = module.__dict__.get("_compiled_call_impl")
        if compiled is None:
            return False
        context = inspect.getclosurevars(compiled).nonlocals.get("self")
        self._compiler = context if callable(context) else None
        self._undo.append(functools.partial(setattr, module, "_compiled_call_impl", compiled))
        module._compiled_call_impl = None
        return True

    def apply(self, blocks: Sequence[nn.Module], *, asked: bool) -> None:
        """Compile those of these blocks that nobody has compiled, or undo that.

        Args:
            blocks: the main blocks.
            asked: whether the configuration says so.
        """
        if not asked and not self.instead:
            self._release_blocks()
            return
        for block in blocks:
            if block._compiled_call_impl is not None:
                continue
            if self._compiler is None:
                block.compile()
            else:
                block._compiled_call_impl = self._compiler(block._call_impl)
            self._blocks.append(block)

    def release(self) -> None:
        """Bring everything back as it was."""
        self._release_blocks()
        for undo in self._undo:  # in order: where the user compiled twice, the last one stays
            undo()
        self._undo.clear()
        self._compiler = None
        self.instead = False

    def _release_blocks(self) -> None:
        for block in self._blocks:
            block._compiled_call_impl = None
        self._blocks.clear()
