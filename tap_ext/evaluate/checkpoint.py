"""What a checkpoint in a folder may bring: weights and settings, no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["own_code"]


def own_code(path: Path, index: Mapping[str, Any]) -> str | None:
    """What in a checkpoint would be run to load it; None: nothing.

    Early releases of diffusers run it unasked.

    Args:
        path: the folder.
        index: its ``model_index.json``.
    """
    if not isinstance(index["_class_name"], str):
        return f"_class_name {index['_class_name']!r}"
    for component, entry in index.items():
        if isinstance(entry, list) and entry and isinstance(entry[0], str):
            file = Path(component) / f"{entry[0]}.py"
            if (path / file).is_file():
                return str(file)
    return None
