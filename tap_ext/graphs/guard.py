"""What a recording of a model takes for granted, and would miss."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

__all__ = ["Parts", "hooked"]

ADAPTER = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
"""Plain values of a LoRA layer that its forward reads."""


_LOOK = operator.itemgetter(
    "_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "training"
)


class Parts:
    """The modules of a recording, listed once, and again when one of them has other children.

    They are looked at before every replay, which a slow host would spoil: so in few and large
    sweeps rather than module by module.
    """

    def __init__(self, walk: Callable[[], Iterable[nn.Module]]) -> None:
        """The modules that ``walk`` gives."""
        self._walk = walk
        self._modules: list[nn.Module] = []  # held: another could get the place of one that is gone
        self._own: list[dict[str, Any]] = []
        self._special: list[dict[str, Any]] = []
        self._children: list[int] = []
        self._size = -1

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules as they are now."""
        return iter(self._walk())

    def fingerprint(self) -> tuple[Any, ...]:
        """Which parts there are, where their weights lie, and how their adapters are set.

        A recording reads weights by address: edited in place they are seen, moved they are not.
        """
        children, *columns = self._look()
        if children != self._children or sum(map(len, self._own)) != self._size:
            self._list()
            self._children, *columns = self._look()
        parameters, buffers, hooks, before, training = columns
        tensors = [*filter(_there, _joined(parameters)), *filter(_there, _joined(buffers))]
        try:
            addresses = [*map(Tensor.data_ptr, tensors)]  # 0 on meta
        except RuntimeError:  # quantised ones, say, whose parts lie somewhere
            addresses = [t.data_ptr() if type(t) in _PLAIN else 0 for t in tensors]
        return (
            self._size,  # of a forward that was patched, the count of attributes tells
            *self._children,
            *map(id, tensors),
            *addresses,
            *training,
            *map(bool, hooks),
            *map(bool, before),
            *map(_settings, self._special),
        )

    def _look(self) -> tuple[Any, ...]:
        """The children, and what else may change, of all parts."""
        if not self._own:
            return [], (), (), (), (), ()
        modules, *others = zip(*map(_LOOK, self._own), strict=True)
        return [*map(id, _joined(modules))], *others

    def _list(self) -> None:
        self._modules = list(self._walk())
        self._own = [module.__dict__ for module in self._modules]
        self._special = [own for own in self._own if not own.keys().isdisjoint(_SPECIAL)]
        self._size = sum(map(len, self._own))


_PLAIN = (Tensor, nn.Parameter)
_SPECIAL = frozenset(("_hf_hook", "_diffusers_hook", "scaling"))


def _settings(own: dict[str, Any]) -> tuple[Any, ...]:
    adapter = tuple(str(own.get(name)) for name in ADAPTER) if "scaling" in own else ()
    return _calls_more(own), adapter


def _joined(dicts: Iterable[dict[str, Any]]) -> Iterator[Any]:
    return chain.from_iterable(map(dict.values, dicts))


_there = functools.partial(operator.is_not, None)


def hooked(modules: Iterable[nn.Module]) -> str | None:
    """Why these modules do more at a call than a recording could hold; None: they do not.

    Hooks run on the host: they move weights (offloading), cast them, or belong to the user; a
    replay calls none. What captures its own graphs cannot be captured in another.
    """
    for module in modules:
        if _calls_more(module.__dict__):
            return f"{type(module).__name__} has hooks, which a replay would not call"
        if _records_itself(module):
            return f"{type(module).__name__} is compiled into CUDA graphs of its own"
    return None


def _records_itself(module: nn.Module) -> bool:
    """Whether inductor was asked to capture it, as with ``mode="reduce-overhead"``."""
    compiled = module.__dict__.get("_compiled_call_impl")
    config = getattr(compiled, "get_compiler_config", lambda: None)()
    return isinstance(config, dict) and bool(config.get("triton.cudagraphs"))


def _calls_more(own: dict[str, Any]) -> bool:
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"]
    registry = own.get("_diffusers_hook")
    return bool(
        hooks or own.get("_hf_hook") or (registry is not None and getattr(registry, "hooks", True))
    )
