"""What is remembered of a call's arguments is what they would have given anew."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import given, native
from tap_ext.given import Flat, Given, Pattern
from tap_ext.graphs import Uncapturable, flatten, join, layout

CPU = torch.device("cpu")

Arguments = dict[str, Any]


@pytest.fixture(autouse=True, params=["compiled", "plain"])
def _both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tap_ext._core`` and its twin."""
    if request.param == "plain":
        monkeypatch.setattr(given, "Arguments", native.ArgumentsPlainly)
    elif native.Arguments is native.ArgumentsPlainly:
        pytest.skip("tap_ext._core was not built")


def _arguments() -> Arguments:
    return {
        "hidden_states": torch.randn(1, 4, 8),
        "text": torch.randn(1, 3, 8),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "scale": 1.5,
        "names": None,
    }


def _pattern(arguments: Arguments, args: tuple[Any, ...] = ()) -> Pattern:
    return Pattern(args, arguments, "hidden_states", "timestep", ("text",))


def _later(arguments: Arguments, **changes: Any) -> Arguments:
    """The next step's."""
    moved = {"hidden_states": torch.randn(1, 4, 8), "timestep": torch.tensor([0.25])}
    return arguments | moved | changes


def test_the_next_step_fits() -> None:
    arguments = _arguments()
    pattern = _pattern(arguments)
    for _ in range(3):
        assert pattern.fits((), _later(arguments))
    assert pattern.signature == _pattern(_later(arguments)).signature


def test_equal_values_fit_whatever_object_they_are() -> None:
    arguments = _arguments() | {"scale": 2.0, "size": (1024, 1024)}
    pattern = _pattern(arguments)
    assert pattern.fits((), _later(arguments, scale=float("2"), size=tuple([1024, 1024])))
    for other in (2, True, "2.0", None, float("nan")):
        assert pattern.fits((), _later(arguments, scale=other)) is False
    for size in ([1024, 1024], (1024.0, 1024), (1024,)):
        assert pattern.fits((), _later(arguments, size=size)) is False


