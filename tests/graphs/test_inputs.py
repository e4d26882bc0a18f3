"""What recorded work is given, and what it takes for granted."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tap_ext.graphs import Graphs, Parts, Uncapturable, flatten, guard, hooked, join, layout
from tap_ext.graphs.inputs import Inputs
from tap_ext.native import Seen, SeenPlainly
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


def test_places_that_are_named_are_copied_alone() -> None:
    given = [torch.zeros(2), torch.zeros(3), torch.zeros(1)]
    inputs = Inputs(given)
    inputs.load(given)
    inputs.load([tensor + 1 for tensor in given], (0, 2))
    assert [tensor.tolist() for tensor in inputs.tensors] == [[1, 1], [0, 0, 0], [1]]
    inputs.load(given)  # what was there in between is not taken for what is given
    assert [tensor.tolist() for tensor in inputs.tensors] == [[0, 0], [0, 0, 0], [0]]


def _key() -> tuple[str, tuple[int, ...]]:
    """Always equal, never the same."""
    return "it", tuple([1, 2])


def test_the_very_same_key_says_what_may_have_moved() -> None:
    graphs, fixed, key, other = Graphs(Recorder(), pytest.fail), torch.ones(2), _key(), _key()
    assert key == other and key is not other

    def call(key: Any, moving: float, moved: tuple[int, ...] | None) -> list[float]:
        given = [torch.full((2,), moving), fixed]
        made = graphs.call(key, lambda given: (given[0] + 10 * given[1],), given, moved)
        result: list[float] = made[0].tolist()
        return result

    assert call(key, 1, None) == call(key, 1, None) == [11, 11]
    assert graphs.captured == 1 and graphs.replayed == 1
    assert call(key, 2, (0,)) == [12, 12]
    fixed.add_(1)
    assert call(key, 2, (0,)) == [12, 12]  # it was told that this has not changed
    assert call(other, 2, (0,)) == [22, 22]
    assert call(key, 3, (0,)) == [23, 23]
    assert graphs.expect("skip", 1) and call(key, 3, (0,)) == [23, 23]
    before = graphs.replayed
    assert graphs.expect("skip", 2) and not graphs.expect("skip", 2)
    assert call(key, 4, (0,)) == [24, 24]
    assert graphs.replayed == before  # called anew, and not what was recorded


def test_inputs_that_were_half_loaded_are_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, key, other = Graphs(Recorder(), pytest.fail), _key(), _key()

    def call(key: Any, value: float, moved: tuple[int, ...] | None = None) -> list[float]:
        given = [torch.full((1,), value), torch.full((1,), value)]
        made = graphs.call(key, lambda given: given[0] + given[1], given, moved)
        result: list[float] = made.tolist()
        return result

    assert call(key, 1) == call(key, 1) == [2]
    real = Inputs.load

    def fails(self: Inputs, given: Any, places: Any = None) -> None:
        real(self, [given[0], self.tensors[1]], places)
        raise RuntimeError("no memory, say")

    monkeypatch.setattr(Inputs, "load", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        call(other, 5)
    monkeypatch.setattr(Inputs, "load", real)
    assert call(key, 1, (1,)) == [2]


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda t: t + 1,
    "a tuple": lambda t: (t + 1, (2, None)),
    "nested": lambda t: {"a": [t + 1, "b"], "c": (t + 2,)},
    "what diffusers' models return": lambda t: (Transformer2DModelOutput(sample=t + 1), 3),
}


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_what_is_returned_is_the_callers_own(function: Callable[[Tensor], Any]) -> None:
    graphs, made = Graphs(Recorder(), pytest.fail), []
    for value in range(4):
        made.append(graphs.call("it", lambda given: function(given[0]), [torch.full((2,), value)]))
    assert graphs.replayed == 3
    for value, result in enumerate(made):
        expected = function(torch.full((2,), value))
        found, rest = tree_flatten(result)
        truth, structure = tree_flatten(expected)
        assert rest == structure and str(found) == str(truth)


def test_a_version_tells_what_moved() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    parts = Parts(layer.modules)
    assert list(parts) == list(layer.modules())
    seen = [parts.version()]

    def moved() -> bool:
        seen.append(parts.version())
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
    assert moved()
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
    before = parts.version()
    assert parts.version() == before
    layer.bias.data = layer.bias.data.clone()
    moved = parts.version()
    assert moved != before
    layer.weight = nn.Parameter(Quantised(2), requires_grad=False)
    assert parts.version() not in (before, moved)


def test_an_address_that_cannot_be_had_is_left_out() -> None:
    class Hidden(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is Tensor.data_ptr:
                raise RuntimeError("Cannot access data pointer")
            return super().__torch_function__(func, types, args, kwargs)

    layer = nn.Linear(2, 2)
    layer.register_buffer("packed", torch.ones(2).as_subclass(Hidden))
    parts = Parts(layer.modules)
    before = parts.version()
    assert parts.version() == before
    _move(layer.bias)  # that of the others is looked at all the same
    moved = parts.version()
    assert moved != before and parts.version() == moved
    layer.packed = torch.ones(2).as_subclass(Hidden)
    assert parts.version() != moved


def test_what_is_looked_at_is_held() -> None:
    """Else another module could get the place in memory of one that is gone."""
    layers = _layers()
    parts = Parts(layers.modules)
    before, gone = parts.version(), weakref.ref(layers[0])
    layers[0] = nn.Linear(2, 2)
    gc.collect()
    assert gone() is not None
    assert parts.version() != before
    gc.collect()
    assert gone() is None


def test_hooks_are_named() -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    assert hooked(layer.modules()) is None
    handle = layer[0].register_forward_pre_hook(lambda *_: None)
    assert "Linear has hooks" in str(hooked(layer.modules()))
    handle.remove()
    for name in ("_hf_hook", "_diffusers_hook"):  # of a kind that nobody knows
        setattr(layer, name, object())
        assert "Sequential has hooks" in str(hooked(layer.modules()))
        delattr(layer, name)
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


@pytest.mark.parametrize("seen", [Seen, SeenPlainly], ids=["compiled", "plain"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_edit_is_seen(
    edit: Callable[[Any], Any], seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "Seen", seen)
    layers = _layers()
    parts = Parts(layers.modules)
    before = parts.version()
    assert parts.version() == before
    edit(layers)
    after = parts.version()
    assert after != before and parts.version() == after


class _Tree(nn.Module):
    """Calls one part, reads the weight of another, and leaves the rest alone."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.read = nn.ModuleDict({"inner": nn.Linear(2, 2)})
        self.idle = nn.Sequential(nn.Linear(2, 2))
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.called(x), x @ self.read["inner"].weight])


