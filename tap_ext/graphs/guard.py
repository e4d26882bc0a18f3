"""What a recording of a model takes for granted, and would miss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["fingerprint", "hooked"]

ADAPTER = ("scaling", "_active_adapter", "_disable_adapters", "merged_adapters")
"""Plain values of a LoRA layer that its forward reads."""


def fingerprint(modules: Iterable[nn.Module]) -> tuple[Any, ...]:
    """Which parts a model consists of, where their weights lie, and how its adapters are set.

    A recording reads weights by address: edited in place they are seen, moved they are not.
    """
    parts: list[Any] = []
    for module in modules:
        own = module.__dict__
        parts += (id(module), own["training"], _calls_more(own))
        parts += map(_address, own["_parameters"].values())
        parts += map(_address, own["_buffers"].values())
        if "scaling" in own:
            parts += (str(own.get(name)) for name in ADAPTER)
    return tuple(parts)


def hooked(modules: Iterable[nn.Module]) -> str | None:
    """Why these modules do more at a call than their forwards: hooks run on the host.

    Hooks move weights (offloading), cast them, or belong to the user; a replay calls none.
    """
    for module in modules:
        if _calls_more(module.__dict__):
            return f"{type(module).__name__} has hooks, which a replay would not call"
    return None


def _calls_more(own: dict[str, Any]) -> bool:
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"]
    registry = own.get("_diffusers_hook")
    return bool(
        hooks or own.get("_hf_hook") or (registry is not None and getattr(registry, "hooks", True))
    )


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    plain = type(tensor) in (Tensor, nn.Parameter)
    return tensor.data_ptr() if plain and tensor.device.type != "meta" else id(tensor)
