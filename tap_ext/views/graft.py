"""A copy of a model with other modules at some paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

__all__ = ["AdapterError", "copied", "expand", "graft", "module_at"]


class AdapterError(RuntimeError):
    """A model is not what its spec says."""


def graft(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` with other modules at some paths, sharing everything else.

    Args:
        model: left as it is.
        replacements: new module by dotted path; no path may lie inside another.

    Raises:
        AdapterError: a path names no submodule, or lies inside another.
    """
    below: dict[str, dict[str, nn.Module]] = {}
    children = dict(model._modules)
    for path, module in replacements.items():
        name, _, rest = path.partition(".")
        if children.get(name) is None:
            raise AdapterError(f"{type(model).__name__} has no submodule {name!r}")
        if rest:
            below.setdefault(name, {})[rest] = module
        else:
            children[name] = module
    for name, deeper in below.items():
        if name in replacements:
            raise AdapterError(f"{name!r} and {name}.{next(iter(deeper))!r} overlap")
        child = children[name]
        assert child is not None
        children[name] = graft(child, deeper)
    copy = object.__new__(type(model))
    copy.__dict__.update(model.__dict__)
    for own in ("forward", "_compiled_call_impl"):  # would lead back to the original
        copy.__dict__.pop(own, None)
    copy.__dict__["_modules"] = children
    return copy


def copied(paths: Iterable[str]) -> list[str]:
    """Paths of what ``graft`` copies, beside the root, to replace the modules at ``paths``."""
    found: dict[str, None] = {}
    for path in paths:
        names = path.split(".")
        found |= dict.fromkeys(".".join(names[:depth]) for depth in range(1, len(names)))
    return list(found)


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a path.

    Raises:
        AdapterError: there is none.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise AdapterError(f"{type(model).__name__} has no module {path!r}: {error}") from None


def expand(model: nn.Module, path: str) -> dict[str, nn.Module]:
    """The submodules that a path stands for, by path: one, or every child where it ends in ``.*``.

    Raises:
        AdapterError: there is none.
    """
    parent, star, rest = path.rpartition(".*")
    if not star or rest:
        return {path: module_at(model, path)}
    children = dict(module_at(model, parent).named_children())
    if not children:
        raise AdapterError(f"{type(model).__name__}.{parent} is empty")
    return {f"{parent}.{name}": child for name, child in children.items()}
