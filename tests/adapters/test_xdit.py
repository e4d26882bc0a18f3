"""``register`` behind a stub of xDiT's registry.

The stub is written from xdit-project/xDiT, xfuser/model_executor/cache/diffusers_adapters
(``__init__.py`` and ``registry.py``) at commit 175e0bf.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tap_ext
from tap_ext import Config
from tap_ext.adapters import xdit

pytest.importorskip("diffusers")

from tests.models.flux import _flux

PACKAGE = "xfuser.model_executor.cache.diffusers_adapters"
REGISTRY = """
ADAPTERS = {}

def register_transformer_adapter(transformer_class, adapter_name):
    ADAPTERS[transformer_class] = adapter_name
"""
LOOKUP = """
import importlib
import importlib.util

from .registry import ADAPTERS

def apply_cache_on_transformer(transformer, *args, **kwargs):
    name = ADAPTERS.get(type(transformer))
    if not name:
        return transformer
    module = importlib.import_module("." + name, __package__)
    return module.apply_cache_on_transformer(transformer, *args, **kwargs)
"""


@pytest.fixture
def xfuser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of xDiT's name with its registry in it."""
    folder = tmp_path
    for part in PACKAGE.split("."):
        folder = folder / part
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (folder / "registry.py").write_text(REGISTRY)
    (folder / "__init__.py").write_text(LOOKUP)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield importlib.import_module(PACKAGE)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_xdit_accelerates_the_classes_that_were_registered(xfuser: Any) -> None:
    torch.manual_seed(0)
    model, other = _flux(), torch.nn.Linear(1, 1)
    xdit.register(Config(window=3), type(model))
    arguments = {"rel_l1_thresh": 0.12, "return_hidden_states_first": False, "use_cache": "Tea"}
    assert xfuser.apply_cache_on_transformer(model, num_steps=8, **arguments) is model
    assert xfuser.apply_cache_on_transformer(other, **arguments) is other
    from tap_ext.integrations.diffusers import find_engine

    engine = find_engine(model)
    assert engine is not None and engine.config == Config(window=3)
    assert find_engine(other) is None
    tap_ext.restore(model)


def test_each_class_may_have_its_own_configuration(xfuser: Any) -> None:
    from tap_ext.integrations.diffusers import find_engine

    models = [_flux(), type("Other", (type(_flux()),), {})(**_flux().config)]
    for window, model in enumerate(models, 2):
        xdit.register(Config(window=window), type(model))
    for window, model in enumerate(models, 2):
        engine = find_engine(xfuser.apply_cache_on_transformer(model))
        assert engine is not None and engine.config.window == window
        tap_ext.restore(model)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="classes must name at least one transformer class"):
        xdit.register(Config())
    if importlib.util.find_spec("xfuser") is None:
        with pytest.raises(ImportError, match="xfuser"):
            xdit.register(Config(), torch.nn.Linear)
