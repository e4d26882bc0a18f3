"""What every way of offloading must leave as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import tap_ext
from tests.models.base import Tiny, build, inputs, sample

__all__ = ["assert_same_steps"]


def assert_same_steps(
    tiny: Tiny,
    steps: int,
    accelerated: nn.Module,
    offload: Callable[[nn.Module], None],
    *,
    tried: int,
) -> None:
    """Offloaded, an accelerated model makes what one in memory makes, and skips as many steps.

    Args:
        tiny: the model.
        steps: of the run.
        accelerated: the model that is to be offloaded.
        offload: does it.
        tried: steps of one without tap_ext; where it raises, the test is skipped.
    """
    plain = build(tiny)
    offload(plain)
    try:
        sample(tiny, plain, inputs(tiny), tried)
    except Exception as error:
        pytest.skip(f"without tap_ext too: {error}")
    truth = tap_ext.accelerate(build(tiny), window=3)
    expected = sample(tiny, truth, inputs(tiny), steps)
    offload(accelerated)
    for found, wanted in zip(sample(tiny, accelerated, inputs(tiny), steps), expected, strict=True):
        assert torch.equal(found, wanted)
    assert tap_ext.stats(accelerated).skip == tap_ext.stats(truth).skip > 0
