"""Models whose number of tokens is in the values of a mask, not in a shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import tap_ext
from tests.models import MODELS
from tests.models.base import build, inputs, sample

LUMINA = MODELS["Lumina2Transformer2DModel"]
STEPS = 8


def _given(dropped: int) -> dict[str, Any]:
    given = inputs(LUMINA)
    given["encoder_attention_mask"] = torch.ones_like(given["encoder_attention_mask"])
    given["encoder_attention_mask"][:, given["encoder_attention_mask"].shape[1] - dropped :] = 0
    return given


def _fresh(dropped: int) -> Tensor:
    model = tap_ext.accelerate(build(LUMINA), window=3)
    return sample(LUMINA, model, _given(dropped), STEPS)[0]


def test_prompts_of_other_lengths_follow_each_other() -> None:
    model = tap_ext.accelerate(build(LUMINA), window=3)
    for dropped in (2, 1, 3, 2):
        assert torch.equal(sample(LUMINA, model, _given(dropped), STEPS)[0], _fresh(dropped)), (
            dropped
        )


class _Shortened(nn.Module):
    """Calls a model, with a shorter prompt from some call on."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.call, self.calls = model, call, 0

    def forward(self, **given: Any) -> Any:
        if self.calls >= self.call:
            given["encoder_attention_mask"] = given["encoder_attention_mask"].clone()
            given["encoder_attention_mask"][:, -3:] = 0
        self.calls += 1
        return self.model(**given)


def test_tokens_that_go_in_mid_run_begin_a_new_history() -> None:
    """At step 4, a skip step, the history has tokens that the step has not."""
    plain = build(LUMINA)
    truth = sample(LUMINA, _Shortened(plain, 4), _given(1), STEPS)[0]
    model = tap_ext.accelerate(build(LUMINA), window=3)
    near = sample(LUMINA, _Shortened(model, 4), _given(1), STEPS)[0]
    (stats,) = tap_ext.stats(model).models
    assert [(b.full_steps, b.skip_steps) for b in stats.branches] == [
        ((0, 1, 2), (3,)),
        ((0, 1, 2), (3,)),
    ]
    assert not stats.fallbacks
    assert 0 < float((near - truth).norm() / truth.norm()) < 0.05
