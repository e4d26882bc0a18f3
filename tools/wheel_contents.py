"""What a wheel of tap_ext holds and what it must not, as a list of what is wrong with it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

LIMIT = 10_000_000
"""Bytes of a wheel without the checkpoints in it."""

LIBRARY = "tap_ext/libtap_ext_ops.so"
CORE = re.compile(r"tap_ext/_core\.[\w-]+\.so")
NAME = re.compile(r"tap_ext-(?P<version>[\w.]+)-py3-none-manylinux_\d+_\d+_[\w.]+\.whl")


def source_files(root: Path) -> set[str]:
    """All files of the package in the source tree but libraries and caches."""
    found = (path for path in (root / "tap_ext").rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix()
        for path in found
        if "__pycache__" not in path.parts and path.suffix != ".so"
    }


def has_cuda(wheel: Path) -> bool:
    """Whether the library of ops holds CUDA kernels."""
    with zipfile.ZipFile(wheel) as archive:
        return b".nv_fatbin" in archive.read(LIBRARY)


def sizes(wheel: Path) -> tuple[int, int]:
    """Bytes of the wheel, and of it without the checkpoints."""
    total = wheel.stat().st_size
    with zipfile.ZipFile(wheel) as archive:
        models = (f for f in archive.infolist() if f.filename.endswith(".safetensors"))
        return total, total - sum(file.compress_size for file in models)


def problems(wheel: Path, version: str, files: set[str], torch: str) -> Iterator[str]:
    """One line for each thing that is wrong.

    Args:
        wheel: the file.
        version: what its name and its metadata have to say.
        files: what of the package it has to hold besides libraries, and nothing else.
        torch: the requirement its metadata have to state.
    """
    name = NAME.fullmatch(wheel.name)
    if name is None:
        yield f"the name must be tap_ext-VERSION-py3-none-manylinux_X_Y_ARCH.whl, got {wheel.name}"
    elif name["version"] != version:
        yield f"the name must say version {version}, got {wheel.name}"
    with zipfile.ZipFile(wheel) as archive:
        held = {entry for entry in archive.namelist() if not entry.endswith("/")}
        about = f"tap_ext-{version}.dist-info/"
        metadata = archive.read(f"{about}METADATA").decode() if f"{about}METADATA" in held else ""
    lines = metadata.splitlines()
    for line in (f"Version: {version}", f"Requires-Dist: {torch}", "License-File: LICENSE"):
        if line not in lines:
            yield f"its metadata must have the line {line!r}"
    for missing in sorted((files | {LIBRARY}) - held):
        yield f"it lacks {missing}"
    if not any(CORE.fullmatch(entry) for entry in held):
        yield "it lacks tap_ext/_core for any Python"
    for extra in sorted(held - files - {LIBRARY}):
        if not extra.startswith(about) and not CORE.fullmatch(extra):
            yield f"it holds {extra}, which is no part of the package"
    without_models = sizes(wheel)[1]
    if without_models > LIMIT:
        yield f"without models it must have at most {LIMIT:,} bytes, got {without_models:,}"
