"""``register`` behind a stub of xDiT's adapters.

The stub is written from xfuser 0.7.0, xfuser/model_executor/cache/adapters, which is not imported
without an accelerator.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tap_ext
from tap_ext import Config
from tap_ext.adapters import xdit

pytest.importorskip("diffusers")

from tests.models.flux import _flux

PACKAGE = "xfuser.model_executor.cache.adapters"
APPLY = """
def apply_cache(cache_method, num_steps, pipe, transformer=None, preset_kwargs=None):
    target = transformer if transformer is not None else pipe.transformer
    if cache_method == "teacache":
        from xfuser.model_executor.cache.adapters.flux import apply_teacache
        apply_teacache(target, rel_l1_thresh=0.12, num_steps=num_steps)
        return target
    if hasattr(target, "single_stream_modulation"):
        from xfuser.model_executor.cache.adapters.flux2 import apply_fbcache
    else:
        from xfuser.model_executor.cache.adapters.flux import apply_fbcache
    apply_fbcache(
        target, use_cache="Fb", rel_l1_thresh=0.12, return_hidden_states_first=False,
        num_steps=num_steps,
    )
    return target
"""
FLUX = """
def apply_teacache(transformer, *, rel_l1_thresh=0.12, num_steps=8):
    transformer.cached = "Tea"

def apply_fbcache(transformer, *, rel_l1_thresh=0.12, use_cache="Fb",
                  return_hidden_states_first=False, num_steps=8):
    transformer.cached = use_cache
"""


@pytest.fixture
def apply_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """xDiT's ``apply_cache``."""
    folder = tmp_path
    for part in PACKAGE.split("."):
        folder = folder / part
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (folder / "__init__.py").write_text(APPLY)
    for name in ("flux", "flux2"):
        (folder / f"{name}.py").write_text(FLUX)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield importlib.import_module(PACKAGE).apply_cache
    for name in {name for name in sys.modules if name.startswith("xfuser")} - before:
        del sys.modules[name]


def _engine(model: Any) -> Any:
    from tap_ext.integrations.diffusers import find_engine

    return find_engine(model)


@pytest.mark.parametrize("method", ["teacache", "fbcache"])
def test_xdit_accelerates_the_classes_that_were_registered(apply_cache: Any, method: str) -> None:
    torch.manual_seed(0)
    model = _flux()
    xdit.register(Config(window=3), type(model))
    assert apply_cache(method, num_steps=8, pipe=None, transformer=model) is model
    assert _engine(model).config == Config(window=3)
    tap_ext.restore(model)


def test_others_keep_xdits_own_caches(apply_cache: Any) -> None:
    model, other = _flux(), type("Other", (type(_flux()),), {})(**_flux().config)
    xdit.register(Config(), type(model))
    apply_cache("fbcache", num_steps=8, pipe=None, transformer=other)
    assert _engine(other) is None and other.cached == "Fb"


def test_each_class_may_have_its_own_configuration(apply_cache: Any) -> None:
    models = [_flux(), type("Other", (type(_flux()),), {})(**_flux().config)]
    for window, model in enumerate(models, 2):
        xdit.register(Config(window=window), type(model))
    for window, model in enumerate(models, 2):
        apply_cache("teacache", num_steps=8, pipe=None, transformer=model)
        assert _engine(model).config.window == window
        tap_ext.restore(model)
    xdit.register(Config(window=9), type(models[0]))  # again: the last one counts
    apply_cache("teacache", num_steps=8, pipe=None, transformer=models[0])
    assert _engine(models[0]).config.window == 9
    tap_ext.restore(models[0])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="classes must name at least one transformer class"):
        xdit.register(Config())
    if importlib.util.find_spec("xfuser") is None:
        with pytest.raises(ImportError, match="xfuser"):
            xdit.register(Config(), torch.nn.Linear)
