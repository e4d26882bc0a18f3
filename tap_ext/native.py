"""Looks at Python's objects before every replay: by ``tap_ext._core``, else the same in Python.

A wheel has ``_core`` for some versions of Python only; without it these take ten times the time.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tap_ext.held import version_of

__all__ = ["Arguments", "ArgumentsPlainly", "Seen", "SeenPlainly", "environment"]

AROUND = ("forward", "_old_forward", "_compiled_call_impl", "_hf_hook", "_diffusers_hook")
"""Attributes of what stands around a module's forward; it may come and go."""


class SeenPlainly:
    """Counts how often modules were found other than at the last look."""

    def __init__(self) -> None:
        """Nothing was looked at."""
        self._seen: Any = []
        self._changes = 0

    def look(self, own: list[dict[str, Any]], address: Callable[[Tensor], int] | None) -> int:
        """The count after one look at modules, given by their ``__dict__``.

        Args:
            own: what is looked at: children, which tensors, how many attributes, hooks and mode.
            address: tells where a tensor lies; None: instead of all this, children and every
                attribute count, but for what stands around the forward.
        """
        now = [_read(module, address) for module in own]
        if now != self._seen:
            self._seen, self._changes = now, self._changes + 1
        return self._changes


def _read(own: dict[str, Any], address: Callable[[Tensor], int] | None) -> tuple[Any, ...]:
    children = [id(module) for module in own["_modules"].values()]
    if address is None:
        return children, [id(value) for name, value in own.items() if name not in AROUND]
    tensors = [list(own[name].values()) for name in ("_parameters", "_buffers")]
    return (
        children,
        own["training"],
        [[(id(t), None if t is None else address(t)) for t in group] for group in tensors],
        len(own),  # of a forward that was patched, the count of attributes tells
        bool(own["_forward_hooks"]),
        bool(own["_forward_pre_hooks"]),
    )


class ArgumentsPlainly:
    """The arguments of a call, to tell whether another has the same."""

    def __init__(
        self,
        names: list[Any],
        plain: dict[Any, Any],
        fixed: dict[Any, Tensor],
        moving: dict[Any, Tensor],
    ) -> None:
        """Remember them, and no tensor.

        Args:
            names: of all arguments, in order.
            plain: those that are to be of the same type, and equal.
            fixed: those that are to be the very same tensors, neither moved nor, as far as that is
                told (an inference tensor tells nothing), edited.
            moving: those that are to be tensors like these.
        """
        self._names = names
        self._plain = plain
        self._fixed = {name: _Fixed(tensor) for name, tensor in fixed.items()}
        self._moving = {name: (type(tensor), _form(tensor)) for name, tensor in moving.items()}

    def fit(self, arguments: dict[Any, Any]) -> bool:
        """Whether a call's are the same, those apart that were named and nothing else."""
        if list(arguments) != self._names:
            return False
        for name, value in self._plain.items():
            now = arguments[name]
            if now is not value and (type(now) is not type(value) or now != value):
                return False
        for name, (kind, form) in self._moving.items():
            now = arguments[name]
            if type(now) is not kind or _form(now) != form:
                return False
        return all(fixed.is_still(arguments[name]) for name, fixed in self._fixed.items())


class _Fixed:
    """A tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)  # of a ControlNet, say, which gives large ones anew
        self._address = tensor.data_ptr()
        self._version = version_of(tensor)

    def is_still(self, now: Any) -> bool:
        tensor = self._tensor()
        return (
            tensor is not None
            and now is tensor
            and tensor.data_ptr() == self._address
            and (self._version is None or tensor._version == self._version)
        )


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.stride(), tensor.requires_grad


try:
    from tap_ext._core import Arguments, Seen, environment
except ImportError:  # it was not built
    Arguments = ArgumentsPlainly  # type: ignore[assignment, misc]
    Seen = SeenPlainly  # type: ignore[assignment, misc]
    environment = os.environ.get  # type: ignore[assignment]
