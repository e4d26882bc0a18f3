"""What a recording of a model takes for granted, and would miss."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tap_ext.graphs.inputs import unpack
from tap_ext.locks import Lock
from tap_ext.native import Seen

__all__ = ["Parts", "hooked"]

ADAPTER = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
"""Plain values of a LoRA layer that its forward reads."""


class _Listing:
    """Modules as they were when they were listed."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """As they are now."""
        self.modules = modules  # held: another could get the place of one that is gone
        self._own = [module.__dict__ for module in modules]
        self._special = [own for own in self._own if not own.keys().isdisjoint(_SPECIAL)]
        self._settings = list(map(_settings, self._special))
        self._address: Callable[[Tensor], int] = Tensor.data_ptr
        self._seen = Seen()
        self._changes = self._look()

    def stands(self) -> bool:
        """Whether they are still as they were."""
        if self._look() != self._changes:
            return False
        return not self._special or list(map(_settings, self._special)) == self._settings

    def _look(self) -> int:
        try:
            return self._seen.look(self._own, self._address)
        except RuntimeError:  # of quantised weights, say, whose parts lie somewhere
            self._address = _known_address
            return self._seen.look(self._own, self._address)


class Parts:
    """The modules of recordings, listed once, and again when one of them has changed.

    They are looked at before every replay. At first these are all that may be called; of those,
    ``narrowed`` leaves what a recording was made of.
    """

    def __init__(self, walk: Callable[[], Iterable[nn.Module]]) -> None:
        """The modules that ``walk`` gives, each before those inside it."""
        self._walk = walk
        self._listing: _Listing | None = None
        self._touched: frozenset[int] = frozenset()
        self._version = 0
        self._lock = Lock()

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules as they are now."""
        return iter(self._walk())

    def version(self) -> int:
        """What changes with the parts there are, where their weights lie, and their adapters.

        A recording reads weights by address: edited in place they are seen, moved they are not.
        """
        if self._listing is None or not self._listing.stands():
            with self._lock:
                self._version += 1  # first: another thread must not see the new listing alone
                self._touched = frozenset()
                self._listing = _Listing(list(self._walk()))
        return self._version

    @contextlib.contextmanager
    def narrowed(self) -> Iterator[None]:
        """Around a recording: from then on only what it or one before touched is looked at.

        Where anything changes meanwhile, the version does.
        """
        modules = list(self._walk())
        whole = _Listing(modules)
        with touched() as found:
            yield
        with self._lock:
            if not whole.stands():
                self._listing = None
                return
            self._touched |= found
            self._listing = _Listing(_with_holders(modules, self._touched))


def _with_holders(modules: list[nn.Module], touched: AbstractSet[int]) -> list[nn.Module]:
    """Those of the modules, each before those inside it, that are touched or hold one that is."""
    kept: dict[int, nn.Module] = {}
    for module in reversed(modules):
        children = module._modules.values()
        tensors = (*module._parameters.values(), *module._buffers.values())
        reads = id(module) in touched or any(id(tensor) in touched for tensor in tensors)
        if reads or any(id(child) in kept for child in children):
            kept[id(module)] = module
    return list(reversed(kept.values()))


@contextlib.contextmanager
def touched() -> Iterator[set[int]]:
    """What this thread does meanwhile: ids of modules it calls and of tensors it computes with."""
    found: set[int] = set()
    me = threading.get_ident()

    def called(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == me:
            found.add(id(module))

    handle = nn.modules.module.register_module_forward_pre_hook(called)
    try:
        with _Reading(found):
            yield found
    finally:
        handle.remove()


class _Reading(TorchFunctionMode):
    """Notes the tensors that functions are called with."""

    def __init__(self, found: set[int]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note them, then call."""
        self._found.update(map(id, unpack((args, kwargs))[0]))
        return func(*args, **(kwargs or {}))


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
