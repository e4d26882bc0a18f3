"""Every model with its steps captured, against the same with none."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tap_ext
from tap_ext.backbones import find_spec
from tests.graphs.recorder import recorded
from tests.models import MODELS
from tests.models.base import Tiny, build, inputs, sample
from tests.versions import DIFFUSERS_VERSION

STEPS = 10
WINDOWED: dict[str, Any] = {"window": 3, "warmup": 3}
"""Full are 0, 1, 2, 5, 8."""


REFUSED = {
    "Cosmos3OmniTransformer+everything": "reads times of frames",
    "Flux2Transformer2DModel+extract": "a cache of keys and values",
    "Flux2Transformer2DModel+cached": "a cache of keys and values",
    "LTX2VideoTransformer3DModel": "coordinates from the host; its pipelines pass them",
    "LTX2VideoTransformer3DModel+newer": "coordinates from the host; its pipelines pass them",
    "QwenImageTransformer2DModel": "a padded prompt's length from the host",
    "QwenImageTransformer2DModel+controlnet": "a padded prompt's length from the host",
    "QwenImageTransformer2DModel+edit": "a padded prompt's length from the host",
    "SkyReelsV2Transformer3DModel+forcing": "the frame rate from the host",
    "ZImageTransformer2DModel+omni": "masks from the host",
}
"""What waits for the device, or copies to it, though its class can do without."""

if DIFFUSERS_VERSION < (0, 37):  # the length was an argument
    del REFUSED["QwenImageTransformer2DModel"]
    del REFUSED["QwenImageTransformer2DModel+controlnet"]


@pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
def test_captured_steps_are_bit_equal(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two runs, the second with the graphs of the first."""
    given = inputs(tiny)
    plain = tap_ext.accelerate(build(tiny), graphs="off", **WINDOWED)
    with tap_ext.run():
        truth = sample(tiny, plain, given, STEPS)
    model = tap_ext.accelerate(build(tiny), graphs="all", **WINDOWED)
    with recorded(monkeypatch), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tap_ext: a step runs eagerly")
        for _ in range(2):
            with tap_ext.run():
                pictures = sample(tiny, model, given, STEPS)
            for picture, expected in zip(pictures, truth, strict=True):
                assert torch.equal(picture, expected)
    (stats,) = tap_ext.stats(model).models
    (once,) = tap_ext.stats(plain).models
    assert (stats.full, stats.skip) == (2 * once.full, 2 * once.skip)
    spec = find_spec(model)
    assert spec is not None
    branches = sum("." not in branch.name for branch in stats.branches)  # less their other streams
    if tiny.name in REFUSED or spec.graphs != "all":
        assert stats.uncaptured
    else:
        assert not stats.uncaptured
        assert stats.captured == 2 * branches
        looked = 2 * 2 * branches  # in both runs, steps 5 and 8 are forecast first
        assert stats.replayed == stats.full + stats.skip - 4 * branches + looked


@torch.no_grad()
def test_qwen_image_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its pipeline calls it: with no mask where every token of the prompt counts."""
    tiny = MODELS["QwenImageTransformer2DModel"]
    given = inputs(tiny) | {"encoder_hidden_states_mask": None}
    truth = sample(tiny, tap_ext.accelerate(build(tiny), graphs="off", **WINDOWED), given, STEPS)
    model = tap_ext.accelerate(build(tiny), graphs="all", **WINDOWED)
    with recorded(monkeypatch):
        picture = sample(tiny, model, given, STEPS)
    assert all(torch.equal(a, b) for a, b in zip(picture, truth, strict=True))
    (stats,) = tap_ext.stats(model).models
    assert (stats.captured, stats.uncaptured) == (2, {})
