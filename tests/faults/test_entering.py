"""Faults in how acceleration is asked for, and in what surrounds it."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import tap_ext
from tap_ext import ops, reference
from tap_ext.backbones import SPECS, Stream
from tap_ext.integrations.diffusers import engines_of
from tests import tiny
from tests.faults.common import MODEL, done, error, fast, given, plain, sample


@pytest.mark.parametrize("family", tiny.MODELS, ids=lambda family: family.name)
def test_restored_is_never_accelerated(family: tiny.Tiny) -> None:
    """Row 13: outputs, attributes, hooks and buffers; every class by tests/models."""
    model = tiny.build(family)
    arguments = tiny.inputs(family)
    truth = tiny.sample(model, arguments, 6)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    kind, buffers = type(model), dict(model.named_buffers()).keys()
    tap_ext.accelerate(model, warmup=2, window=3)
    assert not torch.equal(tiny.sample(model, arguments, 6), truth)
    tap_ext.restore(model)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert type(model) is kind and dict(model.named_buffers()).keys() == buffers
    assert torch.equal(tiny.sample(model, arguments, 6), truth)


def test_accelerating_again() -> None:
    """Row 14: the same changes nothing, another configuration is taken, another cache refused."""
    model = fast(window=3)
    (engine,) = engines_of(model)
    first = sample(model)
    assert engines_of(tap_ext.accelerate(model, window=3)) == [engine]
    assert torch.equal(sample(model), first)
    tap_ext.accelerate(model, window=2)
    sample(model)
    assert done(model)[0][0] == (0, 1, 2, 4, 6)
    tap_ext.restore(model)
    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="FirstBlockCacheConfig is enabled on FluxTransformer2D"):
        tap_ext.accelerate(model)


@pytest.mark.parametrize("name", ["interval", "windw", "threshold", "enabled"])
def test_an_unknown_field_raises(name: str) -> None:
    """Row 22: a misspelt field must not leave the default in force unnoticed."""
    model = plain()
    with pytest.raises(TypeError, match=name):
        tap_ext.accelerate(model, **{name: 1})
    assert "forward" not in vars(model)


def test_with_gradients_nothing_is_skipped() -> None:
    """Row 32: every step is the model's own, gradients are right, and one warning says why."""
    arguments = given()
    truth, model = plain(), fast()
    with pytest.warns(UserWarning, match=r"gradients are enabled; run under torch.no_grad\(\)"):
        for step in range(6):
            moment = torch.tensor([1 - step / 8])
            outputs = [each(**arguments, timestep=moment)[0] for each in (model, truth)]
            assert torch.equal(*outputs)
            for output in outputs:
                output.square().sum().backward()
    for left, right in zip(model.parameters(), truth.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)
    assert tap_ext.stats(model).skip == 0


def test_a_warning_that_is_an_error_is_counted_and_comes_once() -> None:
    """Row 32: with ``-W error`` the first call says it, and the next ones run untouched."""
    model, moment = fast(), torch.tensor([0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="gradients are enabled"):
            model(**given(), timestep=moment)
        output = model(**given(), timestep=moment)[0]
    assert torch.equal(output, plain()(**given(), timestep=moment)[0])
    assert list(tap_ext.stats(model).models[0].fallbacks.values()) == [2]
    assert torch.equal(sample(model), sample(fast()))


def _by_vmap(model: nn.Module, latents: Tensor, rest: dict[str, Any]) -> Tensor:
    return torch.vmap(lambda one: model(hidden_states=one[None], **rest)[0][0])(latents)


def _by_trace(model: nn.Module, latents: Tensor, rest: dict[str, Any]) -> Tensor:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, latents: Tensor) -> Tensor:
            return self.model(hidden_states=latents, **rest)[0]

    traced = torch.jit.trace(Called(), (torch.zeros_like(latents),), check_trace=False)
    return traced(latents)


def _by_graph(model: nn.Module, latents: Tensor, rest: dict[str, Any]) -> Tensor:
    call = make_fx(lambda one: model(hidden_states=one, **rest)[0])
    return call(torch.zeros_like(latents))(latents)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("way", [_by_vmap, _by_trace, _by_graph])
def test_a_call_that_only_shows_what_would_be_computed_is_untouched(way: Any) -> None:
    """Traced or transformed: what comes out is the model's, there is a reason, and no history."""
    model, rest = fast(), given() | {"timestep": torch.tensor([0.5])}
    latents = rest.pop("hidden_states")
    with torch.no_grad(), pytest.warns(UserWarning, match="values cannot be read in a call that"):
        result = way(model, latents, rest)
    with torch.no_grad():
        torch.testing.assert_close(result, plain()(hidden_states=latents, **rest)[0])
    assert "untouched: values cannot be read" in tap_ext.explain(model)
    assert torch.equal(sample(model), sample(fast()))


