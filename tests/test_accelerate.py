"""The user entry: what it returns, refuses, reports and leaves behind."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import Config
from tap_ext.backbones import SPECS, Stream
from tap_ext.integrations.diffusers import engines_of
from tests import tiny

FLUX = tiny.MODELS[0]
EACH = pytest.mark.parametrize("family", tiny.MODELS, ids=lambda family: family.name)
STEPS = 12


def _sample(model: nn.Module, family: tiny.Tiny = FLUX, steps: int = STEPS) -> Tensor:
    return tiny.sample(model, tiny.inputs(family), steps)


@EACH
def test_a_new_family_is_only_a_spec(family: tiny.Tiny) -> None:
    """Runs, differs from the untouched model by little, and not at all after restore."""
    model = tiny.build(family)
    truth = _sample(model, family)
    assert tap_ext.accelerate(model, window=4) is model
    fast = _sample(model, family)
    assert not torch.equal(fast, truth)
    assert (fast - truth).norm() < 0.05 * truth.norm()
    assert tap_ext.stats(model).skip == 7
    assert tap_ext.restore(model) is model
    assert torch.equal(_sample(model, family), truth)


@EACH
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_runs_shorter_than_the_warm_up_are_untouched(family: tiny.Tiny, steps: int) -> None:
    model = tiny.build(family)
    truth = _sample(model, family, steps)
    tap_ext.accelerate(model)
    assert torch.equal(_sample(model, family, steps), truth)
    assert tap_ext.stats(model).skip == 0


def test_restore_leaves_no_trace() -> None:
    model = tiny.build(FLUX)
    before = set(model.__dict__)
    forward = model.forward
    tap_ext.accelerate(model)
    _sample(model)
    tap_ext.restore(model)
    assert set(model.__dict__) == before
    assert model.forward == forward
    assert tap_ext.restore(model) is model  # again, and on what never was accelerated


def test_restore_frees_the_histories() -> None:
    import gc
    import weakref

    model = tap_ext.accelerate(tiny.build(FLUX))
    _sample(model)
    (engine,) = engines_of(model)
    alive = weakref.ref(engine)
    del engine
    tap_ext.restore(model)
    gc.collect()
    assert alive() is None


def test_accelerate_twice_changes_nothing() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    (engine,) = engines_of(model)
    first = _sample(model)
    tap_ext.accelerate(model, window=4)
    assert engines_of(model) == [engine]
    assert torch.equal(_sample(model), first)


def test_accelerate_with_another_configuration_takes_it() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    _sample(model)
    tap_ext.accelerate(model, window=2)
    _sample(model)
    assert tap_ext.stats(model).models[0].branches[0].full_steps == (0, 1, 2, 4, 6, 8, 10)


@pytest.mark.parametrize("target", [None, 3, "flux", object(), nn.Linear])
def test_a_target_of_the_wrong_kind_is_refused(target: Any) -> None:
    for call in (tap_ext.accelerate, tap_ext.restore, tap_ext.stats, tap_ext.explain):
        with pytest.raises(TypeError, match="target must be a diffusers pipeline or transformer"):
            call(target)


def test_what_is_no_transformer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"must hold a diffusion transformer, got Linear"):
        tap_ext.accelerate(nn.Linear(2, 2))


def test_stats_of_a_plain_model_are_refused() -> None:
    with pytest.raises(ValueError, match="must be accelerated, got a plain FluxTransformer2DModel"):
        tap_ext.stats(tiny.build(FLUX))


@pytest.mark.parametrize(
    ("config", "overrides", "error", "message"),
    [
        ({"window": 4}, {}, TypeError, "config must be a Config, got dict"),
        (Config(), {"preset": "paper"}, ValueError, "preset must not be given beside config"),
        (None, {"windw": 4}, TypeError, "windw"),
        (None, {"window": 0}, ValueError, "window must be between 1 and 1000000, got 0"),
    ],
)
def test_a_bad_configuration_changes_nothing(
    config: Any, overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = tiny.build(FLUX)
    before = set(model.__dict__)
    with pytest.raises(error, match=message):
        tap_ext.accelerate(model, config, **overrides)
    assert set(model.__dict__) == before


def test_a_spec_that_does_not_fit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "FluxTransformer2DModel"
    monkeypatch.setitem(SPECS, name, replace(SPECS[name], streams=(Stream("absent"),)))
    model = tiny.build(FLUX)
    before = set(model.__dict__)
    with pytest.raises(tap_ext.AdapterError, match="absent"):
        tap_ext.accelerate(model)
    assert set(model.__dict__) == before


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (Stream("proj_out"), "self-check failed"),
        (
            Stream("norm_out", probe=lambda block, hidden, arguments: arguments["absent"]),
            "probe of .* failed",
        ),
    ],
)
def test_a_wrong_spec_never_ships_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, stream: Stream, message: str
) -> None:
    name = "FluxTransformer2DModel"
    monkeypatch.setitem(SPECS, name, replace(SPECS[name], streams=(stream,)))
    model = tiny.build(FLUX)
    truth = _sample(model)
    tap_ext.accelerate(model)
    with pytest.warns(UserWarning, match=message):
        assert torch.equal(_sample(model), truth)
    (reason,) = tap_ext.stats(model).models[0].fallbacks
    assert reason in tap_ext.explain(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(_sample(model), truth)  # warned of once


def test_gradients_run_untouched() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX))
    arguments = {**tiny.inputs(FLUX), "timestep": torch.tensor([0.5])}
    with pytest.warns(UserWarning, match="gradients are enabled"):
        model(**arguments)[0].sum().backward()
    assert model.x_embedder.weight.grad is not None
    assert tap_ext.stats(model).models[0].fallbacks.keys() == {
        "gradients are enabled; run under torch.no_grad() or torch.inference_mode()"
    }


def test_float64_runs_untouched() -> None:
    model = tiny.build(FLUX).double()
    arguments = tiny.inputs(FLUX, dtype=torch.float64)
    truth = tiny.sample(model, arguments, 6)
    tap_ext.accelerate(model)
    with pytest.warns(UserWarning, match=r"torch\.float64"):
        assert torch.equal(tiny.sample(model, arguments, 6), truth)


def test_an_instance_whose_forward_was_replaced_is_refused() -> None:
    model = tiny.build(FLUX)
    model.forward = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="forward must be the class's own"):
        tap_ext.accelerate(model)


def test_another_cache_is_refused_before_and_respected_after() -> None:
    from diffusers import FirstBlockCacheConfig

    model = tiny.build(FLUX)
    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="FirstBlockCacheConfig is enabled"):
        tap_ext.accelerate(model)
    model.disable_cache()
    tap_ext.accelerate(model)
    model.enable_cache(FirstBlockCacheConfig())
    with (
        pytest.warns(UserWarning, match="FirstBlockCacheConfig is enabled"),
        model.cache_context("cond"),
    ):
        _sample(model)
    assert tap_ext.stats(model).skip == 0


def test_the_switch_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(FLUX)
    truth = _sample(model)
    tap_ext.accelerate(model)
    monkeypatch.setenv("TAP_EXT_DISABLE", "1")
    assert torch.equal(_sample(model), truth)
    monkeypatch.setenv("TAP_EXT_DISABLE", "0")
    assert not torch.equal(_sample(model), truth)


def test_nan_in_one_sample_stays_there() -> None:
    arguments = tiny.inputs(FLUX, batch=2)
    model = tap_ext.accelerate(tiny.build(FLUX))
    clean = tiny.sample(model, arguments, STEPS)
    poisoned = {**arguments, "hidden_states": arguments["hidden_states"].clone()}
    poisoned["hidden_states"][0, 0, 0] = torch.nan
    result = tiny.sample(model, poisoned, STEPS)
    assert torch.isnan(result[0]).any()
    assert torch.equal(result[1], clean[1])
    assert torch.equal(tiny.sample(model, arguments, STEPS), clean)


def test_what_the_model_refuses_is_refused_alike() -> None:
    """This model cannot take an empty batch; accelerated, it says the same."""
    model = tiny.build(FLUX)
    none = tiny.inputs(FLUX, batch=0)
    with pytest.raises(RuntimeError) as plain:
        tiny.sample(model, none, STEPS)
    tap_ext.accelerate(model)
    with pytest.raises(RuntimeError) as fast:
        tiny.sample(model, none, STEPS)
    assert str(fast.value) == str(plain.value)


@pytest.mark.parametrize("field", ["metric", "probe", "forecast", "position"])
def test_every_choice_changes_the_result(field: str) -> None:
    default = _sample(tap_ext.accelerate(tiny.build(FLUX), window=4))
    other = {"metric": "l2", "probe": "input", "forecast": "hidden", "position": "sigma"}[field]
    changed = _sample(tap_ext.accelerate(tiny.build(FLUX), window=4, **{field: other}))
    truth = _sample(tiny.build(FLUX))
    assert (changed - truth).norm() < 0.05 * truth.norm()
    # evenly spaced noise levels are evenly spaced steps, so there the same rows come out
    assert torch.allclose(changed, default, rtol=1e-3) is (field == "position")


def test_without_the_self_check_nothing_is_compared() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), self_check=False, window=4)
    calls = []
    model.norm_out.register_forward_hook(lambda *_: calls.append(1))
    _sample(model)
    assert len(calls) == STEPS + 2  # two full steps look back
    model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    model.norm_out.register_forward_hook(lambda *_: calls.append(1))
    _sample(model)
    # the true output put back; a later step, twice
    assert len(calls) == 2 * (STEPS + 2) + 3


def test_stats_are_json_and_explain_is_words() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4, trace=True)
    assert "not called yet" in tap_ext.explain(model)
    _sample(model)
    data = json.loads(tap_ext.stats(model).to_json())
    (entry,) = data["models"]
    assert entry["model"] == "FluxTransformer2DModel"
    assert (entry["full"], entry["skip"], entry["runs"]) == (5, 7, 1)
    (branch,) = entry["branches"]
    assert branch["full_steps"] == [0, 1, 2, 6, 10]
    assert sum(branch["candidates"].values()) == 7 * tiny.GRID**2
    words = tap_ext.explain(model)
    assert "5 of 12 steps full (0, 1, 2, 6, 10)" in words and "Taylor" in words


def test_the_trace_holds_what_stats_count() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4, trace=True)
    _sample(model)
    stats = tap_ext.stats(model)
    assert [choice.step for choice in stats.trace] == [3, 4, 5, 7, 8, 9, 11]
    counts: dict[str, int] = {}
    for choice in stats.trace:
        assert choice.index.shape == (1, tiny.GRID**2)
        for row in choice.index.flatten().tolist():
            counts[choice.rows.names[row]] = counts.get(choice.rows.names[row], 0) + 1
    assert counts == stats.models[0].branches[0].candidates


def test_a_copied_or_pickled_model_is_a_plain_one() -> None:
    model = tiny.build(FLUX)
    truth = _sample(model)
    tap_ext.accelerate(model)
    _sample(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_sample(twin), truth)
        assert twin.forward.__self__ is twin
        with pytest.raises(ValueError, match="must be accelerated"):
            tap_ext.stats(twin)
        tap_ext.accelerate(twin)
        assert not torch.equal(_sample(twin), truth)
    assert tap_ext.stats(model).models[0].runs == 1


def test_wrappers_may_come_and_go_around_the_engine() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    model = tiny.build(FLUX)
    truth = _sample(model)
    add_hook_to_module(model, ModelHook())
    tap_ext.accelerate(model)
    fast = _sample(model)
    remove_hook_from_module(model)
    assert torch.equal(_sample(model), fast)
    add_hook_to_module(model, ModelHook())
    assert torch.equal(_sample(model), fast)
    tap_ext.restore(model)
    assert torch.equal(_sample(model), truth)
    remove_hook_from_module(model)
    assert torch.equal(_sample(model), truth)
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.stats(model)


def test_signatures_are_kept_for_those_who_read_them() -> None:
    import inspect

    model = tiny.build(FLUX)
    before = inspect.signature(model.forward)
    tap_ext.accelerate(model)
    assert inspect.signature(model.forward) == before
