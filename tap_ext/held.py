"""Values in forms to keep and to compare: conditioning as it was, and what must not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Held", "held", "same", "same_or_copy", "signature", "version_of"]


@dataclass(frozen=True, eq=False)
class Held:
    """A conditioning tensor as it was: holding it keeps its memory from being used again."""

    tensor: Tensor
    version: int | None

    def is_same(self, other: Held) -> bool:
        """Whether both are the same memory, laid out alike and not edited in between."""
        left, right = self.tensor, other.tensor
        if left is right:
            return self.version == other.version
        return (
            self.version == other.version
            and left.data_ptr() == right.data_ptr()
            and left.stride() == right.stride()
            and signature(left) == signature(right)
        )

    def is_copy(self, other: Held) -> bool:
        """Whether both hold the same values in different memory. Reads the device."""
        left, right = self.tensor, other.tensor
        return (
            self.version == version_of(left)
            and left.data_ptr() != right.data_ptr()
            and signature(left) == signature(right)
            and torch.equal(left, right)
        )


def held(value: Any) -> Any:
    """Conditioning in a form to keep and compare: every tensor ``Held``."""
    if isinstance(value, Mapping):
        return tuple((key, held(value[key])) for key in sorted(value, key=str))
    if isinstance(value, (list, tuple)):
        return tuple(held(item) for item in value)
    return Held(value, version_of(value)) if isinstance(value, Tensor) else value


def version_of(tensor: Tensor) -> int | None:
    """What an edit in place changes; None of an inference tensor, which has none."""
    return None if tensor.is_inference() else tensor._version


def same(left: Any, right: Any) -> bool:
    """Whether two held values are plainly equal, and their tensors the same memory, unedited."""
    return left is right or _alike(left, right, Held.is_same)


def same_or_copy(left: Any, right: Any) -> bool:
    """Whether their tensors are at least equal. Reads the device where one was copied."""
    return _alike(left, right, _same_or_copy)


def _alike(left: Any, right: Any, compare: Callable[[Held, Held], bool]) -> bool:
    """Whether two held values agree in structure, in plain values and, by ``compare``, tensors."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(_alike(a, b, compare) for a, b in pairs)
    if isinstance(left, Held) and isinstance(right, Held):
        return compare(left, right)
    return type(left) is type(right) and bool(left == right)


def _same_or_copy(left: Held, right: Held) -> bool:
    return left.is_same(right) or left.is_copy(right)


def signature(value: Any) -> Any:
    """What must not change within a run: tensors by shape, dtype and device, the rest by value."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    if isinstance(value, Mapping):
        return tuple((key, signature(value[key])) for key in sorted(value, key=str))
    if isinstance(value, (list, tuple)):
        return tuple(signature(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return value
    return id(value)