def test_a_model_on_the_meta_device_shows_its_shapes() -> None:
    """What loaders and planners of memory do."""
    model, shown = fast().to("meta"), {k: v.to("meta") for k, v in given().items()}
    with torch.no_grad(), pytest.warns(UserWarning, match="traced, exported, transformed or on"):
        output = model(**shown, timestep=torch.ones(1, device="meta"))[0]
    assert output.shape == given()["hidden_states"].shape


def test_the_forward_has_the_code_that_exporters_read() -> None:
    model = fast()
    assert model.forward.__code__ is type(model).forward.__code__


def test_without_the_compiled_library_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 33: what runs where there are no kernels for a device agrees with what runs here."""
    truth = sample(fast())
    for name in ("stack_update_", "skip_step_", "select_out", "gather_rows"):
        monkeypatch.setattr(ops, name, getattr(reference, name))
    assert error(sample(fast()), truth) < 1e-5


def test_without_a_gpu_nothing_fails() -> None:
    """Row 33: import, status and a run need no CUDA; what the library lacks is said."""
    status = ops.library_status()
    assert status.compiled or status.reason
    assert importlib.import_module("tap_ext") is tap_ext
    model = fast(graphs="all")
    sample(model)
    assert tap_ext.stats(model).skip > 0


def test_another_version_of_diffusers_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 34: it works where the self-check agrees, and says once that nobody has tried it."""
    from tap_ext.integrations import diffusers as host

    host.tell_if_untested.cache_clear()
    monkeypatch.setattr(sys.modules["diffusers"], "__version__", "0.99.0")
    model = plain()
    with pytest.warns(UserWarning, match=r"diffusers 0\.99\.0 .* tested with 0\.36 to 0\.42"):
        tap_ext.accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tap_ext.accelerate(plain())
    sample(model)
    assert tap_ext.stats(model).skip > 0
    host.tell_if_untested.cache_clear()


def test_in_another_version_the_self_check_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 34: what a version has moved is noticed; the model runs untouched, with the reason."""
    name = "FluxTransformer2DModel"
    moved = dataclasses.replace(SPECS[name], streams=(Stream("proj_out"),))
    monkeypatch.setitem(SPECS, name, moved)
    model = fast()
    with pytest.warns(UserWarning, match="untouched: the self-check failed"):
        assert torch.equal(sample(model), sample(plain()))
    assert "ran untouched: the self-check failed" in tap_ext.explain(model)


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_switch_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, off: bool
) -> None:
    """Row 37: ``TAP_EXT_DISABLE`` is read at each call; off is the exact baseline."""
    model = fast()
    truth = sample(plain())
    monkeypatch.setenv("TAP_EXT_DISABLE", value)
    assert torch.equal(sample(model), truth) is off
    counted = tap_ext.stats(model).models[0].fallbacks.get("switched off", 0)
    assert counted == (8 if off else 0)
    assert ("8 calls ran untouched: switched off" in tap_ext.explain(model)) is off
    monkeypatch.delenv("TAP_EXT_DISABLE")
    assert not torch.equal(sample(model), truth)


def test_the_switch_thrown_in_the_middle_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 37: from that call on the model's own forward; switched on again, no stale history."""
    model, truth = fast(), plain()
    arguments = given()
    with torch.no_grad():
        for step in range(8):
            monkeypatch.setenv("TAP_EXT_DISABLE", str(int(4 <= step < 6)))
            moment = torch.tensor([1 - step / 8])
            output = model(**arguments, timestep=moment)[0]
            if 4 <= step < 6:
                assert torch.equal(output, truth(**arguments, timestep=moment)[0])
    monkeypatch.delenv("TAP_EXT_DISABLE")
    assert torch.equal(sample(model), sample(fast()))


def test_the_switch_of_graphs(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Row 37: ``TAP_EXT_GRAPHS=0`` gives what eager steps give, bit for bit."""
    arguments = given(device=device)
    truth = sample(fast(device, graphs="off"), arguments)
    monkeypatch.setenv("TAP_EXT_GRAPHS", "0")
    assert torch.equal(sample(fast(device, graphs="all"), arguments), truth)


def test_the_tiny_model_is_the_one_that_the_rows_speak_of() -> None:
    """Of the file: skip steps happen here, so that a passed row means something."""
    assert MODEL.name == "flux"
    assert 0 < error(sample(fast()), sample(plain())) < 0.05
