"""Weights that hooks of a module fetch before its call and put away after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["fetched"]


@contextlib.contextmanager
def fetched(module: nn.Module, *, put_away: bool) -> Iterator[None]:
    """Around a use of a module's parts that is no call of it, as that of its first norm.

    A module inside has no hook of its own where accelerate or diffusers offload in larger pieces;
    nor has a parameter of the module itself.

    Args:
        module: whose hooks that offload are run.
        put_away: at the end, too; else a call of the module follows, which does.
    """
    hooks = list(_offloading(module))
    for hook in hooks:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in reversed(hooks) if put_away else ():
            hook.post_forward(module, None)


def _offloading(module: nn.Module) -> Iterator[Any]:
    """The hook of accelerate, and that of diffusers which offloads groups."""
    own = module.__dict__
    hooks = getattr(own.get("_diffusers_hook"), "hooks", {})
    for hook in (own.get("_hf_hook"), hooks.get("group_offloading")):
        if hook is not None:
            yield hook
