"""What a transformer is called with, and what of it returns from step to step.

A pipeline calls its transformer with the same objects at every step, but for the latents and the
timestep. What follows from those objects (which branch it is, what a graph is to be fed) is found
out once.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext.graphs import flatten, layout, strangers, unpack
from tap_ext.held import held, signature, version_of

__all__ = ["Given", "Pattern"]


@dataclass(frozen=True)
class _Flat:
    """A call's tensors, without those that change, and where these belong."""

    beside: Any
    device: torch.device
    tensors: list[Tensor]
    moving: list[tuple[int, str]]
    rest: Any
    layout: tuple[Any, ...]


class Pattern:
    """What the calls of a branch have in common. Keeps no tensor alive that is not given again.

    Attributes:
        signature: shapes, dtypes, devices and plain values, the timestep's left out.
        conditioning: what tells prompts apart, as ``held`` gives it.
        moving: what latents and timestep look like, by name; empty where they are no tensors, or
            where another argument may change unseen: then no call fits.
        again: whether another call has fitted.
        flat: one call's tensors, by kind of step.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        arguments: dict[str, Any],
        latents: str,
        timestep: str,
        conditioning: Sequence[str],
    ) -> None:
        """Of a call with these arguments, of which ``args`` came by position."""
        rest = {name: value for name, value in arguments.items() if name != timestep}
        self.signature = signature(rest)
        self.conditioning = held([arguments.get(name) for name in conditioning])
        self.moving: dict[str, tuple[Any, ...]] = {}
        self.flat: dict[Any, _Flat] = {}
        self.again = False
        self._names = len(args), list(arguments)
        self._fixed: list[tuple[str, Any]] = []
        self._tensors: list[_Fixed] = []
        moving = [arguments.get(latents), arguments.get(timestep)]
        fixed = {name: unpack(value) for name, value in rest.items() if name != latents}
        found = [tensor for tensors, _ in fixed.values() for tensor in tensors]
        known = not any(True for _, left in fixed.values() for _ in strangers(left))
        known = known and all(map(_is_dense, found))
        if known and all(type(value) is Tensor for value in moving):
            self.moving = {name: _form(arguments[name]) for name in (latents, timestep)}
            self._fixed = [(name, left) for name, (_, left) in fixed.items()]
            self._tensors = [_Fixed(tensor) for tensor in found]

    def fits(self, args: tuple[Any, ...], arguments: dict[str, Any]) -> bool:
        """Whether a call has these very objects, unedited, and latents and a timestep like these.

        False, too, where that cannot be told.
        """
        if not self.moving or (len(args), list(arguments)) != self._names:
            return False
        found: list[Tensor] = []
        for name, left in self._fixed:
            tensors, now = unpack(arguments[name])
            if now != left:
                return False
            found += tensors
        if not all(map(_Fixed.is_still, self._tensors, found)):
            return False
        for name, form in self.moving.items():
            value = arguments[name]
            if type(value) is not Tensor or _form(value) != form:
                return False
        self.again = True
        return True


def _is_dense(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


class _Fixed:
    """A tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)  # of a ControlNet, say, which gives large ones anew
        self._address = tensor.data_ptr()
        self._version = version_of(tensor)

    def is_still(self, now: Tensor) -> bool:
        """Whether ``now`` is that tensor, neither moved nor, as far as that is told, edited."""
        return (
            now is self._tensor()
            and now.data_ptr() == self._address
            and (self._version is None or now._version == self._version)
        )


def _form(value: Tensor) -> tuple[Any, ...]:
    return value.shape, value.dtype, value.device, value.stride(), value.requires_grad


@dataclass(frozen=True)
class Given:
    """What one call was given.

    Attributes:
        args: by position.
        kwargs: by name.
        arguments: all by name.
        pattern: what it shares with others of its branch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arguments: dict[str, Any]
    pattern: Pattern

    @property
    def signature(self) -> Any:
        """Shapes, dtypes, devices and plain values, the timestep's left out."""
        return self.pattern.signature

    def flatten(
        self, kind: Any, beside: dict[str, Any], device: torch.device
    ) -> tuple[list[Tensor], Any, tuple[Any, ...]]:
        """The tensors of ``(args, kwargs, beside)``, out of what holds them.

        Args:
            kind: of the step.
            beside: what the step needs beside its arguments; not edited later on.
            device: where all of them must lie.

        Returns:
            The tensors, the rest as ``join`` takes it, and the tensors' layout.

        Raises:
            Uncapturable: there is what is neither tensor nor plain, or a tensor elsewhere.
        """
        kept = self.pattern.flat.get(kind)
        if kept is None or kept.beside is not beside or kept.device != device:
            value = self.args, self.kwargs, dict(beside)
            tensors, rest = flatten(value, device, "a call of the model")
            if self.pattern.again:
                self._keep(kind, beside, device, tensors, rest)
            return tensors, rest, layout(tensors)
        tensors = kept.tensors.copy()
        for place, name in kept.moving:
            tensors.insert(place, self.arguments[name])
        return tensors, kept.rest, kept.layout

    def _keep(
        self, kind: Any, beside: Any, device: torch.device, tensors: list[Tensor], rest: Any
    ) -> None:
        moving = [
            (place, name)
            for place, tensor in enumerate(tensors)
            for name in self.pattern.moving
            if tensor is self.arguments[name]
        ]
        if len(moving) != 2:  # none does, or one tensor is given twice
            return
        fixed = [t for place, t in enumerate(tensors) if place not in dict(moving)]
        self.pattern.flat[kind] = _Flat(beside, device, fixed, moving, rest, layout(tensors))
