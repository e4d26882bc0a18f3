"""Probes that are never written: which families', when, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import ops
from tap_ext.backbones import SPECS, find_spec
from tap_ext.backbones.probes import layer_norm_modulation
from tap_ext.peers import TeaCache
from tap_ext.views import Call, Views, run_view
from tests.graphs.test_steps import WINDOWED
from tests.models import MODELS
from tests.models.base import Tiny, build, call, inputs, sample


@torch.no_grad()
def _probes(
    model: nn.Module, arguments: dict[str, Any], **changes: Any
) -> list[tuple[Tensor, Any, Tensor]]:
    """(hidden, what the forecast is given, the probe of the full step) of every stream."""
    spec = find_spec(model)
    assert spec is not None
    views = Views(model, spec)
    full = Call.full(spec)
    run_view(views.full, full, (), copy.deepcopy(arguments))
    for passage in full.passages:
        passage.take = passage.take or slice(None)
    seen = []

    def forecast(stream: int, hidden: Tensor, probe: Any) -> Tensor:
        passage = full.passages[stream]
        seen.append((hidden, probe, passage.taken(passage.probe)))
        assert passage.output is not None
        return passage.output

    call = Call.after(full.takes, full.idle, forecast, **{"unwritten": True, **changes})
    run_view(views.skip, call, (), copy.deepcopy(arguments))
    return seen


def _call(tiny: Tiny, dtype: torch.dtype) -> dict[str, Any]:
    return call(tiny, tiny.batches[-1], dtype, 0.6) | {"return_dict": False}


def test_the_great_families_leave_it_unwritten() -> None:
    names = ("Flux", "QwenImage", "HunyuanVideo", "SD3")
    kinds = ("2DModel", "2DModel", "3DModel", "2DModel")
    for name, kind in zip(names, kinds, strict=True):
        (stream,) = SPECS[f"{name}Transformer{kind}"].streams
        assert stream.modulation is not None


FLUX = MODELS["FluxTransformer2DModel"]
QWEN = MODELS["QwenImageTransformer2DModel"]


class _OwnNorm(nn.LayerNorm):
    """What a user put in place of the model's."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) * 2


def _replace(norm: nn.LayerNorm) -> nn.Module:
    return _OwnNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


def _with_weights(norm: nn.LayerNorm) -> nn.Module:
    other = nn.LayerNorm(norm.normalized_shape, norm.eps)
    nn.init.normal_(other.weight)
    return other


def _hooked(norm: nn.LayerNorm) -> nn.Module:
    norm.register_forward_hook(lambda module, args, output: output * 3)
    return norm


def _hooked_before(norm: nn.LayerNorm) -> nn.Module:
    norm.register_forward_pre_hook(lambda module, args: (args[0] ** 3,))
    return norm


def _patched(norm: nn.LayerNorm) -> nn.Module:
    real = norm.forward
    norm.forward = lambda hidden: real(hidden) + 1  # type: ignore[method-assign]
    return norm


CHANGES = [_replace, _with_weights, _hooked, _hooked_before, _patched]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("tiny", [FLUX, QWEN], ids=str)
def test_a_norm_of_the_users_is_used(
    tiny: Tiny, change: Callable[[nn.LayerNorm], nn.Module]
) -> None:
    model: Any = build(tiny)
    block = model.transformer_blocks[0]
    if tiny is FLUX:
        block.norm1.norm = change(block.norm1.norm)
    else:
        block.img_norm1 = change(block.img_norm1)
    for _, probe, written in _probes(model, _call(tiny, torch.float32)):
        assert torch.equal(probe, written)


@pytest.mark.parametrize("change", [_hooked, _patched], ids=["hooked", "patched"])
def test_a_modulation_of_the_users_is_used(change: Callable[[Any], nn.Module]) -> None:
    model: Any = build(FLUX)
    norm = model.transformer_blocks[0].norm1
    real = norm.forward
    if change is _hooked:
        norm.register_forward_hook(lambda module, args, output: (output[0] * 3, *output[1:]))
    else:
        norm.forward = lambda *args, **kwargs: (
            real(*args, **kwargs)[0] + 1,
            *real(*args, **kwargs)[1:],
        )
    for _, probe, written in _probes(model, _call(FLUX, torch.float32)):
        assert torch.equal(probe, written)


@pytest.mark.parametrize("path", ["norm1", "norm1.norm"])
def test_a_class_that_was_patched_is_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build(FLUX)
    kind: Any = type(model.transformer_blocks[0].get_submodule(path))
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *given, **named: real(self, *given, **named))
    for _, probe, written in _probes(model, _call(FLUX, torch.float32)):
        assert torch.equal(probe, written)


