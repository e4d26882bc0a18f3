"""Prompts from a file: one per line, DrawBench's CSV, or VBench's JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

__all__ = ["load"]

_COLUMNS = ("prompts", "prompt")
_KEYS = ("prompt_en", "prompt", "caption")


def load(path: Path) -> list[str]:
    """The prompts of a file, in its order, each once.

    A ``.csv`` file has a column "Prompts" (DrawBench) or "prompt"; a ``.json`` file is a list of
    texts or of objects with "prompt_en" (VBench), "prompt" or "caption"; any other file has one
    prompt per line, blank lines not counted.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, not of its format, or holds no prompt.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8; byte {error.start} is not") from None
    read = {".csv": _from_csv, ".json": _from_json}.get(path.suffix.lower(), str.splitlines)
    try:
        prompts = [prompt.strip() for prompt in read(text)]
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    found = list(dict.fromkeys(prompt for prompt in prompts if prompt))
    if not found:
        raise ValueError(f"{path} holds no prompt")
    return found


def _from_csv(text: str) -> list[str]:
    reader = csv.DictReader(io.StringIO(text))
    for column in reader.fieldnames or ():
        if column.strip().lower() in _COLUMNS:
            return [row[column] or "" for row in reader]
    raise ValueError(f"must have a column Prompts or prompt, got {reader.fieldnames or 'nothing'}")


def _from_json(text: str) -> list[str]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"must be a JSON list, got {type(entries).__name__}")
    return [_prompt(entry, number) for number, entry in enumerate(entries)]


def _prompt(entry: Any, number: int) -> str:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in _KEYS if key in entry), None)
    if not isinstance(entry, str):
        raise ValueError(f"must hold texts or objects with {', '.join(_KEYS)}; entry {number} not")
    return entry
