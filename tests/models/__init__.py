"""Tiny random models of every class that has a spec, one file per family."""

from __future__ import annotations

import importlib
import pkgutil

from tests.models.base import Tiny


def _models() -> dict[str, Tiny]:
    """The ``MODELS`` of every module in this folder."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("test_"))
    families = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {tiny.name: tiny for family in families for tiny in getattr(family, "MODELS", ())}


MODELS: dict[str, Tiny] = _models()
"""Every configuration, by name."""