CHANGED: dict[str, Callable[[Arguments], Arguments]] = {
    "another text": lambda a: _later(a, text=torch.randn(1, 3, 8)),
    "a copy of it": lambda a: _later(a, text=a["text"].clone()),
    "another guidance": lambda a: _later(a, guidance=torch.tensor([2.0])),
    "another scale": lambda a: _later(a, scale=2.5),
    "no scale": lambda a: {k: v for k, v in _later(a).items() if k != "scale"},
    "one more": lambda a: _later(a, extra=1),
    "another order": lambda a: dict(reversed(_later(a).items())),
    "longer latents": lambda a: _later(a, hidden_states=torch.randn(1, 5, 8)),
    "other strides": lambda a: _later(a, hidden_states=torch.randn(1, 8, 4).mT),
    "other dtype": lambda a: _later(a, hidden_states=torch.randn(1, 4, 8).bfloat16()),
    "elsewhere": lambda a: _later(a, hidden_states=torch.randn(1, 4, 8, device="meta")),
    "gradients": lambda a: _later(a, hidden_states=torch.randn(1, 4, 8, requires_grad=True)),
    "more times": lambda a: _later(a, timestep=torch.tensor([0.25, 0.25])),
    "a number": lambda a: _later(a, timestep=0.25),
    "a list": lambda a: _later(a, hidden_states=[torch.randn(1, 4, 8)]),
    "a parameter": lambda a: _later(a, timestep=torch.nn.Parameter(torch.ones(1), False)),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_any_other_call_does_not(change: Callable[[Arguments], Arguments]) -> None:
    arguments = _arguments()
    assert _pattern(arguments).fits((), change(arguments)) is False


def _edit(text: Tensor) -> None:
    text.add_(1)


def _move(text: Tensor) -> None:
    text.data = text.data.clone()


@pytest.mark.parametrize("edit", [_edit, _move])
def test_what_was_edited_is_not_the_same(edit: Callable[[Tensor], None]) -> None:
    arguments = _arguments()
    pattern = _pattern(arguments)
    edit(arguments["text"])
    assert not pattern.fits((), _later(arguments))
    assert _pattern(arguments).fits((), _later(arguments))


def test_nothing_is_not_what_is_gone() -> None:
    arguments = _arguments()
    pattern = _pattern(arguments)
    pattern.conditioning = None
    del arguments["guidance"]
    gc.collect()
    later = _later(arguments, guidance=None)
    order = {name: later[name] for name in _arguments()}
    assert not pattern.fits((), order)


def test_by_position_is_another_call_than_by_name() -> None:
    arguments = _arguments()
    pattern = _pattern(arguments)
    assert not pattern.fits((arguments["hidden_states"],), _later(arguments))


@pytest.mark.parametrize("inside", [[], [1], (1, "a"), {}, {"a": {"b": [2]}}, [torch.ones(1)]])
def test_what_is_inside_is_looked_at(inside: Any) -> None:
    arguments = _arguments() | {"more": inside}
    pattern = _pattern(arguments)
    assert pattern.fits((), _later(arguments))
    assert pattern.fits((), _later(arguments, more=copy.copy(inside)))
    for other in ([], [1], (1, "a"), (1,), [True], {}, {"a": {"b": [3]}}, [torch.zeros(1)], None):
        if str(other) != str(inside):
            assert not pattern.fits((), _later(arguments, more=other))


def test_what_is_edited_inside_is_seen() -> None:
    weights = torch.ones(2)
    more: dict[str, Any] = {"scale": 1.0, "weights": [weights]}
    arguments = _arguments() | {"more": more}
    pattern = _pattern(arguments)
    more["scale"] = 0.5
    assert not pattern.fits((), _later(arguments))
    more["scale"] = 1.0
    assert pattern.fits((), _later(arguments))
    weights += 1
    assert not pattern.fits((), _later(arguments))


@pytest.mark.parametrize("inside", [object(), [object()], torch.ones(1).to_sparse()])
def test_what_may_change_unseen_never_fits(inside: Any) -> None:
    arguments = _arguments() | {"more": inside}
    pattern = _pattern(arguments)
    assert not pattern.fits((), _later(arguments))
    assert pattern.signature == _pattern(_later(arguments)).signature


def test_inference_tensors_have_no_version() -> None:
    with torch.inference_mode():
        arguments = _arguments()
        assert _pattern(arguments).fits((), _later(arguments))


@pytest.mark.parametrize("count", [0, 2])
def test_flattened_is_what_it_would_be_anew(count: int) -> None:
    """Of every step, with the first two arguments by position or none."""
    first = _arguments()
    pattern = _pattern(first, tuple(first.values())[:count])
    beside: dict[str, Any] = {"idle": [torch.randn(2)]}
    seen: dict[str, Flat] = {}
    nothing: dict[str, Any] = {}
    again = 0
    for step in range(6):
        arguments = _later(first)
        args = tuple(arguments.values())[:count]
        kwargs = dict(list(arguments.items())[count:])
        assert pattern.fits(args, arguments)
        given = Given(args, kwargs, arguments, pattern)
        if step == 3:
            beside = {"idle": [torch.randn(2), torch.randn(3)]}
        for kind, more in (("skip", beside), ("full", nothing)):
            flat = given.flatten(kind, more, CPU)
            truth, expected = flatten((args, kwargs, more), CPU, "it")
            assert [id(t) for t in flat.tensors] == [id(t) for t in truth]
            assert flat.rest == expected and flat.key == (kind, expected, layout(truth))
            assert join(flat.tensors, flat.rest)[0] == args
            before = seen.get(kind)
            if before is not None and before.key is flat.key:
                again += 1
                assert flat.moving is not None
                pairs = zip(before.tensors, flat.tensors, strict=True)
                moved = {place for place, (a, b) in enumerate(pairs) if a is not b}
                assert moved == set(flat.moving)
            seen[kind] = flat
    assert again == 4 + 5  # not the first of all, nor where other tensors stand beside


def test_a_tensor_that_is_given_twice_is_found_in_both_places() -> None:
    arguments = _arguments()
    arguments["text"] = arguments["hidden_states"]
    pattern = _pattern(arguments)
    beside: dict[str, Any] = {}
    for later in (arguments, _later(arguments), _later(arguments)):
        assert pattern.fits((), later)
        flat = Given((), later, later, pattern).flatten("skip", beside, CPU)
        assert flat.tensors[0] is later["hidden_states"]
        assert flat.tensors[1] is arguments["text"]
        assert later is not arguments or flat.moving is None
    assert flat.moving == (0, 2)


def test_what_may_be_edited_unseen_is_looked_at_every_time() -> None:
    """Of tensors made in inference mode, no version tells."""
    with torch.inference_mode():
        arguments = _arguments()
    arguments["hidden_states"] = torch.randn_like(arguments["hidden_states"])
    pattern, beside = _pattern(arguments), dict[str, Any]()
    for _ in range(3):
        later = _later(arguments)
        assert pattern.fits((), later)
        flat = Given((), later, later, pattern).flatten("skip", beside, CPU)
    assert flat.moving == tuple(range(len(flat.tensors)))


def test_another_device_is_refused_every_time() -> None:
    arguments = _arguments()
    pattern, beside = _pattern(arguments), dict[str, Any]()
    Given((), arguments, arguments, pattern).flatten("skip", beside, CPU)
    for _ in range(2):
        with pytest.raises(Uncapturable, match="on cpu, beside meta"):
            Given((), arguments, arguments, pattern).flatten("skip", beside, torch.device("meta"))


def test_no_latents_are_kept() -> None:
    arguments = _arguments()
    pattern = _pattern(arguments)
    later = _later(arguments)
    Given((), later, later, pattern).flatten("skip", {}, CPU)
    assert pattern.fits((), later)
    Given((), later, later, pattern).flatten("skip", {}, CPU)
    gone = [weakref.ref(a[n]) for a in (arguments, later) for n in ("hidden_states", "timestep")]
    del arguments, later
    gc.collect()
    assert [reference() for reference in gone] == [None] * 4


def test_what_is_given_once_is_not_kept() -> None:
    """As what a ControlNet adds, which is large."""
    arguments = _arguments() | {"residuals": [torch.randn(1, 4, 8)]}
    pattern = _pattern(arguments)
    Given((), arguments, arguments, pattern).flatten("skip", {}, CPU)
    residual = weakref.ref(arguments["residuals"].pop())
    gc.collect()
    assert residual() is None
    assert not pattern.fits((), _later(arguments, residuals=[torch.randn(1, 4, 8)]))
