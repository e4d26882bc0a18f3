"""Under autocast some norms give float32 where their blocks give bfloat16."""

from __future__ import annotations

import pytest
import torch

import tap_ext
from tests.models import MODELS
from tests.models.base import Tiny, build, inputs, sample

pytestmark = pytest.mark.filterwarnings("error:tap_ext")

STEPS, WARMUP = 5, 3


@pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
def test_models_skip_steps_under_autocast(tiny: Tiny) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        try:
            truth = sample(tiny, build(tiny), inputs(tiny), STEPS, stop=WARMUP)
        except Exception as error:
            pytest.skip(f"without tap_ext too: {error}")
        model = tap_ext.accelerate(build(tiny), window=3, warmup=WARMUP)
        with tap_ext.run():
            found = sample(tiny, model, inputs(tiny), STEPS, stop=WARMUP)
        assert all(map(torch.equal, found, truth))
        with tap_ext.run():
            found = sample(tiny, model, inputs(tiny), STEPS)
    assert tap_ext.stats(model).skip == STEPS - WARMUP
    assert all(tensor.isfinite().all() for tensor in found)
