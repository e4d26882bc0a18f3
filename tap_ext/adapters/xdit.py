"""xDiT: TAP in the place of its TeaCache and FBCache.

Of xfuser 0.7.0. ``apply_cache`` of ``xfuser/model_executor/cache/adapters`` imports
``apply_teacache`` from ``flux.py`` beside it, or ``apply_fbcache`` from there or from ``flux2.py``,
when it is called, calls it with the transformer and thresholds, and goes on with the transformer
that it had. (Until 0.6 adapters stood in a registry, which is gone.) After ``register(Config(),
FluxTransformer2DModel)`` the pipelines' ``--cache_method teacache`` and ``fbcache`` mean TAP for
that class. Nothing is reduced over ranks: each holds the tokens that its own blocks are given.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from torch import nn

from tap_ext.accelerate import accelerate
from tap_ext.config import Config

__all__ = ["register"]

_ADAPTERS = "xfuser.model_executor.cache.adapters"
_PLACES = {"flux": ("apply_teacache", "apply_fbcache"), "flux2": ("apply_fbcache",)}
_MARK = "tap_ext_configs"


def register(config: Config, *classes: type[nn.Module]) -> None:
    """Have xDiT accelerate transformers of ``classes`` by TAP.

    Args:
        config: how; xDiT's own thresholds have no meaning here and are ignored.
        classes: exact classes; other transformers keep xDiT's caches.

    Raises:
        ImportError: xDiT is not installed, or is older than 0.7.
        ValueError: no class is given.
    """
    if not classes:
        raise ValueError("classes must name at least one transformer class, got none")
    for place, names in _PLACES.items():
        module = importlib.import_module(f"{_ADAPTERS}.{place}")
        for name in names:
            function = getattr(module, name)
            if not hasattr(function, _MARK):
                function = _replaced(function)
                setattr(module, name, function)
            getattr(function, _MARK).update(dict.fromkeys(classes, config))


def _replaced(original: Any) -> Any:
    configs: dict[type[nn.Module], Config] = {}

    @functools.wraps(original)
    def apply(transformer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        config = configs.get(type(transformer))
        if config is None:
            return original(transformer, *args, **kwargs)
        return accelerate(transformer, config)

    setattr(apply, _MARK, configs)
    return apply