def _move(tensor: Tensor) -> None:
    tensor.data = tensor.data.clone()


def _narrowed(tree: _Tree) -> Parts:
    parts = Parts(tree.modules)
    before = parts.version()
    with parts.narrowed():
        tree(torch.ones(1, 2))
    assert parts.version() == before  # or what was recorded would be dropped at once
    return parts


TOUCHED: dict[str, tuple[bool, Callable[[_Tree], Any]]] = {
    "what was called": (True, lambda t: _move(t.called[0].weight)),
    "its bias": (True, lambda t: _move(t.called[0].bias)),
    "a part of it": (True, lambda t: t.called.__setitem__(1, nn.GELU())),
    "what was read": (True, lambda t: _move(t.read["inner"].weight)),
    "who holds it": (True, lambda t: t.read.update({"inner": nn.Linear(2, 2)})),
    "another part beside it": (True, lambda t: t.read.update({"more": nn.Linear(2, 2)})),
    "the root": (True, lambda t: setattr(t, "idle", nn.Identity())),
    "a buffer of the root": (True, lambda t: _move(t.scale)),
    "a hook": (True, lambda t: t.called[1].register_forward_hook(lambda *_: None)),
    "what was not touched": (False, lambda t: _move(t.idle[0].weight)),
    "a part of what was not": (False, lambda t: t.idle.append(nn.ReLU())),
}


@pytest.mark.parametrize(("seen", "edit"), TOUCHED.values(), ids=TOUCHED)
def test_only_what_a_recording_touched_is_looked_at(
    seen: bool, edit: Callable[[_Tree], Any]
) -> None:
    tree = _Tree()
    parts = _narrowed(tree)
    before = parts.version()
    edit(tree)
    after = parts.version()
    assert (after != before) == seen and parts.version() == after


