"""Every spec against the model that it describes."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext.backbones import SPECS, BackboneSpec, find_spec
from tap_ext.modulation import Modulation
from tap_ext.views import Call, Views, run_view, verify
from tests.models import MODELS
from tests.models.base import Tiny, build, call, exists, inputs, sample, tensors
from tests.versions import DIFFUSERS_VERSION

EACH = pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
ORACLE = {torch.float32: 1e-6, torch.bfloat16: 2e-3}
STEPS = 7

ROUNDED = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7}
"""Relative error, in norm, of a written probe: a model in half precision rounds four times."""

WRITTEN = {
    "Flux2Transformer2DModel+extract": "so are the tokens of reference images",
    "HunyuanVideoTransformer3DModel+token_replace": "the first frame is modulated by itself",
    "QwenImageTransformer2DModel+edit": "reference images are modulated by themselves",
}
"""Calls of families that have a modulation, in which it is not the same for all tokens."""

if DIFFUSERS_VERSION < (0, 37):
    WRITTEN["Flux2Transformer2DModel"] = "shift and scale are two tensors"


class Seen:
    """One call of a tiny model in one dtype: by the model itself, and by the full view."""

    def __init__(self, tiny: Tiny, dtype: torch.dtype) -> None:
        self.tiny, self.dtype = tiny, dtype
        self.model = build(tiny, dtype)
        self.spec = _spec(self.model)
        self.views = Views(self.model, self.spec)
        self.arguments = _call(tiny, dtype)
        self.attended = self._attended()
        with torch.no_grad():
            self.truth = tensors(self.model(**copy.deepcopy(self.arguments)))
        for handle in self._handles:
            handle.remove()
        self.full, self.output = _full(self.views, self.arguments)
        self.left = {path: len(outputs) for path, outputs in self.full.idle.items()}
        self.wrong = _locate(self.views, self.full, self.output, self.arguments)

    def _attended(self) -> list[list[Tensor]]:
        """What reaches the first block's attention in the model's own call, for each stream."""
        leader = next(self.model.get_submodule(self.spec.blocks[0].path).children())
        attended: list[list[Tensor]] = [[] for _ in self.spec.streams]
        self._handles = [
            leader.get_submodule(stream.attention).register_forward_pre_hook(
                lambda _, args, kwargs, seen=seen: seen.extend(tensors([args, kwargs])),
                with_kwargs=True,
            )
            for stream, seen in zip(self.spec.streams, attended, strict=True)
        ]
        return attended


@pytest.fixture(
    scope="module",
    params=[(tiny, dtype) for tiny in MODELS.values() for dtype in tiny.dtypes],
    ids=lambda pair: f"{pair[0]}-{str(pair[1]).removeprefix('torch.')}",
)
def seen(request: pytest.FixtureRequest) -> Seen:
    return Seen(*request.param)


def _spec(model: nn.Module) -> BackboneSpec:
    spec = find_spec(model)
    assert spec is not None
    return spec


def _call(tiny: Tiny, dtype: torch.dtype = torch.float32, sigma: float = 0.6) -> dict[str, Any]:
    return call(tiny, tiny.batches[-1], dtype, sigma) | {"return_dict": False}


@torch.no_grad()
def _full(views: Views, arguments: dict[str, Any]) -> tuple[Call, list[Tensor]]:
    full = Call.full(views.spec)
    return full, tensors(run_view(views.full, full, (), copy.deepcopy(arguments)))


def _locate(views: Views, full: Call, output: Any, arguments: dict[str, Any]) -> str | None:
    between = any(arguments.get(name) is not None for name in views.spec.between)
    return verify(views, full, output, (), copy.deepcopy(arguments), between=between)


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    assert [t.shape for t in found] == [t.shape for t in truth]
    pairs = zip(found, truth, strict=True)
    return max(float((a - b).double().norm() / b.double().norm()) for a, b in pairs)


def test_every_spec_has_a_tiny_model() -> None:
    tried = {name.partition("+")[0] for name in MODELS}
    assert tried <= set(SPECS)
    assert set(SPECS) - tried == {name for name in SPECS if not exists(name)}


def test_a_full_view_is_bit_identical_to_the_model(seen: Seen) -> None:
    assert len(seen.output) == len(seen.truth) > 0
    for ours, theirs in zip(seen.output, seen.truth, strict=True):
        assert torch.equal(ours, theirs) and torch.isfinite(theirs).all()


def test_a_check_adds_nothing_to_what_a_full_step_left(seen: Seen) -> None:
    """It runs idle modules again; a graph that is fed with more than before is another graph."""
    assert {path: len(outputs) for path, outputs in seen.full.idle.items()} == seen.left


@torch.no_grad()
def test_a_skip_view_with_the_true_residual_returns_the_models_output(seen: Seen) -> None:
    """The residual is of this step, the idle modules' outputs are of another one."""
    assert seen.wrong is None
    full, views = seen.full, seen.views
    earlier, _ = _full(views, seen.arguments | _call(seen.tiny, seen.dtype, sigma=0.8))
    residuals = [p.output.float() - p.taken(p.hidden) if p.used else None for p in full.passages]
    skip = Call.after(
        full.takes, earlier.idle, lambda s, hidden, _: (hidden + residuals[s]).to(hidden.dtype)
    )
    again = tensors(run_view(views.skip, skip, (), copy.deepcopy(seen.arguments)))
    assert _error(again, seen.truth) <= ORACLE[seen.dtype]
    bypassed = tuple(f"{entry.path}." for entry in views.spec.bypassed)
    assert full.visited == [path for path in skip.visited if not path.startswith(bypassed)]


