"""A pytest plugin for a run of diffusers' own tests: chosen model classes are accelerated at birth.

Loaded with ``-p tap_ext_upstream`` by ``run.py``; ``TAP_EXT_CLASSES`` names the classes. Most of
those tests call a model once, or twice at the same timestep, so by themselves they hardly reach a
skip step. Therefore the plugin adds one test to every class of tests that has a model: upstream's
model and inputs, a moving timestep. What every call became is counted and printed.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers  # before the checkout's conftest puts its own sources in front
import pytest
import torch

import tap_ext
from tap_ext.backbones import find_spec
from tap_ext.engine import Engine

CONTROL = "TAP_EXT_CONTROL" in os.environ  # the same tests, nothing accelerated
NAMES = [name for name in os.environ.get("TAP_EXT_CLASSES", "").split(",") if name]
STEPS = 8
ADDED = "test_tap_ext_skips_steps"

_calls: dict[str, Counter[str]] = defaultdict(Counter)
_born: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    unknown = [name for name in NAMES if not hasattr(diffusers, name)]
    if not NAMES or unknown:
        raise pytest.UsageError(f"TAP_EXT_CLASSES must name classes of diffusers, got {unknown}")
    if not torch.cuda.is_available():
        _compile_on_the_cpu()
    if not CONTROL:
        for name in NAMES:
            _accelerate_at_birth(getattr(diffusers, name))
        Engine.__call__ = _counted(Engine.__call__)


def _compile_on_the_cpu() -> None:
    """Upstream compiles on accelerators alone; its tests of that run on the CPU as well."""
    mixin = importlib.import_module("tests.models.testing_utils").TorchCompileTesterMixin
    mixin.pytestmark = [mark for mark in mixin.pytestmark if mark.name != "skipif"]


def _accelerate_at_birth(cls: Any) -> None:
    build = cls.__init__

    @functools.wraps(build)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        tap_ext.accelerate(self, warmup=2, window=3)
        _born[type(self).__name__] += 1

    cls.__init__ = init


def _counted(call: Any) -> Any:
    @functools.wraps(call)
    def counted(self: Engine, *args: Any, **kwargs: Any) -> Any:
        before = self.full, self.skipped, self.fallbacks.copy()
        try:
            return call(self, *args, **kwargs)
        finally:
            calls = _calls[self._title]
            calls["full steps"] += self.full - before[0]
            calls["skip steps"] += self.skipped - before[1]
            calls.update(self.fallbacks - before[2])

    return counted


@torch.no_grad()
def _skips_steps(self: Any) -> None:
    """Upstream's tiny model along a moving timestep: some steps skipped, none far off."""
    if self.model_class.__name__ not in NAMES:
        pytest.skip(f"{self.model_class.__name__} is not accelerated in this run")
    torch.manual_seed(0)
    model = self.model_class(**self.get_init_dict()).eval()
    given = dict(self.get_dummy_inputs())
    name = find_spec(model).timestep
    device = next(v.device for v in given.values() if isinstance(v, torch.Tensor))
    model.to(device)
    start, dtype = given[name], given[name].dtype
    first, way = start.float(), 1 if find_spec(model).rising else -1
    generator = torch.get_rng_state()

    def outputs() -> Iterator[torch.Tensor]:
        for step in range(STEPS):
            torch.set_rng_state(generator)
            now = start + way * (first.abs() * 0.02 + 0.001) * step
            given[name] = now.to(dtype) if dtype.is_floating_point else start + way * step
            output = model(**given, return_dict=False)[0]
            yield torch.stack(output) if isinstance(output, (list, tuple)) else output

    fast = list(outputs())
    made = tap_ext.stats(model)
    assert made.skip > 0, tap_ext.explain(model)
    assert not made.models[0].fallbacks, tap_ext.explain(model)
    tap_ext.restore(model)
    for predicted, true in zip(fast, outputs(), strict=True):
        assert torch.isfinite(predicted).all()
        assert (predicted - true).norm() <= 0.1 * true.norm()


ONE_GRAPH = {
    "test_torch_compile_recompilation_and_graph_break",
    "test_compile_on_different_shapes",
    "test_compile_works_with_aot",
    "test_torch_compile_with_and_without_mask",
}
"""They compile the transformer as one graph; which step is skipped is decided on the host."""


def pytest_collection_modifyitems(items: list[Any]) -> None:
    reason = "a transformer that skips steps is not one graph; compile its blocks, or break it"
    for item in items:
        accelerated = getattr(item.cls, "model_class", None) is not None and not CONTROL
        if accelerated and item.originalname in ONE_GRAPH:
            item.add_marker(pytest.mark.xfail(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> None:
    """Add the test to upstream's classes of plain model tests, before they are collected."""
    bases = {base.__name__ for base in getattr(obj, "__mro__", ())}
    if not CONTROL and {"ModelTesterMixin", "BaseModelTesterConfig"} <= bases:
        setattr(obj, ADDED, _skips_steps)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    write = terminalreporter.write_line
    terminalreporter.section(f"tap_ext {tap_ext.__version__}, diffusers {diffusers.__version__}")
    for name in [] if CONTROL else NAMES:
        write(f"{name}: {_born[name]} models accelerated")
        for what, count in sorted(_calls[name].items()):
            write(f"  {count} {what}")
    if (path := os.environ.get("TAP_EXT_REPORT")) is not None:
        failed = terminalreporter.stats.get("failed", []) + terminalreporter.stats.get("error", [])
        count = {name: len(found) for name, found in terminalreporter.stats.items() if name}
        report = {
            "classes": {name: dict(_calls[name]) for name in NAMES},
            "failed": sorted({test.nodeid for test in failed}),
            "outcomes": {name: count.get(name, 0) for name in ("passed", "failed", "error")},
        }
        Path(path).write_text(json.dumps(report))
