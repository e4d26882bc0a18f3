"""xDiT: an adapter in its registry of cached transformers.

``xfuser/model_executor/cache/diffusers_adapters`` in xdit-project/xDiT (commit 175e0bf) looks an
adapter's name up by the transformer's class, imports that module from its own package, and calls
``apply_cache_on_transformer(transformer, **arguments)`` there. After ``register(Config(),
FluxTransformer2DModel)`` the pipelines' ``--use_teacache`` and ``--use_fbcache`` mean TAP for that
class. Nothing is reduced over ranks: each holds the tokens that its own blocks are given.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from torch import nn

from tap_ext.accelerate import accelerate
from tap_ext.config import Config

__all__ = ["register"]

_ADAPTERS = "xfuser.model_executor.cache.diffusers_adapters"


def register(config: Config, *classes: type[nn.Module]) -> None:
    """Have xDiT accelerate transformers of ``classes`` by TAP.

    Args:
        config: how; xDiT's own thresholds have no meaning here and are ignored.
        classes: exact classes, as xDiT's registry wants them.

    Raises:
        ImportError: xDiT is not installed.
        ValueError: no class is given.
    """
    if not classes:
        raise ValueError("classes must name at least one transformer class, got none")
    registry = importlib.import_module(f"{_ADAPTERS}.registry")

    def apply_cache_on_transformer(transformer: nn.Module, **_: Any) -> nn.Module:
        return accelerate(transformer, config)

    name = f"tap_ext_{id(apply_cache_on_transformer)}"
    adapter = ModuleType(f"{_ADAPTERS}.{name}")
    vars(adapter)["apply_cache_on_transformer"] = apply_cache_on_transformer
    sys.modules[adapter.__name__] = adapter
    for cls in classes:
        registry.register_transformer_adapter(cls, name)
