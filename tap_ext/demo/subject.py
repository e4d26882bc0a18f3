"""What the demo generates: the bundled model's pictures, or those of a FLUX checkpoint."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from tap_ext.demo import bundled
from tap_ext.evaluate.checkpoint import own_code

__all__ = ["Subject", "from_bundle", "from_checkpoint"]

LABELS = ("sea", "city", "coffee", "checkers", "hills", "rocket", "dunes", "retina")
"""Classes of the bundled model in the order in which the demo takes them; the rest follows."""

StepCallback = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """A pipeline and the pictures asked of it.

    Attributes:
        pipe: a FluxPipeline.
        titles: one short name per picture, B of them.
        paint: ``(pipe, steps, callback) -> (B, 3, H, W)``, float32 in [0, 1] on the CPU; ``pipe``
            is this one or a ``twin`` of it, ``callback`` its ``callback_on_step_end``.
    """

    pipe: Any
    titles: tuple[str, ...]
    paint: Callable[[Any, int, StepCallback | None], Tensor]

    def twin(self) -> Any:
        """Another pipeline over the same weights, to be accelerated by itself."""
        transformer = copy.copy(self.pipe.transformer)
        pipe = type(self.pipe)(**(self.pipe.components | {"transformer": transformer}))
        pipe.set_progress_bar_config(disable=True)
        return pipe


def from_bundle(pictures: int, seed: int, device: torch.device, dtype: torch.dtype) -> Subject:
    """The bundled model; picture i starts from the noise of ``seed + i``."""
    ordered = (*LABELS, *(name for name in bundled.CLASSES if name not in LABELS))
    titles = tuple(ordered[i % len(ordered)] for i in range(pictures))

    def paint(pipe: Any, steps: int, callback: StepCallback | None) -> Tensor:
        return bundled.generate(pipe, titles, steps, seed, callback).float().cpu()

    return Subject(bundled.load_pipeline(None, device, dtype), titles, paint)


def from_checkpoint(
    path: Path,
    prompts: Sequence[str],
    pictures: int,
    size: int | None,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Subject:
    """A FLUX checkpoint in a local folder; picture i shows prompt i modulo their number.

    ``size`` is height and width in pixels; None: the pipeline's own.

    Raises:
        ValueError: ``path`` is no such folder, or what is in it cannot be loaded.
    """
    index = path / "model_index.json"
    try:
        parts = json.loads(index.read_text())
        kind = parts["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"model must be a folder with a {index.name} of diffusers, got {path}"
        ) from None
    if kind != FluxPipeline.__name__:
        raise ValueError(f"model must be a checkpoint of FluxPipeline, got one of {kind}")
    if (code := own_code(path, parts)) is not None:
        raise ValueError(f"model must not bring code of its own, got {code} in {path}")
    load: Any = FluxPipeline.from_pretrained
    try:
        with warnings.catch_warnings():
            # Its successor "dtype" is unknown to releases that are still in use.
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            pipe = load(path, torch_dtype=dtype, local_files_only=True, use_safetensors=True).to(
                device
            )
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"model cannot be loaded from {path}: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    texts = [prompts[i % len(prompts)] for i in range(pictures)]

    def paint(pipe: Any, steps: int, callback: StepCallback | None) -> Tensor:
        images: Tensor = pipe(
            texts,
            height=size,
            width=size,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(pictures)],
            output_type="pt",
            callback_on_step_end=callback,
        ).images
        return images.float().cpu()

    return Subject(pipe, tuple(map(_shortened, texts)), paint)


def _shortened(prompt: str, limit: int = 13) -> str:
    words = prompt.split()
    title = functools.reduce(
        lambda known, word: f"{known} {word}" if len(known) + len(word) < limit else known, words
    )
    return title[:limit]
