"""One small declarative spec per family of models."""

from __future__ import annotations

import importlib
import pkgutil

from torch import nn

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

__all__ = ["SPECS", "BackboneSpec", "Blocks", "Stream", "find_spec"]


def _specs() -> dict[str, BackboneSpec]:
    """The ``SPECS`` of every module in this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    families = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {spec.name: spec for family in families for spec in getattr(family, "SPECS", ())}


SPECS: dict[str, BackboneSpec] = _specs()
"""Every spec, by class name."""


def find_spec(model: nn.Module) -> BackboneSpec | None:
    """The spec of a model's class or of its nearest base that has one."""
    names = (base.__name__ for base in type(model).__mro__)
    return next((SPECS[name] for name in names if name in SPECS), None)
