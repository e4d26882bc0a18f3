"""What recorded work is given, and what it takes for granted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from tap_ext.graphs import Graphs, Parts, Uncapturable, flatten, guard, hooked, join
from tap_ext.graphs.guard import look, look_plainly
from tap_ext.graphs.inputs import Inputs
from tests.graphs.recorder import Recorder

CPU = torch.device("cpu")


def test_flatten_and_join_are_inverse() -> None:
    value = ((torch.ones(2), None), {"a": [torch.zeros(1), {"b": (3, "c")}], "d": 0.5})
    found, rest = flatten(value, CPU, "it")
    assert [tensor.tolist() for tensor in found] == [[1.0, 1.0], [0.0]]
    joined = join([tensor + 1 for tensor in found], rest)
    assert joined[0][1] is None and joined[1]["d"] == 0.5
    assert joined[1]["a"][1] == {"b": (3, "c")} and type(joined[1]["a"]) is list
    assert joined[0][0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("left", "right"), [(1, 1.0), (1, True), ([1], (1,)), ({"a": 1}, {"b": 1})]
)
def test_values_of_another_kind_are_another_key(left: Any, right: Any) -> None:
    assert flatten(left, CPU, "it")[1] != flatten(right, CPU, "it")[1]


class _Special(Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.empty(1, device="meta")], "on meta, beside cpu"),
        ((object(),), "holds a object"),
        ({"a": torch.ones(1).as_subclass(_Special)}, "holds a _Special"),
        (nn.Linear(1, 1), "holds a Linear"),
    ],
)
def test_what_cannot_be_recorded(value: Any, words: str) -> None:
    with pytest.raises(Uncapturable, match=f"^the call .*{words}"):
        flatten(value, CPU, "the call")


def test_only_what_changed_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.ones(3), torch.ones(1).expand(4)
    inputs = Inputs([first, second])
    copied: list[Tensor] = []
    real = Tensor.copy_
    monkeypatch.setattr(
        Tensor, "copy_", lambda self, other: copied.append(other) or real(self, other)
    )

    def load(*given: Tensor) -> int:
        copied.clear()
        inputs.load(given)
        assert all(torch.equal(a, b) for a, b in zip(inputs.tensors, given, strict=True))
        return len(copied)

    assert load(first, second) == 2
    assert load(first, second) == 0
    first.add_(1)
    assert load(first, second) == 1
    first.data = torch.full((3,), 7.0)  # leaves the version as it was
    assert load(first, second) == 1
    assert load(first.clone(), second) == 1
    with torch.inference_mode():
        untold = first + 1
    assert [load(untold, second) for _ in range(2)] == [1, 1]


def test_a_fingerprint_tells_what_moved() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    parts = Parts(layer.modules)
    assert list(parts) == list(layer.modules())
    seen = [parts.fingerprint()]

    def moved() -> bool:
        seen.append(parts.fingerprint())
        return seen[-1] not in seen[:-1]

    with torch.no_grad():
        layer[0].weight.add_(1)
    assert not moved()
    layer[0].bias.data = layer[0].bias.data.clone()
    assert moved()
    layer[1][0].running_mean = torch.zeros(2)
    assert moved()
    layer[1][1].eval()
    assert moved()
    layer[1][1] = nn.GELU()
    assert moved()
    layer[1].append(nn.Linear(2, 2))
    assert moved()
    layer[1][2].weight.data = layer[1][2].weight.data.clone()  # of one that came later
    assert moved()
    handle = layer[1][2].register_forward_hook(lambda *_: None)
    assert moved()
    handle.remove()
    assert not moved()
    layer[0].scaling = {"one": 1.0}
    assert moved()
    layer[0].scaling["one"] = 0.5
    assert moved()
    layer[0].forward = lambda x: x
    assert moved()
    layer.to("meta")
    assert moved()


def test_weights_without_an_address_are_known_by_what_they_are() -> None:
    class Quantised(Tensor):
        @staticmethod
        def __new__(cls, size: int) -> Quantised:
            made: Quantised = Tensor._make_wrapper_subclass(cls, (size,))
            return made

        @classmethod
        def __torch_dispatch__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return Quantised(2)  # detach(), for a parameter

    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(Quantised(2), requires_grad=False)
    parts = Parts(layer.modules)
    before = parts.fingerprint()
    assert parts.fingerprint() == before
    layer.bias.data = layer.bias.data.clone()
    moved = parts.fingerprint()
    assert moved != before
    layer.weight = nn.Parameter(Quantised(2), requires_grad=False)
    assert parts.fingerprint() not in (before, moved)


def test_hooks_are_named() -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    assert hooked(layer.modules()) is None
    handle = layer[0].register_forward_pre_hook(lambda *_: None)
    assert "Linear has hooks" in str(hooked(layer.modules()))
    handle.remove()
    layer._hf_hook = object()
    assert "Sequential has hooks" in str(hooked(layer.modules()))
    del layer._hf_hook
    registry = HookRegistry.check_if_exists_or_initialize(layer[0])
    assert hooked(layer.modules()) is None  # an empty one does nothing
    registry.register_hook(ModelHook(), "any, as of context parallelism")
    assert "Linear has hooks" in str(hooked(layer.modules()))


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))


EDITS: dict[str, Callable[[Any], Any]] = {
    "a weight": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(2, 2))),
    "its memory": lambda m: setattr(m[0].weight, "data", torch.ones(2, 2)),
    "a weight that was none": lambda m: setattr(m[2], "bias", nn.Parameter(torch.ones(2))),
    "no bias": lambda m: setattr(m[0], "bias", None),
    "a bias that went elsewhere": lambda m: m[2]._parameters.update(
        bias=m[0]._parameters.pop("bias")
    ),
    "a buffer": lambda m: setattr(m[1], "running_mean", torch.ones(2)),
    "a new buffer": lambda m: m[2].register_buffer("more", torch.ones(2)),
    "a hook": lambda m: m[1].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m[1].register_forward_pre_hook(lambda *_: None),
    "the mode": lambda m: m[1].train(not m[1].training),
    "an attribute": lambda m: setattr(m[0], "forward", m[0].forward),
    "a child": lambda m: m.__setitem__(2, nn.Identity()),
    "one more": lambda m: m.append(nn.Identity()),
    "one less": lambda m: m.__delitem__(2),
}


@pytest.mark.parametrize("looking", [look, look_plainly], ids=["compiled", "plain"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_edit_is_seen(
    edit: Callable[[Any], Any], looking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "look", looking)
    layers = _layers()
    parts = Parts(layers.modules)
    before = parts.fingerprint()
    assert parts.fingerprint() == before
    edit(layers)
    after = parts.fingerprint()
    assert after != before and parts.fingerprint() == after


def test_edits_in_place_need_not_be_seen() -> None:
    layers = _layers()
    parts = Parts(layers.modules)
    before = parts.fingerprint()
    layers[0].weight.data.add_(1)
    assert parts.fingerprint() == before


def test_what_is_no_module_is_refused() -> None:
    looking = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built").look
    with pytest.raises((KeyError, TypeError)):
        looking([{}], Tensor.data_ptr)
    own = _layers()[0].__dict__
    for name in ("_modules", "_parameters", "_forward_hooks"):
        with pytest.raises((KeyError, TypeError)):
            looking([{**own, name: 3}], Tensor.data_ptr)
        with pytest.raises((KeyError, TypeError)):
            looking([own, {k: v for k, v in own.items() if k != name}], Tensor.data_ptr)

    def fails(_: Tensor) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        looking([own], fails)


@pytest.mark.parametrize("how", [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}])
def test_what_captures_itself_is_not_captured_again(how: dict[str, Any]) -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    layer[0].compile()
    assert hooked(layer.modules()) is None
    before = Parts(layer.modules).fingerprint()
    layer.compile(**how)
    assert Parts(layer.modules).fingerprint() != before
    assert "Sequential is compiled into CUDA graphs" in str(hooked(layer.modules()))
    layer.compile(backend="eager")
    assert hooked(layer.modules()) is None


def test_too_many_kinds_are_told_of() -> None:
    told: list[str] = []
    graphs = Graphs(Recorder(), told.append)
    for key in range(20):
        assert graphs.call(key, lambda given: given[0] + 1, [torch.ones(1)]).item() == 2
    assert graphs.captured == 0 and len(told) == 2
    assert "more than 8 kinds of step" in told[0]
