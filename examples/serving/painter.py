"""What the servers in this folder serve: the model that comes with the package.

Put your own pipeline into ``load`` and your own request into ``Request`` and ``paint``; the servers
know no more than these three.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import tap_ext
from tap_ext.demo import bundled

BUCKETS = (1, 2, 4)
"""Pictures per call. Other numbers are filled up, so that a GPU sees few shapes and captures few
graphs; a model of many resolutions would have (height, width) here."""


@dataclass(frozen=True)
class Request:
    """Pictures of some classes, one each, from the noise of ``seed`` and of the numbers after it.

    Raises:
        ValueError: a class or a number that cannot be served.
    """

    labels: tuple[str, ...]
    seed: int = 0
    steps: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be served, before it takes a place in a queue."""
        unknown = sorted(set(self.labels) - set(bundled.CLASSES))
        if unknown or not 1 <= len(self.labels) <= BUCKETS[-1]:
            raise ValueError(
                f"labels must be 1 to {BUCKETS[-1]} of {bundled.CLASSES}, got {self.labels}"
            )
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps must be in 1..1000, got {self.steps}")
        if not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be in 0..2**62 - 1, got {self.seed}")

    @property
    def bucket(self) -> int:
        """How many pictures are computed for it."""
        return next(size for size in BUCKETS if size >= len(self.labels))


def load(device: str = "cpu", folder: str | None = None) -> Any:
    """A pipeline, loaded once for each process and accelerated."""
    pipe = bundled.load_pipeline(folder, device)
    return tap_ext.accelerate(pipe, window=6)


def of_request(pipe: Any) -> Any:
    """The same weights for one request: a copy of the pipeline with a scheduler of its own.

    A scheduler counts the steps of one run, so two threads must not share it. Histories are told
    apart by the run, and graphs are shared.
    """
    mine = copy.copy(pipe)
    mine.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return mine


@torch.inference_mode()
def paint(pipe: Any, request: Request, folder: str | None = None) -> list[bytes]:
    """One PNG for each label."""
    count = len(request.labels)
    filled = request.labels + request.labels[-1:] * (request.bucket - count)
    mine = of_request(pipe)
    pictures = bundled.generate(mine, filled, request.steps, request.seed, path=folder)
    return [_png(picture) for picture in pictures[:count]]


def _png(picture: torch.Tensor) -> bytes:
    data = io.BytesIO()
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def write(path: Path, data: bytes) -> None:
    """Whole or not at all: whoever is killed half-way leaves no half of a file under that name."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
