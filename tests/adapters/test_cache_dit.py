"""The calibrator against cache-dit's own one, and inside cache-dit as it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tap_ext import Config, State, Step
from tap_ext.adapters.cache_dit import Probe, TapCalibrator, calibrator_config
from tap_ext.plan import Listed, Plan
from tap_ext.predictors import TaylorSeer

cache_dit = pytest.importorskip("cache_dit")
calibrators = pytest.importorskip("cache_dit.caching.cache_contexts.calibrators")

STEPS, FULL, SHAPE = 16, (0, 4, 8, 12), (1, 5, 8)


def _series(seed: int) -> list[Tensor]:
    start, drift = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return [start + torch.sin(drift * step / 8) for step in range(STEPS)]


def _drive(calibrator: Any, series: list[Tensor], probe: nn.Module | None = None) -> list[Tensor]:
    outputs = []
    for step, value in enumerate(series):
        if probe is not None:
            probe(value.cos())
        calibrator.mark_step_begin()
        if step in FULL:
            calibrator.update(value, name="blocks_Bn_residual")
        else:
            outputs.append(calibrator.approximate(name="blocks_Bn_residual").clone())
    return outputs


def test_with_its_predictor_it_is_cache_dits_taylorseer() -> None:
    """That one divides by the last gap, as the predictor of that name does."""
    theirs = calibrators.TaylorSeerCalibrator(n_derivatives=2)
    ours = TapCalibrator(Config(predictors=(TaylorSeer(2),)))
    for seed in (1, 2):
        for calibrator in (theirs, ours):
            calibrator.reset_cache()
        pairs = zip(_drive(theirs, _series(seed)), _drive(ours, _series(seed)), strict=True)
        for wanted, got in pairs:
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_with_a_probe_every_token_chooses() -> None:
    watched = nn.Identity()
    probe = Probe(watched)
    outputs = _drive(TapCalibrator(Config(), probe), _series(1), watched)
    state, wanted = State(Plan(schedule=Listed(FULL)), Config(forecast="hidden")), []
    for value in _series(1):
        if state.begin() is Step.FULL:
            state.record(value, value, value.cos())
        else:
            wanted.append(state.predict(value, value.cos()).clone())
    assert all(map(torch.equal, outputs, wanted))
    assert len(state.log.chosen()) > 1
    probe.remove()
    watched(torch.zeros(1))
    assert probe.value is not None and probe.value.numel() > 1


def test_tokens_that_the_probe_has_not_take_the_nominal_predictor() -> None:
    watched = nn.Identity()
    calibrator, plain = TapCalibrator(Config(), Probe(watched)), TapCalibrator(Config())
    outputs = []
    for step, value in enumerate(_series(1)):
        watched(torch.ones(1, 9, 8))
        for each in (calibrator, plain):
            each.mark_step_begin()
            if step in FULL:
                each.update(value)
            else:
                outputs.append(each.approximate().clone())
    assert all(map(torch.equal, outputs[::2], outputs[1::2]))


def test_what_comes_out_of_order_is_refused() -> None:
    calibrator = TapCalibrator()
    calibrator.mark_step_begin()
    with pytest.raises(RuntimeError, match="got none for 'x'"):
        calibrator.approximate("x")
    watched = nn.Identity()
    calibrator = TapCalibrator(None, Probe(watched))
    watched(_series(1)[0])
    calibrator.mark_step_begin()
    calibrator.update(_series(1)[0])
    watched(torch.ones(1, 9, 8))
    calibrator.mark_step_begin()
    with pytest.raises(RuntimeError, match="the probe must have the tokens of the feature"):
        calibrator.approximate()


@pytest.fixture
def pipe() -> Iterator[Any]:
    pytest.importorskip("diffusers")
    from tests.pipelines.builders import build

    made = build()
    yield made
    cache_dit.disable_cache(made)


def test_inside_cache_dit(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for, its names are cache-dit's, and what it predicts reaches the picture."""
    from tests.pipelines.builders import CLOSE, generate

    untouched = generate(pipe)
    asked: list[tuple[int, bool]] = []
    approximate = TapCalibrator.approximate

    def counted(self: TapCalibrator, name: str = "default") -> Tensor:
        state = self._states[name][0]
        asked.append((self._step, state.config is self._config))
        return approximate(self, name)

    monkeypatch.setattr(TapCalibrator, "approximate", counted)
    probe = Probe(pipe.transformer.transformer_blocks[0].norm1)
    cache_dit.enable_cache(
        pipe,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=1, max_warmup_steps=3, residual_diff_threshold=100.0
        ),
        calibrator_config=calibrator_config(probe),
    )
    picture = generate(pipe)
    assert {step for step, _ in asked} == {3, 4, 5, 6, 7}
    assert {with_probe for _, with_probe in asked} == {True, False}  # the picture, the text
    error = float((picture - untouched).norm() / untouched.norm())
    assert 0 < error < 4 * CLOSE
    assert torch.equal(generate(pipe), picture)  # nothing is left of the first run


def test_other_types_are_still_cache_dits_own() -> None:
    calibrator_config()
    calibrator_config()
    from cache_dit.caching.cache_contexts import cache_context

    made = cache_context.Calibrator(cache_dit.TaylorSeerCalibratorConfig())
    assert isinstance(made, calibrators.TaylorSeerCalibrator)
    unknown = calibrators.CalibratorConfig(calibrator_type="unknown")
    with pytest.raises(AssertionError, match="unknown"):
        cache_context.Calibrator(unknown)
    for name in ("reset_cache", "approximate", "mark_step_begin", "update"):
        assert callable(getattr(TapCalibrator, name))
        assert hasattr(calibrators.CalibratorBase, name)
