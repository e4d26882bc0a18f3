"""Fixtures of the op tests."""

from __future__ import annotations

from types import ModuleType

import pytest

from tap_ext import ops, reference


@pytest.fixture(params=[ops, reference], ids=["ops", "reference"])
def op(request: pytest.FixtureRequest) -> ModuleType:
    """The ops as loaded, then their plain-torch twin: one interface, the same tests."""
    module: ModuleType = request.param
    return module