def test_the_probe_is_what_reaches_the_first_attention(seen: Seen) -> None:
    for passage, attended in zip(seen.full.passages, seen.attended, strict=True):
        if passage.used:
            probe = passage.probe
            assert probe is not None and probe.shape[:-1] == passage.hidden.shape[:-1]
            # ERNIE-Image's blocks take (N, B, D), their attention (B, N, D)
            first = next(t for t in attended if t.numel() == probe.numel())
            first = first if first.shape == probe.shape else first.transpose(0, 1)
            assert torch.equal(probe, first.reshape(probe.shape))


@torch.no_grad()
def test_what_makes_a_probe_makes_it(seen: Seen) -> None:
    """Where a family's norm allows it, a skip step is given that instead."""
    full, given = seen.full, {}

    def forecast(stream: int, hidden: Tensor, probe: Any) -> Tensor:
        given[stream] = hidden, probe
        output = full.passages[stream].output
        assert output is not None
        return output

    call = Call.after(full.takes, full.idle, forecast, unwritten=True)
    run_view(seen.views.skip, call, (), copy.deepcopy(seen.arguments))
    for stream, (hidden, probe) in given.items():
        written = full.passages[stream].taken(full.passages[stream].probe)
        allowed = seen.spec.streams[stream].modulation and str(seen.tiny) not in WRITTEN
        assert isinstance(probe, Modulation) == bool(allowed)
        if isinstance(probe, Modulation):
            wrong = (probe.of(hidden).double() - written.double()).norm()
            assert wrong <= ROUNDED[seen.dtype] * written.double().norm()
        else:
            assert torch.equal(probe, written)


@EACH
@torch.no_grad()
def test_a_skip_view_runs_no_block_and_no_idle_module(tiny: Tiny) -> None:
    model, arguments = build(tiny), _call(tiny)
    views = Views(model, _spec(model))
    full, truth = _full(views, arguments)
    assert _locate(views, full, truth, arguments) is None
    ran: list[str] = []
    lists = (*views.spec.blocks, *views.spec.bypassed)
    watched = [
        f"{e.path}.{n}" for e in lists for n, _ in model.get_submodule(e.path).named_children()
    ]
    for path in (*watched, *(p for p in views.spec.idle if p[-1] not in "*?")):
        model.get_submodule(path).register_forward_pre_hook(
            lambda module, args, path=path: ran.append(path)
        )
    skip = full.skip(lambda stream, hidden, probe: full.passages[stream].output)
    run_view(views.skip, skip, (), copy.deepcopy(arguments))
    assert ran == []
    _full(views, arguments)
    assert set(watched[:1]) <= set(ran)


