"""What is written about is what is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tap_ext

ROOT = Path(__file__).parents[2]


def test_every_name_of_the_readme_is_there() -> None:
    """openvinotoolkit/openvino.genai#3462: module has no attribute TaylorSeerCacheConfig

    A sample used a class of a version that was not released yet.
    """
    text = (ROOT / "README.md").read_text()
    names = set(re.findall(r"\btap_ext\.([A-Za-z_]+)\b(?!/)", text))
    assert {"accelerate", "restore"} <= names
    assert [name for name in sorted(names) if not hasattr(tap_ext, name)] == []
    assert [name for name in tap_ext.__all__ if not hasattr(tap_ext, name)] == []


def test_a_wheel_holds_every_part() -> None:
    """openvinotoolkit/openvino.genai#3494: the same, from the released wheel

    The released wheel was older than its samples. Every folder with code is a package that the
    build finds, and every other file of the package is named in its data.
    """
    setuptools = pytest.importorskip("setuptools")
    found = set(setuptools.find_packages(str(ROOT), include=["tap_ext*"]))
    source = Path(tap_ext.__file__).parent
    folders = {path.parent for path in source.rglob("*.py")}
    parts = {".".join((source.name, *folder.relative_to(source).parts)) for folder in folders}
    assert parts <= found
    settings = (ROOT / "pyproject.toml").read_text()
    for path in source.rglob("*"):
        if path.suffix in (".safetensors", ".json") and "__pycache__" not in path.parts:
            folder = path.parent.relative_to(source.parent)
            package, name = ".".join(folder.parts[:-1]), folder.name
            assert re.search(rf'"?{re.escape(package)}"? = \[.*"{name}/', settings), path
