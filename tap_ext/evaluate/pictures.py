"""Pictures on disk, each with its settings beside it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from tap_ext.evaluate.store import Line
from tap_ext.files import replacing, write

__all__ = ["path", "pixels", "save"]


def path(folder: Path, line: Line) -> Path:
    """Where the picture of a line lies: by model, method and budget; then prompt and seed."""
    words = re.sub(r"[^0-9A-Za-z]+", "-", line["prompt"]).strip("-")[:40]
    digest = hashlib.sha256(line["prompt"].encode()).hexdigest()[:8]
    name = f"{words or 'prompt'}-{digest}-seed{line['seed']}-{line['key'][:6]}.png"
    method: str = f"{line['method']}-{line['full_steps']}"
    return folder.joinpath("pictures", line["model"], method, name)


def pixels(made: Tensor) -> Any:
    """(..., 3, H, W) or (..., 1, H, W) in [0, 1] as (..., H, W, 3) of bytes."""
    coloured = made.expand(*made.shape[:-3], 3, -1, -1).movedim(-3, -1)
    return (coloured.clamp(0, 1) * 255).round().byte().contiguous().numpy()


def save(folder: Path, output: Tensor, line: Line) -> None:
    """Writes a picture (3, H, W), or a video's frames (F, 3, H, W) side by side, and its line."""
    from PIL import Image

    if output.dim() == 4:
        output = output.permute(1, 2, 0, 3).flatten(2)
    target = path(folder, line)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        Image.fromarray(pixels(output)).save(partial, format="png")
    write(target.with_suffix(".json"), json.dumps(line, indent=2, ensure_ascii=False) + "\n")
