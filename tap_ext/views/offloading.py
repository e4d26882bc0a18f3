"""Weights that hooks fetch before a module's call and put away after it."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

__all__ = ["fetch_tables", "fetched", "prefetch_refusal", "tables_of"]


@contextlib.contextmanager
def fetched(module: nn.Module) -> Iterator[None]:
    """Around a use of a module's parts that is no call of it, as that of its first norm.

    A module inside has no hook of its own where accelerate or diffusers offload in larger pieces;
    nor has a parameter of the module itself.
    """
    hook, group = module.__dict__.get("_hf_hook"), _group(module)
    if hook is not None:
        hook.pre_forward(module)
    if group is not None:  # not by its hook, which would begin to fetch the next one
        _fetch(group)
    try:
        yield
    finally:
        if group is not None:
            group.offload_()
        if hook is not None:
            hook.post_forward(module, None)


def prefetch_refusal(model: nn.Module) -> str | None:
    """Why a model whose weights are prefetched on a stream cannot skip steps; None: it can."""
    prefetched = _prefetched(model)
    if prefetched and _diffusers() < (0, 37):
        return (
            "diffusers before 0.37 prefetches weights in the order of the first step alone; "
            "offload without use_stream"
        )
    return None


@contextlib.contextmanager
def tables_of(model: nn.Module) -> Iterator[None]:
    """Around a call of the model: ``fetch_tables`` knows what is to be fetched."""
    token = _tables.set([group for group in _prefetched(model) if not _parameters(group)])
    try:
        yield
    finally:
        _tables.reset(token)


def fetch_tables() -> None:
    """Before a pass through a view: fetch groups of buffers alone that are prefetched.

    diffusers prefetches in the order of calls that it saw in the first step, and there is another
    one on skip steps. Weights that are missing then are fetched when their module is called, but a
    group without any, as a table of positions, is not.
    """
    for group in _tables.get():
        _fetch(group)


_tables: ContextVar[Sequence[Any]] = ContextVar("tap_ext_tables", default=())

_known: weakref.WeakKeyDictionary[Any, list[weakref.ref[Any]]] = weakref.WeakKeyDictionary()
"""What is prefetched, by the hook of the root, which is another one each time it is offloaded.
Groups know their modules, so they must not be kept here."""


def _prefetched(model: nn.Module) -> list[Any]:
    hook = _hook(model)
    if hook is None:
        return []
    if hook not in _known:
        groups = {id(group): group for module in model.modules() if (group := _group(module))}
        streamed = (group for group in groups.values() if group.stream is not None)
        _known[hook] = list(map(weakref.ref, streamed))
    return [group for known in _known[hook] if (group := known()) is not None]


def _diffusers() -> tuple[int, ...]:
    return tuple(map(int, sys.modules["diffusers"].__version__.split(".")[:2]))


def _hook(module: nn.Module) -> Any:
    """The hook by which diffusers offloads groups; None: there is none."""
    hooks = getattr(module.__dict__.get("_diffusers_hook"), "hooks", {})
    return hooks.get("group_offloading")


def _group(module: nn.Module) -> Any:
    """What diffusers offloads together with a module, which leads it; None: nothing."""
    return getattr(_hook(module), "group", None)


def _fetch(group: Any) -> None:
    tensors = (*_parameters(group), *_buffers(group))
    if any(tensor.device == group.offload_device for tensor in tensors):
        group.onload_()
    if group.stream is not None:
        group.stream.synchronize()


def _parameters(group: Any) -> list[Tensor]:
    return [*group.parameters, *(p for module in group.modules for p in module.parameters())]


def _buffers(group: Any) -> list[Tensor]:
    return [*group.buffers, *(b for module in group.modules for b in module.buffers())]