class _Adapted(nn.Module):
    """A linear layer with a low-rank adapter, as PEFT wraps one."""

    def __init__(self, real: nn.Linear) -> None:
        super().__init__()
        self.real = real
        self.down = nn.Linear(real.in_features, 2, bias=False)
        self.up = nn.Linear(2, real.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.real(hidden) + self.up(self.down(hidden))
        return output


@pytest.mark.parametrize("tiny", [FLUX, QWEN], ids=str)
def test_adapters_of_the_modulation_count(tiny: Tiny) -> None:
    model: Any = build(tiny)
    before = _probes(model, _call(tiny, torch.float32))
    block = model.transformer_blocks[0]
    if tiny is FLUX:
        block.norm1.linear = _Adapted(block.norm1.linear)
    else:
        block.img_mod[1] = _Adapted(block.img_mod[1])
    after = _probes(model, _call(tiny, torch.float32))
    for (_, was, _), (hidden, probe, written) in zip(before, after, strict=True):
        assert not torch.allclose(probe.shift, was.shift)
        torch.testing.assert_close(probe.of(hidden), written, rtol=1e-5, atol=1e-5)


def test_autocast_has_another_probe() -> None:
    """Where a norm computes in float32, its probe is float32 too, unlike the hidden state."""
    model = build(FLUX, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = _probes(model, _call(FLUX, torch.bfloat16))
    assert all(isinstance(probe, Tensor) for _, probe, _ in found)


@pytest.mark.parametrize(
    ("hidden", "parts", "same"),
    [
        ((2, 5, 8), (2, 24), True),
        ((2, 5, 8), (1, 16), True),
        ((2, 5, 8), (2, 1, 48), True),
        ((2, 5, 8), (2, 5, 24), False),  # of each token its own
        ((2, 5, 8), (4, 24), False),
        ((2, 5, 4), (2, 24), False),  # the norm is over 8 channels
        ((2, 3, 5, 8), (2, 24), False),
    ],
)
def test_what_is_the_same_for_all_tokens(
    hidden: tuple[int, ...], parts: tuple[int, ...], same: bool
) -> None:
    norm = nn.LayerNorm(8, eps=1e-3, elementwise_affine=False)
    features, values = torch.randn(hidden), torch.randn(parts)
    found = layer_norm_modulation(norm, features, values)
    assert (found is not None) == same
    if found is not None:
        assert found.shift.shape == found.scale.shape == (2, 8) and found.eps == 1e-3
        shift, scale = values.reshape(len(values), 1, -1)[..., :16].chunk(2, -1)
        torch.testing.assert_close(found.of(features), norm(features) * (1 + scale) + shift)


def test_a_modulation_in_another_dtype_makes_another_probe() -> None:
    norm = nn.LayerNorm(8, elementwise_affine=False)
    hidden = torch.randn(1, 2, 8, dtype=torch.bfloat16)
    assert layer_norm_modulation(norm, hidden, torch.randn(1, 16)) is None


def test_only_who_asks_gets_one() -> None:
    model = build(FLUX)
    for changes in ({"unwritten": False}, {"want_probe": False}):
        found = _probes(model, _call(FLUX, torch.float32), **changes)
        assert all(isinstance(probe, Tensor) for _, probe, _ in found)


class Launches:
    """Which of the two ops of a skip step ran, how often."""

    def __init__(self) -> None:
        self.fused = mock.Mock(side_effect=ops.modulated_skip_step_)
        self.plain = mock.Mock(side_effect=ops.skip_step_)

    def __enter__(self) -> Launches:
        self._patches = [
            mock.patch("tap_ext.state.ops.modulated_skip_step_", self.fused),
            mock.patch("tap_ext.state.ops.skip_step_", self.plain),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    @property
    def counts(self) -> tuple[int, int]:
        return self.fused.call_count, self.plain.call_count


CONFIG = {**WINDOWED, "graphs": "off"}


def _run(change: Callable[[Any], None] = lambda model: None, **config: Any) -> Any:
    model: Any = build(FLUX)
    change(model)
    tap_ext.accelerate(model, **{**CONFIG, **config})
    with Launches() as launches:
        output = sample(FLUX, model, inputs(FLUX, 1), 9)[0]
    return output, launches.counts, model


def _hook_norm(model: Any) -> None:
    model.transformer_blocks[0].norm1.norm.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize("forecast", ["residual", "hidden"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_run_is_the_same_with_and_without(forecast: str, metric: str) -> None:
    fused, counts, model = _run(forecast=forecast, metric=metric)
    plain, others, other = _run(_hook_norm, forecast=forecast, metric=metric)
    assert counts[0] == others[1] > 0 and counts[1] == others[0] == 0
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    one, two = (tap_ext.stats(m).models[0].branches for m in (model, other))
    assert one == two


def test_looking_changes_nothing() -> None:
    """A trace asks for distances besides; what is predicted is bit-equal."""
    plain, _, _ = _run()
    traced, counts, model = _run(trace=True)
    assert counts[0] > 0 and counts[1] == 0
    assert torch.equal(plain, traced)
    for choice in tap_ext.stats(model).models[0].trace:
        assert choice.distance.isfinite().all() and choice.index.shape == choice.distance.shape


def test_who_decides_from_the_probe_gets_it_written() -> None:
    model: Any = tap_ext.accelerate(build(FLUX), schedule=TeaCache(100.0), graphs="off")
    with Launches() as launches:
        sample(FLUX, model, inputs(FLUX, 1), 9)
    assert launches.counts[0] == 0
    assert tap_ext.stats(model).models[0].skip > 0


def test_the_hidden_state_as_probe() -> None:
    _, counts, _ = _run(probe="input")
    assert counts[0] == 0 and counts[1] > 0
