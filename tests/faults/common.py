"""What the tests of faults share: a bare tiny transformer, run from the same start every time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import tap_ext
from tests import tiny

MODEL = tiny.MODELS[0]
STEPS = 8
CONFIG: dict[str, Any] = {"window": 3, "warmup": 3}
FULL, SKIP = (0, 1, 2, 5), (3, 4, 6, 7)


def plain(device: str = "cpu") -> nn.Module:
    return tiny.build(MODEL).to(device)


def fast(device: str = "cpu", **config: Any) -> nn.Module:
    return tap_ext.accelerate(plain(device), **(config or CONFIG))


def given(seed: int = 1, batch: int = 1, device: str = "cpu") -> dict[str, Any]:
    arguments = tiny.inputs(MODEL, seed, batch)
    return {name: value.to(device) for name, value in arguments.items()}


def sample(model: nn.Module, arguments: dict[str, Any] | None = None, steps: int = STEPS) -> Tensor:
    arguments = given() if arguments is None else arguments
    device = arguments["hidden_states"].device
    with torch.device(device):  # the sampler makes its timesteps itself
        return tiny.sample(model, arguments, steps)


def done(model: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The full and the skip steps of each branch of the last run."""
    (stats,) = tap_ext.stats(model).models
    return [(branch.full_steps, branch.skip_steps) for branch in stats.branches]


def error(output: Tensor, truth: Tensor) -> float:
    return float((output - truth).norm() / truth.norm())
