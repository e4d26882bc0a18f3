"""Specs that are wrong: refused with a reason, or harmless; the output is never wrong."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import tap_ext
from tap_ext.backbones import SPECS, BackboneSpec
from tap_ext.views import AdapterError, Call, Views, run_view
from tests.models import MODELS
from tests.models.base import Tiny, build, call, inputs, sample, tensors

CLASSES = {name: tiny for name, tiny in MODELS.items() if "+" not in name}


def _mutants(model: nn.Module, spec: BackboneSpec) -> Iterator[tuple[str, BackboneSpec]]:
    """Every spec that differs in one place."""
    for number, stream in enumerate(spec.streams):
        for name, child in model.named_children():
            if name != stream.head and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                yield f"head {name}", _with_stream(spec, number, head=name)
        for tokens in ("first", "last", "inside"):
            yield f"tokens {tokens}", _with_stream(spec, number, tokens=tokens)
        for name in {name for blocks in spec.blocks for name in blocks.returns} - {stream.hidden}:
            yield f"hidden {name}", _with_stream(spec, number, hidden=name)
    for number, blocks in enumerate(spec.blocks):
        rest = spec.blocks[:number] + spec.blocks[number + 1 :]
        if rest:
            yield f"without {blocks.path}", replace(spec, blocks=rest)
        if len(blocks.returns) > 1:
            turned = replace(blocks, returns=blocks.returns[::-1])
            changed = (*spec.blocks[:number], turned, *spec.blocks[number + 1 :])
            yield f"{blocks.path} turned", replace(spec, blocks=changed)
    for name, child in model.named_children():
        container = isinstance(child, (nn.ModuleList, nn.ModuleDict))
        if not container and name not in {path.rstrip("?") for path in spec.idle}:
            yield f"idle {name}", replace(spec, idle=(*spec.idle, name))


def _with_stream(spec: BackboneSpec, number: int, **changes: Any) -> BackboneSpec:
    streams = list(spec.streams)
    streams[number] = replace(streams[number], **changes)
    return replace(spec, streams=tuple(streams))


@pytest.mark.parametrize("tiny", CLASSES.values(), ids=str)
def test_a_wrong_spec_is_refused_or_harmless(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    """Harmless: a skip step still gives the model's output when its forecast is the truth."""
    model = build(tiny)
    batch = tiny.batches[0]
    first = call(tiny, batch, sigma=0.8) | {"return_dict": False}
    later = first | tiny.time(0.6, batch)  # the same objects: a call is known by them
    with torch.no_grad():
        truth = [tensors(model(**copy.deepcopy(given))) for given in (first, later)]
    refused = 0
    for what, spec in _mutants(model, SPECS[tiny.name]):
        monkeypatch.setitem(SPECS, tiny.name, spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                tap_ext.accelerate(model, window=10, warmup=1)
            except AdapterError:
                refused += 1
                continue
            with torch.no_grad(), tap_ext.run():
                assert _equal(tensors(model(**first)), truth[0]), what
                second = tensors(model(**later))
            if tap_ext.stats(model).models[0].fallbacks:
                refused += 1
                assert _equal(second, truth[1]), what
            else:
                assert _oracle_is_right(model, spec, first, later, truth[1]), what
        tap_ext.restore(model)
    assert refused > 0


@torch.no_grad()
def _oracle_is_right(
    model: nn.Module, spec: BackboneSpec, first: Any, later: Any, truth: list[torch.Tensor]
) -> bool:
    views = Views(model, spec)
    before, now = Call.full(spec), Call.full(spec)
    run_view(views.full, before, (), first)
    run_view(views.full, now, (), later)
    outputs = [passage.output for passage in now.passages]
    takes = tuple(take or slice(None) for take in now.takes)
    skip = Call.after(takes, before.idle, lambda stream, hidden, probe: outputs[stream])
    again = tensors(run_view(views.skip, skip, (), later))
    return all(
        a.shape == b.shape and float((a - b).norm() / b.norm()) <= 1e-5
        for a, b in zip(again, truth, strict=True)
    )


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_restore_after_a_refusal_leaves_a_working_model() -> None:
    tiny = CLASSES["SD3Transformer2DModel"]
    model = build(tiny)
    truth = sample(tiny, model, inputs(tiny), 4)
    wrong = _with_stream(SPECS[tiny.name], 0, head="proj_out")
    tap_ext.accelerate(model, spec=wrong)
    with pytest.warns(UserWarning, match="self-check failed"):
        assert torch.equal(sample(tiny, model, inputs(tiny), 4)[0], truth[0])
    tap_ext.accelerate(model, spec=SPECS[tiny.name], window=2)
    sample(tiny, model, inputs(tiny), 6)
    assert tap_ext.stats(model).skip == 2