def test_what_another_recording_touched_is_looked_at_too() -> None:
    tree = _Tree()
    parts = _narrowed(tree)
    before = parts.version()
    with parts.narrowed():
        tree.idle(torch.ones(1, 2))
    assert parts.version() == before
    _move(tree.called[0].weight)
    moved = parts.version()
    assert moved != before
    _move(tree.idle[0].weight)  # all are looked at again, until something is recorded
    assert parts.version() != moved


def test_what_moves_during_a_recording_is_seen() -> None:
    tree = _Tree()
    parts = Parts(tree.modules)
    before = parts.version()
    with parts.narrowed():
        tree(torch.ones(1, 2))
        _move(tree.called[0].weight)
    assert parts.version() != before


def test_what_moves_during_a_later_recording_is_seen() -> None:
    tree = _Tree()
    parts = _narrowed(tree)
    before = parts.version()
    with parts.narrowed():
        tree.idle(torch.ones(1, 2))
        _move(tree.idle[0].weight)
    assert parts.version() != before


def test_recordings_that_are_gone_leave_nothing_to_look_at() -> None:
    tree = _Tree()
    parts = _narrowed(tree)
    _move(tree.called[0].weight)
    parts.version()
    with parts.narrowed():
        tree.idle(torch.ones(1, 2))
    before = parts.version()
    _move(tree.called[0].weight)
    assert parts.version() == before
    _move(tree.idle[0].weight)
    assert parts.version() != before


@pytest.mark.parametrize("name", ["scaling", "_hf_hook"])
def test_settings_of_what_is_not_touched_are_not_looked_at(name: str) -> None:
    tree = _Tree()
    tree.idle[0].__dict__[name] = tree.called[0].__dict__[name] = {"one": 1.0}
    parts = _narrowed(tree)
    before = parts.version()
    tree.idle[0].__dict__[name] = {}
    assert parts.version() == before
    tree.called[0].__dict__[name] = {}
    assert parts.version() != before


def test_what_another_thread_calls_meanwhile_is_not_noted() -> None:
    tree = _Tree()
    parts = Parts(tree.modules)
    with parts.narrowed():
        tree(torch.ones(1, 2))
        thread = threading.Thread(target=tree.idle, args=(torch.ones(1, 2),))
        thread.start()
        thread.join()
    before = parts.version()
    _move(tree.idle[0].weight)
    assert parts.version() == before


def test_a_recording_that_raises_leaves_no_trace() -> None:
    tree = _Tree()
    parts = Parts(tree.modules)
    before = parts.version()
    with pytest.raises(ValueError, match="no"), parts.narrowed():
        raise ValueError("no")
    _move(tree.idle[0].weight)
    assert parts.version() != before
    assert not nn.modules.module._global_forward_pre_hooks


def test_edits_in_place_need_not_be_seen() -> None:
    layers = _layers()
    parts = Parts(layers.modules)
    before = parts.version()
    layers[0].weight.data.add_(1)
    assert parts.version() == before


CHILDREN = ("the mode", "a child", "one more", "one less")
"""What can be seen of a module without its tensors."""


@pytest.mark.parametrize("seen", [Seen, SeenPlainly], ids=["compiled", "plain"])
@pytest.mark.parametrize("edit", EDITS)
def test_children_and_modes_alone(edit: str, seen: Any) -> None:
    layers = _layers()
    modules, looker = list(layers.modules()), seen()

    def look() -> int:
        count: int = looker.look([module.__dict__ for module in modules], None)
        return count

    assert look() == look() == 1
    EDITS[edit](layers)
    assert look() == look() == 1 + (edit in CHILDREN)


@pytest.mark.parametrize("seen", [Seen, SeenPlainly], ids=["compiled", "plain"])
def test_no_two_modules_pass_for_one_another(seen: Any) -> None:
    """What one gives up and its neighbour gets is a change."""
    looker, one, other = seen(), nn.Module(), nn.Module()
    for holder, name in ((one, "a"), (one, "b"), (other, "c")):
        holder.register_module(name, nn.Identity())
        holder.register_buffer(f"of_{name}", torch.ones(1))
    counts = []
    for kind in ("_modules", "_buffers", None):
        counts.append(looker.look([one.__dict__, other.__dict__], Tensor.data_ptr))
        if kind is not None:
            before, after = getattr(one, kind), getattr(other, kind)
            name, moved = before.popitem()
            rest = dict(after)
            after.clear()
            after[name] = moved
            after.update(rest)
    assert counts == [1, 2, 3]


