"""The inputs of recorded work: tensors that change, at addresses that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Inputs", "Uncapturable", "flatten", "join", "joiner", "layout", "strangers", "unpack"]

PLAIN = frozenset((type(None), bool, int, float, complex, str, torch.dtype, torch.device))


class Uncapturable(RuntimeError):
    """Recorded work could not be right; the message says why."""


class _Place:
    """Marks where a tensor was."""


def flatten(value: Any, device: torch.device, what: str) -> tuple[list[Tensor], Any]:
    """Take the tensors out of nested lists, tuples and dicts.

    Args:
        value: what holds them.
        device: where all of them must lie.
        what: its name, for messages.

    Returns:
        The tensors, and everything else, to be compared and for ``join``.

    Raises:
        Uncapturable: it holds what is neither tensor nor plain, or a tensor elsewhere.
    """
    found, rest = unpack(value)
    for tensor in found:
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Uncapturable(f"{what} holds a {type(tensor).__name__}")
        if tensor.device != device:
            raise Uncapturable(f"{what} holds a tensor on {tensor.device}, beside {device}")
    for kind in strangers(rest):
        raise Uncapturable(f"{what} holds a {kind.__name__}")
    return found, rest


def unpack(value: Any) -> tuple[list[Tensor], Any]:
    """Take the tensors out of nested lists, tuples and dicts, whatever else these hold."""
    found: list[Tensor] = []
    return found, _take(value, found)


def _take(value: Any, found: list[Tensor]) -> Any:
    """``(type, content)``, for every value and those inside it."""
    kind = type(value)
    if isinstance(value, Tensor):
        found.append(value)
        return _Place, None
    if kind is tuple or kind is list:
        return kind, tuple([_take(item, found) for item in value])
    if kind is dict:
        return kind, tuple([(key, _take(item, found)) for key, item in value.items()])
    return kind, value


def strangers(rest: Any) -> Iterator[type]:
    """The types in what ``unpack`` left that are not known to be plain."""
    kind, content = rest
    if kind is tuple or kind is list:
        for item in content:
            yield from strangers(item)
    elif kind is dict:
        for _, item in content:
            yield from strangers(item)
    elif kind is not _Place and kind not in PLAIN:
        yield kind


def join(tensors: Sequence[Tensor], rest: Any) -> Any:
    """Put tensors back where ``flatten`` found them."""
    return joiner(rest)(iter(tensors))


def joiner(rest: Any) -> Callable[[Iterator[Tensor]], Any]:
    """What puts tensors, one after the other, back where ``flatten`` found them."""
    kind, content = rest
    if kind is _Place:
        return next
    if kind is tuple or kind is list:
        items = [joiner(item) for item in content]
        return lambda tensors: kind([item(tensors) for item in items])
    if kind is dict:
        named = [(key, joiner(item)) for key, item in content]
        return lambda tensors: {key: item(tensors) for key, item in named}
    return lambda tensors: content


def layout(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What recorded work takes for granted of its inputs."""
    return tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)


class Inputs:
    """Copies of tensors at fixed addresses.

    Attributes:
        tensors: the copies.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        """Room for tensors like these."""
        with torch.inference_mode(False):
            self.tensors = [torch.empty_like(tensor) for tensor in given]
        self._loaded: list[tuple[Tensor, int, int] | None] = [None] * len(given)

    def load(self, given: Sequence[Tensor], places: Sequence[int] | None = None) -> None:
        """Copy what is not known to be there already.

        Args:
            given: tensors like those that there is room for.
            places: of those to copy; the others are there. None: find out.
        """
        if places is not None:
            for place in places:
                self.tensors[place].copy_(given[place])
                self._loaded[place] = None
            return
        for place, (kept, tensor) in enumerate(zip(self.tensors, given, strict=True)):
            if tensor.is_inference():  # no version tells whether it was edited
                kept.copy_(tensor)
                continue
            now = tensor, tensor._version, tensor.data_ptr()
            loaded = self._loaded[place]
            if loaded is None or loaded[0] is not tensor or loaded[1:] != now[1:]:
                kept.copy_(tensor)
                self._loaded[place] = now  # held, so that it cannot become another one
