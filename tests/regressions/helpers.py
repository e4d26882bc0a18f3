"""What several of these tests do: run a case of the zoo, judge a run, drive a bare transformer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import Config, Plan
from tests import tiny
from tests.zoo import CASES
from tests.zoo.base import Case, generate

FLUX = tiny.MODELS[0]
SMALL = Config(window=4)

STEPS = 12
FULL = (0, 1, 2, 6, 10)
"""What ``SMALL`` runs in full of ``STEPS`` steps."""

WINDOWED: dict[str, Any] = {"window": 3, "warmup": 2}
"""What the tests of the zoo accelerate its cases with."""


def zoo(name: str) -> Case:
    """A case of the zoo; the test is skipped where the installed diffusers lacks its class."""
    if name not in CASES:
        pytest.skip(f"this diffusers has no {name.partition('+')[0]}")
    return CASES[name]


def accelerated(case: Case, **config: Any) -> Any:
    return tap_ext.accelerate(case.make(), **(config or WINDOWED))


def error(made: Tensor, truth: Tensor) -> float:
    """Relative, in norm."""
    return float((made.double() - truth.double()).norm() / truth.double().norm())


def psnr(made: Tensor, truth: Tensor) -> float:
    """In dB, of the range of ``truth``."""
    spread = truth.double().max() - truth.double().min()
    return float(20 * torch.log10(spread / (made.double() - truth.double()).pow(2).mean().sqrt()))


def branches(target: Any) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Full and skip steps of the main branches of the last run, of each model."""
    return [
        [(b.full_steps, b.skip_steps) for b in model.branches if "." not in b.name]
        for model in tap_ext.stats(target).models
    ]


def planned(steps: int, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a run of so many steps must do."""
    full = tuple(Plan.full_steps(steps, config.window, config.warmup, config.tail))
    return full, tuple(step for step in range(steps) if step not in full)


def runs_as_planned(case: Case) -> None:
    """It skips what the plan says, in silence, near the untouched result, and leaves no trace."""
    pipe = case.make()
    truth = generate(case, pipe)
    tap_ext.accelerate(pipe, **WINDOWED)
    with silent():
        near = generate(case, pipe)
    steps = planned(case.steps // len(case.models) // case.runs, Config(**WINDOWED))
    assert branches(pipe) == [[steps] * case.branches for _ in case.models]
    assert 0 < error(near, truth) <= case.loose
    with silent():
        assert torch.equal(generate(case, pipe), near)
    tap_ext.restore(pipe)
    assert torch.equal(generate(case, pipe), truth)


@contextmanager
def silent() -> Iterator[None]:
    """A warning of tap_ext is an error in here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tap_ext", category=UserWarning)
        yield


def bare(config: Config = SMALL, seed: int = 0) -> nn.Module:
    """A tiny accelerated transformer without a pipeline."""
    return tap_ext.accelerate(tiny.build(FLUX, seed=seed), config)


def fresh(steps: int = STEPS, seed: int = 1, config: Config = SMALL, **changes: Any) -> Tensor:
    """What a transformer makes that was accelerated just now."""
    return tiny.sample(bare(config), {**tiny.inputs(FLUX, seed), **changes}, steps)


@torch.no_grad()
def walk(
    model: nn.Module, arguments: dict[str, Any], steps: int = STEPS, start: float = 1.0
) -> Iterator[Tensor]:
    """``tiny.sample`` from noise level ``start``, one step at a time."""
    arguments = dict(arguments)
    for now, after in pairwise(torch.linspace(start, 0, steps + 1).tolist()):
        latents = arguments["hidden_states"]
        timestep = torch.full((latents.shape[0],), now, dtype=latents.dtype)
        velocity = model(**arguments, timestep=timestep, return_dict=False)[0]
        arguments["hidden_states"] = latents + (after - now) * velocity
        yield arguments["hidden_states"]
