"""What a transformer is called with, and what of it returns from step to step.

A pipeline calls its transformer with the same objects at every step, but for the latents and the
timestep. What follows from those objects (which branch it is, what a graph is to be fed) is found
out once.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tap_ext.graphs import flatten, layout, strangers, unpack
from tap_ext.held import held, signature
from tap_ext.native import Arguments

__all__ = ["Flat", "Given", "Pattern"]


class Flat(NamedTuple):
    """The tensors of a call, out of what holds them, as a recorded function is fed with them.

    Attributes:
        tensors: all of them.
        rest: the rest, as ``join`` takes it.
        key: what calls have in common that the same recording is right for.
        moving: places of the tensors that may be others, or have others' values, than in another
            call with this very key; None: any.
    """

    tensors: list[Tensor]
    rest: Any
    key: Hashable
    moving: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class _Kept:
    """A call's tensors and where those belong that change."""

    beside: Any
    device: torch.device
    flat: Flat
    changing: tuple[tuple[int, str], ...]


class Pattern:
    """What the calls of a branch have in common. Keeps no tensor alive that is not given again.

    Attributes:
        signature: shapes, dtypes, devices and plain values, the timestep's left out.
        conditioning: what tells prompts apart, as ``held`` gives it.
        moving: names of latents and timestep; empty where they are no tensors, or where another
            argument may change unseen: then no call fits.
        again: whether another call has fitted.
        kept: one call's tensors, by kind of step.
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
        self.moving: tuple[str, ...] = ()
        self.kept: dict[Any, _Kept] = {}
        self.again = False
        self._positional = len(args)
        self._nested: list[tuple[str, Any, Arguments | None]] = []
        self._arguments: Arguments | None = None
        moving = {name: arguments.get(name) for name in (latents, timestep)}
        others = {name: value for name, value in rest.items() if name != latents}
        if all(type(value) is Tensor for value in moving.values()):
            self._remember(list(arguments), others, moving)

    def _remember(self, names: list[str], others: dict[str, Any], moving: dict[str, Any]) -> None:
        """Note the arguments, where none may change unseen."""
        plain: dict[str, Any] = {}
        fixed: dict[str, Tensor] = {}
        for name, value in others.items():
            found, left = unpack(value)
            if any(strangers(left)) or not all(map(_is_dense, found)):
                return
            if isinstance(value, Tensor):
                fixed[name] = value
            elif type(value) in (list, tuple, dict) and value:
                inside = dict(enumerate(found))
                tensors = Arguments(list(inside), {}, inside, {}) if inside else None
                self._nested.append((name, left, tensors))
            else:
                plain[name] = copy.copy(value)  # of what is empty now, and may not be for ever
        self._arguments = Arguments(names, plain, fixed, moving)
        self.moving = tuple(moving)

    def fits(self, args: tuple[Any, ...], arguments: dict[str, Any]) -> bool:
        """Whether a call has these very objects, unedited, and latents and a timestep like these.

        False, too, where that cannot be told.
        """
        if self._arguments is None or len(args) != self._positional:
            return False
        if not self._arguments.fit(arguments):
            return False
        for name, left, inside in self._nested:
            found, rest = unpack(arguments[name])
            if rest != left or (inside and not inside.fit(dict(enumerate(found)))):
                return False
        self.again = True
        return True


def _is_dense(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


class Given(NamedTuple):
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

    def flatten(self, kind: Any, beside: dict[str, Any], device: torch.device) -> Flat:
        """The tensors of ``(args, kwargs, beside)``.

        Args:
            kind: of the step.
            beside: what the step needs beside its arguments; not edited later on.
            device: where all of them must lie.

        Raises:
            Uncapturable: there is what is neither tensor nor plain, or a tensor elsewhere.
        """
        kept = self.pattern.kept.get(kind)
        if kept is not None and kept.beside is beside and kept.device == device:
            tensors = kept.flat.tensors.copy()
            for place, name in kept.changing:
                tensors[place] = self.arguments[name]
            return Flat(tensors, *kept.flat[1:])
        value = self.args, self.kwargs, dict(beside)
        tensors, rest = flatten(value, device, "a call of the model")
        flat = Flat(tensors, rest, (kind, rest, layout(tensors)))
        if self.pattern.again:
            self._keep(kind, beside, device, flat)
        return flat

    def _keep(self, kind: Any, beside: Any, device: torch.device, flat: Flat) -> None:
        names = self.pattern.moving
        changing = tuple(
            (place, name)
            for place, tensor in enumerate(flat.tensors)
            for name in names
            if tensor is self.arguments[name]
        )
        if len(changing) != len(names):  # none does, or one tensor is given twice
            return
        tensors: list[Any] = flat.tensors.copy()
        for place, _ in changing:
            tensors[place] = None  # kept by nobody
        places = dict(changing)
        moving = tuple(
            place
            for place, tensor in enumerate(flat.tensors)
            if place in places or tensor.is_inference()  # which may be edited unseen
        )
        self.pattern.kept[kind] = _Kept(
            beside, device, Flat(tensors, flat.rest, flat.key, moving), changing
        )
