"""Pictures and videos on disk, whole or not at all, each with its settings beside it."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tap_ext.evaluate.pictures import pixels
from tap_ext.files import replacing

__all__ = ["claimed", "names", "save"]

Pair = tuple[str, int]


def names(out: Path, pairs: Sequence[Pair], *, video: bool) -> list[Path]:
    """Where each pair of prompt and seed goes: ``out`` itself, or a file in the folder ``out``.

    Raises:
        ValueError: ``out`` names one file and there are several pairs, or a file of another kind.
    """
    suffix = ".mp4" if video else ".png"
    if not out.is_dir() and out.suffix:
        if out.suffix.lower() != suffix:
            raise ValueError(f"must be a folder or end in {suffix} for this model, got {out}")
        if len(pairs) > 1:
            raise ValueError(f"must be a folder for {len(pairs)} results, got the file {out}")
        return [out]
    digits = len(str(len(pairs)))
    return [
        out / f"{number:0{digits}}-{_words(prompt)}-seed{seed}{suffix}"
        for number, (prompt, seed) in enumerate(pairs, start=1)
    ]


@contextlib.contextmanager
def claimed(targets: Sequence[Path], *, overwrite: bool) -> Iterator[None]:
    """Sees to it that all targets can be written; folders it made that stay empty go in the end.

    Raises:
        FileExistsError: one is there, or its settings, and may not be overwritten.
        OSError: a folder cannot be made or written.
    """
    for path in (path for target in targets for path in (target, beside(target))):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; --overwrite replaces it")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(target.parent for target in targets):
            for one in reversed((folder, *folder.parents)):
                if not one.exists():
                    one.mkdir()
                    made.append(one)
            try:
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:  # which names a file that nobody asked for
                raise OSError(error.errno, error.strerror, str(folder)) from None
        yield
    finally:
        for one in reversed(made):
            with contextlib.suppress(OSError):
                one.rmdir()


def beside(target: Path) -> Path:
    """Where the settings of a result are kept."""
    return target.with_suffix(".json")


def save(target: Path, made: Tensor, settings: Mapping[str, Any], fps: int) -> None:
    """Writes a picture (3, H, W) or a video (F, 3, H, W) in [0, 1], then its settings beside it.

    A PNG carries the settings too, as text under ``tap_ext``.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    shown = pixels(made)
    with replacing(target) as partial, replacing(beside(target)) as words:
        words.write_text(text + "\n", encoding="utf-8")
        if made.dim() == 4:
            _write_video(partial, shown, fps)
        else:
            from PIL import Image
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_itxt("tap_ext", text)
            Image.fromarray(shown).save(partial, format="png", pnginfo=info)


def _write_video(path: Path, frames: Any, fps: int) -> None:
    """H.264 in an MP4; the name need not end so."""
    from imageio_ffmpeg import write_frames

    size = (frames.shape[2], frames.shape[1])
    writer = write_frames(str(path), size, fps=fps, macro_block_size=2, output_params=["-f", "mp4"])
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def _words(prompt: str) -> str:
    """The beginning of a prompt as part of a file's name."""
    return re.sub(r"\W+", "-", prompt).strip("-")[:40].rstrip("-") or "prompt"
