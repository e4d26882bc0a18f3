"""Tiny random pipelines of other families than FLUX.1, one file per family."""

from __future__ import annotations

import importlib
import pkgutil

from tests.zoo.base import Case


def _cases() -> dict[str, Case]:
    """The ``CASES`` of every module in this folder."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("test_"))
    families = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {case.name: case for family in families for case in getattr(family, "CASES", ())}


CASES: dict[str, Case] = _cases()
"""Every case, by name."""
