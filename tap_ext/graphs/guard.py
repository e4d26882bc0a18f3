"""What a recording of a model takes for granted, and would miss."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

__all__ = ["Parts", "hooked"]

ADAPTER = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
"""Plain values of a LoRA layer that its forward reads."""


_READ = operator.itemgetter(
    "_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "training"
)


def look_plainly(
    own: list[dict[str, Any]], address: Callable[[Tensor], int]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a replay takes for granted of modules, given by their ``__dict__``.

    Returns:
        Their children, and all else, both to be compared with what was returned before.
    """
    modules, parameters, buffers, hooks, before, training = zip(*map(_READ, own), strict=True)
    tensors = [*_joined(parameters), *_joined(buffers)]
    return tuple(map(id, _joined(modules))), (
        *map(len, own),  # of a forward that was patched, the count of attributes tells
        *map(len, parameters),
        *map(len, buffers),
        *map(id, tensors),
        *[0 if tensor is None else address(tensor) for tensor in tensors],
        *training,
        *map(bool, hooks),
        *map(bool, before),
    )


def _joined(dicts: Iterable[dict[str, Any]]) -> Iterator[Any]:
    return chain.from_iterable(map(dict.values, dicts))


try:
    from tap_ext._core import look
except ImportError:  # it was not built: the same, in five times the time
    look = look_plainly  # type: ignore[assignment]


class Parts:
    """The modules of a recording, listed once, and again when one of them has changed.

    They are looked at before every replay, by ``tap_ext._core`` where that was built.
    """

    def __init__(self, walk: Callable[[], Iterable[nn.Module]]) -> None:
        """The modules that ``walk`` gives."""
        self._walk = walk
        self._modules: list[nn.Module] = []  # held: another could get the place of one that is gone
        self._own: list[dict[str, Any]] = []
        self._special: list[dict[str, Any]] = []
        self._address: Callable[[Tensor], int] = Tensor.data_ptr
        self._seen: Any = None

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules as they are now."""
        return iter(self._walk())

    def fingerprint(self) -> tuple[Any, ...]:
        """Which parts there are, where their weights lie, and how their adapters are set.

        A recording reads weights by address: edited in place they are seen, moved they are not.
        """
        seen = self._look() if self._own else None
        if seen is None or seen != self._seen:
            self._list()
            seen = self._seen = self._look()
        return (*seen, *map(_settings, self._special))

    def _look(self) -> tuple[Any, Any]:
        try:
            return look(self._own, self._address)
        except RuntimeError:  # of quantised weights, say, whose parts lie somewhere
            self._address = _known_address
            return look(self._own, self._address)

    def _list(self) -> None:
        self._modules = list(self._walk())
        self._own = [module.__dict__ for module in self._modules]
        self._special = [own for own in self._own if not own.keys().isdisjoint(_SPECIAL)]


def _known_address(tensor: Tensor) -> int:
    return tensor.data_ptr() if type(tensor) in _PLAIN else 0


_PLAIN = (Tensor, nn.Parameter)
_SPECIAL = frozenset(("_hf_hook", "_diffusers_hook", "scaling"))


def _settings(own: dict[str, Any]) -> tuple[Any, ...]:
    adapter = tuple(str(own.get(name)) for name in ADAPTER) if "scaling" in own else ()
    return _calls_more(own), adapter


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
