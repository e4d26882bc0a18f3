"""Models whose class has no spec: entered rightly, or refused; never wrongly."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext.backbones import SPECS
from tap_ext.views import AdapterError, Call, Views, discover, run_view, verify
from tests.models import MODELS
from tests.models.base import Tiny, build, call, inputs, sample, tensors

STEPS = 6
REFUSED = {
    "ConsisIDTransformer3DModel",  # a face, attended to between the blocks
    "WanAnimateTransformer3DModel",  # the same
    "Kandinsky6SRTransformer3DModel",  # tokens reordered before the head
    "Kandinsky5Transformer3DModel+sparse",  # the same
}


def _call(tiny: Tiny, sigma: float = 0.6) -> dict[str, Any]:
    return call(tiny, tiny.batches[-1], sigma=sigma) | {"return_dict": False}


@torch.no_grad()
def _error(tiny: Tiny, model: nn.Module) -> float:
    """What a skip step with the true residual is off by, entered as found at another step."""
    spec = discover(model, (), _call(tiny, sigma=0.8))
    views, arguments = Views(model, spec), _call(tiny)
    truth = tensors(model(**copy.deepcopy(arguments)))
    full = Call.full(spec)
    output = run_view(views.full, full, (), arguments)
    assert verify(views, full, output, (), arguments, between=True) is None
    skip = full.skip(lambda stream, hidden, _: hidden + _residual(full, stream))
    again = tensors(run_view(views.skip, skip, (), arguments))
    pairs = zip(again, truth, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def _residual(full: Call, stream: int) -> Tensor:
    passage = full.passages[stream]
    assert passage.output is not None
    return passage.output - passage.taken(passage.hidden)


@pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
def test_what_is_found_is_right(tiny: Tiny) -> None:
    model = build(tiny)
    state = {name: id(module) for name, module in model.named_modules()}
    if {tiny.name, tiny.name.partition("+")[0]} & REFUSED:
        with pytest.raises(AdapterError, match="has no spec, and none was found"):
            discover(model, (), _call(tiny))
    else:
        assert _error(tiny, model) <= 1e-6
    assert {name: id(module) for name, module in model.named_modules()} == state


def test_nearly_every_known_class_is_found() -> None:
    assert len(REFUSED & set(SPECS)) <= 0.05 * len(SPECS)


@pytest.mark.parametrize("name", ["SD3Transformer2DModel", "WanTransformer3DModel"])
def test_an_unknown_class_is_accelerated(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tiny = MODELS[name]
    spec = SPECS[name]
    monkeypatch.delitem(SPECS, name)
    model = build(tiny)
    untouched = sample(tiny, model, inputs(tiny), STEPS)
    tap_ext.accelerate(model, window=2)
    assert "not called yet" in tap_ext.explain(model)
    near = sample(tiny, model, inputs(tiny), STEPS)
    (stats,) = tap_ext.stats(model).models
    assert not stats.fallbacks
    assert [b.skip_steps for b in stats.branches] == [(3, 5)]
    assert stats.spec is not None
    assert stats.spec.blocks == spec.blocks
    assert "its class has no spec" in tap_ext.explain(model)
    assert not torch.equal(near[0], untouched[0])
    tap_ext.accelerate(model, window=1)
    assert torch.equal(sample(tiny, model, inputs(tiny), STEPS)[0], untouched[0])
    tap_ext.restore(model)
    assert torch.equal(sample(tiny, model, inputs(tiny), STEPS)[0], untouched[0])


def test_a_class_that_cannot_be_entered_runs_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = MODELS["WanAnimateTransformer3DModel"]
    monkeypatch.delitem(SPECS, "WanAnimateTransformer3DModel")
    model = build(tiny)
    untouched = sample(tiny, model, inputs(tiny), STEPS)
    tap_ext.accelerate(model)
    with pytest.warns(UserWarning, match="has no spec, and none was found"):
        again = sample(tiny, model, inputs(tiny), STEPS)
    assert torch.equal(again[0], untouched[0])
    (reason,) = tap_ext.stats(model).models[0].fallbacks
    assert reason in tap_ext.explain(model)


class _Mixer(nn.Module):
    """A transformer that nobody has seen: other names, time added, tokens reordered if asked."""

    def __init__(self, reorder: bool = False, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.clock = nn.Linear(1, 16)
        self.trunk = nn.ModuleList(_Layer() for _ in range(depth))
        self.leave = nn.Linear(16, 4)
        self.reorder = reorder

    def forward(self, x: Tensor, t: Tensor, context: Tensor, return_dict: bool = True) -> Any:
        tokens = self.embed(x) + self.clock(t[:, None, None])
        for layer in self.trunk:
            tokens = layer(tokens, context)
        return (self.leave(tokens.flip(1) if self.reorder else tokens),)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        return tokens + torch.tanh(self.mix(tokens) + context.mean(1, keepdim=True))


def _run(model: nn.Module) -> Tensor:
    torch.manual_seed(0)
    x, context = torch.randn(2, 9, 4), torch.randn(2, 5, 16)
    with torch.no_grad():
        for step in range(STEPS):
            x = x - model(x, torch.full((2,), 1 - step / STEPS), context)[0] / STEPS
    return x


def test_a_model_of_ones_own_is_accelerated() -> None:
    torch.manual_seed(1)
    model = _Mixer()
    truth = _run(model)
    tap_ext.accelerate(model, window=2)
    near = _run(model)
    (stats,) = tap_ext.stats(model).models
    assert [b.skip_steps for b in stats.branches] == [(3, 5)]
    assert 0 < float((near - truth).norm() / truth.norm()) < 0.05
    assert stats.spec is not None and stats.spec.streams[0].head == "leave"


def test_a_model_that_reorders_its_tokens_is_refused() -> None:
    torch.manual_seed(1)
    model = _Mixer(reorder=True)
    truth = _run(model)
    tap_ext.accelerate(model)
    with pytest.warns(UserWarning, match="does not see what entered"):
        assert torch.equal(_run(model), truth)


def test_a_model_without_blocks_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="must hold a diffusion transformer, got Linear"):
        tap_ext.accelerate(nn.Linear(2, 2))


def test_a_spec_of_ones_own_is_used() -> None:
    torch.manual_seed(1)
    model = _Mixer()
    spec = tap_ext.BackboneSpec(
        name="_Mixer",
        blocks=(tap_ext.Blocks("trunk", ("tokens",)),),
        streams=(tap_ext.Stream("leave", "tokens", attention="mix"),),
        latents="x",
        timestep="t",
        conditioning=("context",),
    )
    tap_ext.accelerate(model, window=2, spec=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _run(model)
    assert tap_ext.stats(model).models[0].spec == spec
    with pytest.raises(ValueError, match="must hold a _Mixer, got SD3Transformer2DModel"):
        tap_ext.accelerate(build(MODELS["SD3Transformer2DModel"]), spec=spec)
    with pytest.raises(TypeError, match="spec must be a BackboneSpec, got str"):
        tap_ext.accelerate(model, spec="trunk")
