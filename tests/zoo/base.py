"""What a tiny pipeline of a real class is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A pipeline class with tiny random components.

    Attributes:
        name: the class, and after a ``+`` what is particular in this call.
        make: builds the pipeline, the same weights every time.
        arguments: what to call it with, less the generator; it runs ``steps`` steps.
        steps: how many steps the transformer is called in.
        branches: how many calls each step makes of each transformer; 0: it changes.
        runs: how many denoising loops, of equally many steps, a call makes.
        passed: calls of the transformer that are no step, because they only fill a cache.
        models: the components that ``accelerate`` is to find, by attribute.
        output: the field of the pipeline's output with what it made.
        loose: relative error (norm) that an accelerated run may have; random weights say nothing
            of quality, so this only tells a forecast from noise.
    """

    name: str
    make: Callable[[], Any]
    arguments: Callable[[], dict[str, Any]]
    steps: int = 8
    branches: int = 1
    runs: int = 1
    passed: int = 0
    models: tuple[str, ...] = ("transformer",)
    output: str = "images"
    loose: float = 0.2

    def __str__(self) -> str:
        return self.name


def available(*cases: Case) -> tuple[Case, ...]:
    """Those whose class the installed diffusers has."""
    return tuple(case for case in cases if _exists(case.name.partition("+")[0]))


def _exists(name: str) -> bool:
    try:
        return hasattr(diffusers, name)
    except RuntimeError:  # its module needs a package that is not installed
        return False


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generate(case: Case, pipe: Any, **changes: Any) -> Tensor:
    """What the pipeline makes, from the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    made = pipe(**{**case.arguments(), **changes}, generator=generator)
    found = getattr(made, case.output)
    return torch.as_tensor(found) if not isinstance(found, list) else torch.stack(found)