def test_what_is_no_module_is_refused() -> None:
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    look = core.Seen().look
    with pytest.raises((KeyError, TypeError)):
        look([{}], Tensor.data_ptr)
    own = _layers()[0].__dict__
    for name in ("_modules", "_parameters", "_forward_hooks"):
        with pytest.raises((KeyError, TypeError)):
            look([{**own, name: 3}], Tensor.data_ptr)
        with pytest.raises((KeyError, TypeError)):
            look([own, {k: v for k, v in own.items() if k != name}], Tensor.data_ptr)
    for wrong in (lambda _: "no", lambda _: None, lambda _: -1):
        with pytest.raises((TypeError, OverflowError)):
            look([own], wrong)

    def fails(_: Tensor) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        look([own], fails)
    before = look([own], Tensor.data_ptr)
    with pytest.raises(ValueError, match="no"):
        look([own, own], fails)
    assert look([own], Tensor.data_ptr) == before  # one that failed has seen nothing


@pytest.mark.parametrize("how", [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}])
def test_what_captures_itself_is_not_captured_again(how: dict[str, Any]) -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    layer[0].compile()
    assert hooked(layer.modules()) is None
    parts = Parts(layer.modules)
    before = parts.version()
    layer.compile(**how)
    assert parts.version() != before
    assert "Sequential is compiled into CUDA graphs" in str(hooked(layer.modules()))
    layer.compile(backend="eager")
    assert hooked(layer.modules()) is None


def test_too_many_kinds_are_told_of() -> None:
    told: list[str] = []
    graphs = Graphs(Recorder(), told.append)
    for key in range(20):
        assert graphs.call(key, lambda given: given[0] + 1, [torch.ones(1)]).item() == 2
        assert len(told) == (key >= 8) + (key >= 16)
    assert graphs.captured == 0
    assert "more than 8 kinds of step" in told[0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("none left"), RuntimeError("no\nmore")])
def test_memory_that_runs_out_in_a_recording_frees_the_others(error: Exception) -> None:
    told: list[str] = []
    graphs = Graphs(recorder := Recorder(), told.append)

    def call(key: str) -> float:
        made: Tensor = graphs.call(key, lambda given: given[0] + 1, [torch.ones(1)])
        return made.item()

    assert call("first") == call("first") == 2
    recorder.fail = error
    assert call("second") == call("second") == call("second") == 2
    short = isinstance(error, torch.OutOfMemoryError)
    assert told == [
        "no memory was left to capture a step" if short else "capturing a step failed: no"
    ]
    assert recorder.tried == 2 and graphs.replayed == 1
    recorder.fail = None
    assert call("first") == 2 and graphs.replayed == 2 - short


def test_a_result_that_cannot_be_handed_out_is_named() -> None:
    told: list[str] = []
    graphs = Graphs(Recorder(), told.append)
    for _ in range(3):
        result = graphs.call(
            "it",
            lambda given: (Transformer2DModelOutput(sample=given[0]), object()),
            [torch.ones(1)],
        )
        assert result[0].sample.tolist() == [1]
    assert told == ["the model returns a object"] and graphs.captured == 0


def test_a_premise_is_new_or_not() -> None:
    graphs = Graphs(Recorder(), pytest.fail)
    seen = [graphs.expect("skip", premise) for premise in (1, 1, 2)]
    assert seen == [True, False, True] and seen[1] is False


def test_a_layout_tells_shapes_strides_and_dtypes() -> None:
    one = torch.zeros(2, 3)
    others = (torch.zeros(2, 4), torch.zeros(3, 2).T, torch.zeros(2, 3, dtype=torch.half))
    layouts = {layout([one, other]) for other in (one, *others)} | {layout([one])}
    assert len(layouts) == 5 and layout([one]) == layout([one + 1])


def test_other_inputs_than_there_is_room_for_are_refused() -> None:
    inputs = Inputs([torch.ones(1)])
    with pytest.raises(ValueError, match="zip"):
        inputs.load([torch.ones(1), torch.ones(1)])
