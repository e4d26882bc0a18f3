"""The full and the skip view of one model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

from tap_ext.backbones.spec import BackboneSpec, Blocks
from tap_ext.graphs import Parts
from tap_ext.native import Seen
from tap_ext.views.graft import AdapterError, copied, expand, graft, module_at
from tap_ext.views.standins import AbsentBlock, Exit, Head, Idle, Probe, WatchedBlock

__all__ = ["Views"]


class Views:
    """The full and the skip view of one model.

    Attributes:
        spec: what they were built from.
        full: runs everything and notes the first block's input and the heads'.
        skip: runs what stands before and after the blocks, and puts a forecast between.
        parts: the modules that a full step runs (True), and those that a skip step does (False).
    """

    def __init__(self, model: nn.Module, spec: BackboneSpec) -> None:
        """Build both views.

        Raises:
            AdapterError: ``model`` lacks a module or an argument that ``spec`` names, or two parts
                of ``spec`` name the same module.
        """
        self.spec = spec
        blocks = dict(self._blocks(model, spec.blocks))
        leader = next(iter(blocks))
        probes = [Probe(blocks[leader][0], stream) for stream in spec.streams]
        common = self._common(model)
        self.full = self._build(
            model,
            common,
            {
                path: WatchedBlock(block, path, entry, probes if path == leader else ())
                for path, (block, entry) in blocks.items()
            },
        )
        absent = {
            path: AbsentBlock(block, path, entry, probes if path == leader else ())
            for path, (block, entry) in blocks.items()
        } | {
            path: AbsentBlock(block, path, entry, ())
            for path, (block, entry) in self._blocks(model, spec.bypassed)
        }
        self.skip = self._build(model, common, absent)
        self.parts = {
            everything: Parts(functools.partial(self._parts, everything))
            for everything in (False, True)
        }
        paths = copied((*common, *blocks, *absent))
        self._copied = [module_at(model, path).__dict__ for path in paths]
        self._seen = Seen()
        self._changes = self._look(model)

    @staticmethod
    def _blocks(
        model: nn.Module, lists: tuple[Blocks, ...]
    ) -> Iterator[tuple[str, tuple[nn.Module, Blocks]]]:
        for entry in lists:
            children = dict(module_at(model, entry.path).named_children())
            if not children:
                raise AdapterError(f"{type(model).__name__}.{entry.path} is empty")
            for name, block in children.items():
                yield f"{entry.path}.{name}", (block, entry)

    def _common(self, model: nn.Module) -> dict[str, nn.Module]:
        """Stand-ins that both views share: heads and idle modules."""
        common: dict[str, nn.Module] = {}
        for number, stream in enumerate(self.spec.streams):
            for path, module in expand(model, stream.head).items() if stream.head else ():
                self._add(common, path, Head(module, path, stream, number))
        for name in self.spec.idle:
            if name.endswith("?") and _lacks(model, name := name[:-1]):
                continue
            for path, module in expand(model, name).items():
                self._add(common, path, Idle(module, path))
        return common

    def _add(self, modules: dict[str, nn.Module], path: str, module: nn.Module) -> None:
        if path in modules:
            raise AdapterError(f"the spec of {self.spec.name} names {path!r} twice")
        modules[path] = module

    def _build(
        self, model: nn.Module, common: dict[str, nn.Module], blocks: dict[str, Any]
    ) -> nn.Module:
        replacements = dict(common)
        last = self.spec.blocks[-1]
        tail = [path for path in blocks if path.startswith(f"{last.path}.")][-1]
        streams = enumerate(self.spec.streams)
        places = {n: last.returns.index(s.hidden) for n, s in streams if not s.head}
        if places:
            blocks = blocks | {tail: Exit(blocks[tail], tail, places)}
        for path, block in blocks.items():
            self._add(replacements, path, block)
        return graft(model, replacements)

    def blocks(self) -> Iterator[nn.Module]:
        """The model's own main blocks."""
        for module in self.full.modules():
            if isinstance(module, WatchedBlock):
                yield module.real

    def _parts(self, all_of_them: bool) -> Iterator[nn.Module]:
        """Root first."""
        waiting = [self.full if all_of_them else self.skip]
        while waiting:
            module = waiting.pop()
            yield module
            if all_of_them or not isinstance(module, Idle):
                children = (child for child in module._modules.values() if child is not None)
                waiting += (c for c in children if not (isinstance(c, AbsentBlock) and c.follows))

    def stale(self, model: nn.Module) -> bool:
        """Whether the model's own parts have changed since the views were built.

        Changes inside a shared submodule need nothing. Read at every call, so it looks only at
        what a view copies: children and attributes of the root, and along the paths.
        """
        return self._look(model) != self._changes

    def _look(self, model: nn.Module) -> int:
        return self._seen.look([model.__dict__, *self._copied], None)


def _lacks(model: nn.Module, path: str) -> bool:
    try:
        return module_at(model, path.removesuffix(".*")) is None
    except AdapterError:
        return True
