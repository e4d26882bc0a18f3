"""One call of a view: what it reads out of the model, and what it puts back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tap_ext.backbones.spec import BackboneSpec
from tap_ext.modulation import Modulation
from tap_ext.views.graft import AdapterError
from tap_ext.views.offloading import fetch_tables

__all__ = ["Call", "Forecast", "Passage", "current_call", "run_view", "tensors"]

Forecast = Callable[[int, Tensor, Any], Tensor]
"""``(stream, hidden, probe) -> output``, all (..., n, D): what replaces a head's input. The probe
may be a ``Modulation`` where a call allows it."""


@dataclass
class Passage:
    """One stream on its way through the model.

    Attributes:
        hidden: (..., N, D), what entered the first block.
        probe: (..., N, Dp), its probe; None where ``modulation`` stands for it.
        modulation: what makes the probe of the hidden state; None: it was not asked for.
        output: (..., n, D), what reached the head, before any replacement.
        take: which of the N tokens those n are; None: not known yet.
        nudge: (..., N, D), added to the hidden state where a skip view's first block stood.
    """

    hidden: Tensor | None = None
    probe: Tensor | None = None
    modulation: Modulation | None = None
    output: Tensor | None = None
    take: slice | None = None
    nudge: Tensor | None = None

    @property
    def used(self) -> bool:
        """Whether the stream was there in this call, from the first block to its head."""
        return self.hidden is not None and self.output is not None

    def taken(self, feature: Tensor | None) -> Tensor:
        """The tokens of a (..., N, D) feature that the head is given, as a view."""
        assert feature is not None and self.take is not None
        return feature[..., self.take, :]


@dataclass
class Call:
    """One call of a view.

    Attributes:
        passages: one per stream of the spec.
        forecast: what replaces the heads' hidden input on a skip step; None on a full step.
        want_probe: compute the modulated probe (otherwise the hidden state serves as one).
        unwritten: what makes a probe will do for it, where the family's norm allows.
        idle: outputs of each idle module, by path, in order: written on a full step, read on a
            skip step.
        visited: paths of the blocks that were called, in order.
        awake: run the idle modules on a skip step, too.
    """

    passages: tuple[Passage, ...]
    forecast: Forecast | None = None
    want_probe: bool = True
    idle: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    visited: list[str] = field(default_factory=list)
    awake: bool = False
    unwritten: bool = False
    _read: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @classmethod
    def full(
        cls,
        spec: BackboneSpec,
        takes: tuple[slice | None, ...] = (),
        *,
        want_probe: bool = True,
    ) -> Call:
        """A call of the full view; ``takes`` is what an earlier one found out."""
        known = takes or (None,) * len(spec.streams)
        return cls(tuple(Passage(take=take) for take in known), want_probe=want_probe)

    def skip(self, forecast: Forecast) -> Call:
        """A call of the skip view that follows this full one."""
        return self.after(self.takes, self.idle, forecast, want_probe=self.want_probe)

    @classmethod
    def after(
        cls,
        takes: tuple[slice | None, ...],
        idle: dict[str, list[Any]],
        forecast: Forecast,
        *,
        want_probe: bool = True,
        unwritten: bool = False,
    ) -> Call:
        """A call of the skip view, from what a full one left."""
        passages = tuple(Passage(take=take) for take in takes)
        return cls(passages, forecast, want_probe, idle, unwritten=unwritten)

    @property
    def takes(self) -> tuple[slice | None, ...]:
        """Which tokens the heads are given, per stream."""
        return tuple(passage.take for passage in self.passages)

    @property
    def located(self) -> bool:
        """Whether it is known of every stream which of its tokens the head is given."""
        return all(p.take is not None for p in self.passages if p.used)

    def remembered(self, path: str) -> Any:
        """The next output that an idle module gave on the full step.

        Raises:
            AdapterError: it was called less often then.
        """
        outputs, position = self.idle.get(path, ()), self._read[path]
        if position == len(outputs):
            raise AdapterError(f"{path!r} was called {position} times on the full step")
        self._read[path] += 1
        return outputs[position]


_call: ContextVar[Call] = ContextVar("tap_ext_call")

current_call = _call.get


def run_view(view: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a view's own forward, without the hooks of its root: those ran around the model's.

    The caller's lists and dicts are copied: some models pop from what they are given.
    """
    fetch_tables()
    token = _call.set(call)
    try:
        given = [_copied(value) for value in args]
        named = {name: _copied(value) for name, value in kwargs.items()}
        return type(view).forward(view, *given, **named)
    finally:
        _call.reset(token)


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (list, dict) else value


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what a model takes or returns, through lists, tuples and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in tensors(item)]
