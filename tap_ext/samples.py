"""What of a model's output goes to a sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["put", "taken"]


def taken(output: Any, count: int) -> list[Tensor]:
    """The samples in what a model returned.

    Args:
        output: a tensor or a list of them, alone, in a tuple or in what diffusers' models return.
        count: how many of the first things in it are samples; others, as caches of keys and
            values, are no predictions.
    """
    if type(output) is tuple:
        return list(_leaves(list(output[:count])))
    if (names := _fields(output)) is not None:
        return list(_leaves([getattr(output, name) for name in names[:count]]))
    return list(_leaves(output))


def put(output: Any, count: int, samples: Sequence[Tensor]) -> Any:
    """``output`` with these in the places where ``taken`` found its samples."""
    left = iter(samples)
    if type(output) is tuple:
        return (*[_put(value, left) for value in output[:count]], *output[count:])
    if (names := _fields(output)) is not None:
        found = {name: _put(getattr(output, name), left) for name in names[:count]}
        return dataclasses.replace(output, **found)
    return _put(output, left)


def _fields(output: Any) -> list[str] | None:
    if not isinstance(output, Mapping) or not dataclasses.is_dataclass(output):
        return None
    return [field.name for field in dataclasses.fields(output)]


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) is list:
        for item in value:
            yield from _leaves(item)


def _put(value: Any, left: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(left)
    return [_put(item, left) for item in value] if type(value) is list else value