@EACH
def test_a_spec_names_what_is_there(tiny: Tiny) -> None:
    """Drift of the installed diffusers is red here."""
    model = build(tiny)
    spec = _spec(model)
    names = inspect.signature(type(model).forward).parameters
    assert {spec.latents, spec.timestep, *spec.conditioning} <= set(names)
    if DIFFUSERS_VERSION >= (0, 37):  # Z-Image had no ControlNet
        assert set(spec.between) <= set(names)
    for path in spec.idle:
        assert path.endswith("?") or model.get_submodule(path.removesuffix(".*"))
    leader = next(model.get_submodule(spec.blocks[0].path).children())
    for stream in spec.streams:
        leader.get_submodule(stream.attention)


@EACH
def test_the_timestep_moves_the_way_the_spec_says(tiny: Tiny) -> None:
    spec = SPECS[tiny.name.partition("+")[0]]
    early, late = (
        torch.as_tensor(tiny.time(sigma, 1)[spec.timestep]).double().mean() for sigma in (0.9, 0.1)
    )
    assert early != late and bool(late > early) is spec.rising


@EACH
def test_a_run_skips_and_restore_leaves_nothing(tiny: Tiny) -> None:
    model = build(tiny)
    batch = tiny.batches[-1]
    untouched = sample(tiny, model, inputs(tiny, batch=batch), STEPS)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("default", module="diffusers")
        tap_ext.accelerate(model, window=2, warmup=3)
        near = sample(tiny, model, inputs(tiny, batch=batch), STEPS)
    (stats,) = tap_ext.stats(model).models
    assert not stats.fallbacks
    assert {branch.full_steps for branch in stats.branches} == {(0, 1, 2, 4, 6)}
    assert {branch.skip_steps for branch in stats.branches} == {(3, 5)}
    assert all(torch.isfinite(tensor).all() for tensor in near)
    tap_ext.accelerate(model, window=1)
    exact = sample(tiny, model, inputs(tiny, batch=batch), STEPS)
    tap_ext.restore(model)
    again = sample(tiny, model, inputs(tiny, batch=batch), STEPS)
    for full, plain, truth in zip(exact, again, untouched, strict=True):
        assert torch.equal(full, truth) and torch.equal(plain, truth)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def _parents(spec: BackboneSpec) -> set[str]:
    """Modules inside which a spec names others, beside its lists of blocks."""
    paths = (*spec.idle, *(stream.head for stream in spec.streams))
    return {path.removesuffix("?").rpartition(".")[0] for path in paths} - {""}


@pytest.mark.parametrize(
    "tiny", [t for n, t in MODELS.items() if _parents(SPECS[n.partition("+")[0]])], ids=str
)
@torch.no_grad()
def test_what_is_exchanged_after_a_call_is_what_runs(tiny: Tiny) -> None:
    """Beside what a view replaces, and deep inside: as adapters do, and quantisation."""
    model, plain = tap_ext.accelerate(build(tiny)), build(tiny)
    arguments = _call(tiny)
    model(**copy.deepcopy(arguments))
    before = tensors(plain(**copy.deepcopy(arguments)))
    for each in (model, plain):
        for path in _parents(_spec(plain)):
            if path in dict(each.named_modules()):
                _exchange_children(each.get_submodule(path))
    truth = tensors(plain(**copy.deepcopy(arguments)))
    with tap_ext.run():
        output = tensors(model(**copy.deepcopy(arguments)))
    assert not all(map(torch.equal, truth, before))
    assert all(map(torch.equal, output, truth))


def _exchange_children(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        other = copy.deepcopy(child)
        for parameter in other.parameters():
            parameter.mul_(1.5)
        setattr(parent, name, other)
