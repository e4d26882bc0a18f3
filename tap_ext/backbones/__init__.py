"""One small declarative spec per family of models."""

from __future__ import annotations

from torch import nn

from tap_ext.backbones import flux, qwen_image, stable_diffusion3
from tap_ext.backbones.spec import BackboneSpec, Blocks

__all__ = ["SPECS", "BackboneSpec", "Blocks", "find_spec"]

_FAMILIES = (flux, qwen_image, stable_diffusion3)

SPECS: dict[str, BackboneSpec] = {spec.name: spec for family in _FAMILIES for spec in family.SPECS}
"""Every spec, by class name."""


def find_spec(model: nn.Module) -> BackboneSpec | None:
    """The spec of a model's class or of its nearest base that has one."""
    names = (base.__name__ for base in type(model).__mro__)
    return next((SPECS[name] for name in names if name in SPECS), None)
