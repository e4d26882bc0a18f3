"""Views: full steps are the model's own, skip steps are the model without its blocks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tap_ext.backbones import BackboneSpec, Blocks, Stream, find_spec
from tap_ext.native import Seen, SeenPlainly
from tap_ext.views import AdapterError, Call, Views, graft, pair, run_view, verify
from tests import tiny

EACH = pytest.mark.parametrize("family", tiny.MODELS, ids=lambda family: family.name)
TEXT_FIRST = ("encoder_hidden_states", "hidden_states")
HEAD = Stream("norm_out")


def _spec(model: nn.Module) -> BackboneSpec:
    spec = find_spec(model)
    assert spec is not None
    return spec


def _arguments(
    family: tiny.Tiny, dtype: torch.dtype = torch.float32, batch: int = 2
) -> dict[str, Any]:
    timestep = torch.full((batch,), 0.6, dtype=dtype)
    return {**tiny.inputs(family, batch=batch, dtype=dtype), "timestep": timestep}


@EACH
def test_the_model_is_never_written_to(family: tiny.Tiny) -> None:
    model = tiny.build(family)
    before = {name: id(module) for name, module in model.named_modules()}
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    views = Views(model, _spec(model))
    with torch.no_grad():
        run_view(views.full, Call.full(views.spec), (), _arguments(family))
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    shared = {id(p) for p in model.parameters()}
    assert {id(p) for p in views.full.parameters()} <= shared


SWAPPED = {
    "a child of the root": ("", "x_embedder"),
    "a block": ("transformer_blocks", "0"),
    "the mode": ("", "training"),
    "an attribute of the root": ("", "out_channels"),
    "the configuration": ("", "_internal_dict"),
}


@pytest.mark.parametrize("seen", [Seen, SeenPlainly], ids=["compiled", "plain"])
@pytest.mark.parametrize(("path", "name"), SWAPPED.values(), ids=SWAPPED)
def test_a_view_is_stale_when_what_it_copies_changes(
    path: str, name: str, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "Seen", seen)
    model = tiny.build(tiny.MODELS[0])
    views = Views(model, _spec(model))
    model.forward = model.forward  # type: ignore[method-assign]
    assert not views.stale(model)
    owner = model.get_submodule(path)
    before = getattr(owner, name)
    setattr(owner, name, not before if name == "training" else _another(before))
    assert views.stale(model)


def _another(value: Any) -> Any:
    return value + 1 if isinstance(value, int) else copy.copy(value)


def test_graft_copies_only_the_path() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    new = nn.Identity()
    view = graft(model, {"0.1": new})
    assert view[0][1] is new and isinstance(model[0][1], nn.ReLU)
    assert view[0][0] is model[0][0] and view[1] is model[1] and view is not model


@pytest.mark.parametrize("path", ["absent", "0.7", "0.1.absent"])
def test_graft_names_what_is_missing(path: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(AdapterError, match=f"no submodule '{path.rsplit('.', 1)[-1]}'"):
        graft(model, {path: nn.Identity()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": (Stream("absent"),)}, "no module 'absent'"),
        ({"streams": (Stream("norm_out", "h"),)}, "no argument 'h'"),
        ({"streams": (Stream("context_embedder.*"),)}, "is empty"),
        ({"blocks": (Blocks("absent"),)}, "no module 'absent'"),
        ({"blocks": (Blocks("pos_embed"),)}, "is empty"),
        ({"blocks": (Blocks("transformer_blocks", ("h",)),)}, "no argument 'h'"),
        ({"streams": (HEAD, HEAD)}, "names 'norm_out' twice"),
        ({"idle": ("absent",)}, "no module 'absent'"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_by_name(change: dict, message: str) -> None:
    model = tiny.build(tiny.MODELS[0])
    with pytest.raises(AdapterError, match=message):
        Views(model, replace(_spec(model), **change))


def _verdict(
    model: nn.Module, spec: BackboneSpec, arguments: dict[str, Any], between: bool = False
) -> str | None:
    views = Views(model, spec)
    full = Call.full(spec)
    output = run_view(views.full, full, (), arguments)
    return verify(views, full, output, (), arguments, between=between)


@EACH
def test_the_self_check_accepts_the_spec(family: tiny.Tiny) -> None:
    model = tiny.build(family)
    with torch.no_grad():
        assert _verdict(model, _spec(model), _arguments(family)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # the second list stays in the skip view: it adds to what the first block was given
        ({"blocks": (Blocks("transformer_blocks", TEXT_FIRST),)}, "does not see what entered"),
        # the wrong order of returning: after an odd number of blocks the head sees the text
        (
            {
                "blocks": (
                    Blocks("transformer_blocks", TEXT_FIRST),
                    Blocks("single_transformer_blocks", TEXT_FIRST[::-1]),
                )
            },
            "the head 'norm_out' is given shape (2, 6, 32) on a skip step, (2, 16, 32) on a full",
        ),
        # entered late: the first list runs on every step, which is slower, not wrong
        (
            {
                "blocks": (Blocks("single_transformer_blocks", TEXT_FIRST),),
                "streams": (replace(HEAD, probe=lambda block, hidden, arguments: hidden),),
            },
            None,
        ),
    ],
)
def test_the_self_check_refuses_a_wrong_spec(change: dict, message: str | None) -> None:
    model = tiny.build(tiny.MODELS[0])
    arguments = _arguments(tiny.MODELS[0])
    with torch.no_grad():
        verdict = _verdict(model, replace(_spec(model), **change), arguments)
    assert verdict is None if message is None else message in str(verdict)


@torch.no_grad()
def test_residuals_added_between_blocks_do_not_count_twice() -> None:
    model = tiny.build(tiny.MODELS[0])
    added = [torch.randn(2, tiny.GRID**2, 32) for _ in range(2)]
    arguments = {**_arguments(tiny.MODELS[0]), "controlnet_block_samples": added}
    assert _verdict(model, _spec(model), arguments, between=True) is None
    assert "does not see what entered" in (_verdict(model, _spec(model), arguments) or "")
