"""Every refusal is read: what it says, that it is warned of and counted, that explain tells it."""

from __future__ import annotations

import gc
import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import AdapterError, BackboneSpec, Blocks, Stream
from tap_ext.backbones import SPECS
from tap_ext.state import Step
from tap_ext.steps import Steps
from tap_ext.views import Call, Views, run_view, verify
from tap_ext.views.check import misplaced
from tap_ext.views.graft import expand, graft
from tests import tiny
from tests.pipelines.builders import accelerated, build, generate, make_transformer, untouched

FLUX = tiny.MODELS[0]
STEPS = 8


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, odd: bool = False) -> Tensor:
        return hidden_states + torch.tanh(self.attn(hidden_states))


class _Toy(nn.Module):
    """A transformer with one habit that no skip step can follow."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.habit = habit
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(_Layer() for _ in range(3))
        self.head = nn.Linear(8, 4)
        self.table = nn.Linear(1, 8)
        self.side = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        tokens = entered = self.embed(hidden_states) + timestep[:, None, None]
        early = self.head(tokens) if self.habit == "a head before the blocks" else None
        for block in [*self.blocks, *self.blocks[: self.habit == "a block twice"]]:
            before, tokens = tokens, block(tokens)
            if self.habit == "blocks by data" and torch.equal(before, tokens):
                break
        if self.habit == "a head by data" and not torch.equal(tokens, entered):
            self.side(tokens)
        if self.habit == "a table that matters":
            return (self.head(tokens) + self.table(timestep[:, None, None]).mean(),)
        if self.habit == "a head twice":
            return (self.head(tokens) + self.head(entered),)
        if self.habit == "a shape by data":
            return (self.head(tokens)[:, : 3 if torch.equal(tokens, entered) else 6],)
        if self.habit == "around the head":
            return (self.head(tokens) + tokens.mean(),)
        if self.habit == "a part of like tokens":
            return (self.head(tokens[:, 1:4]),)
        if self.habit == "a table by data":
            changed = not torch.equal(tokens, entered)
            return (
                self.head(tokens)
                + sum(
                    self.table(timestep[:, None, None]).mean() for _ in range(1 if changed else 2)
                ),
            )
        return (early if early is not None else self.head(tokens),)


def _spec(**changes: Any) -> BackboneSpec:
    given: dict[str, Any] = {
        "name": "_Toy",
        "blocks": (Blocks("blocks"),),
        "streams": (Stream("head"),),
        "conditioning": (),
    }
    return BackboneSpec(**given | changes)


@torch.no_grad()
def _run(model: nn.Module, latents: Tensor) -> list[Tensor]:
    times = [torch.full((1,), 1 - step / STEPS) for step in range(STEPS)]
    return [model(hidden_states=latents, timestep=time)[0] for time in times]


HABITS: dict[str, tuple[dict[str, Any], str]] = {
    "a block twice": ({}, "a block is called twice"),
    "a head twice": ({}, "the head 'head' was called twice"),
    "a head before the blocks": ({}, "was called before the first block"),
    "blocks by data": ({}, "1 blocks are called on a skip step, 3 on a full one"),
    "a shape by data": ({}, r"is of shapes [(1, 3, 4)], not [(1, 6, 4)]"),
    "around the head": ({}, "a skip step with the true residual is off by"),
    "a part of like tokens": (
        {"streams": (Stream("head", tokens="inside"),), "adds": True},
        "where the head's tokens lie cannot be seen in this call",
    ),
    "a head by data": (
        {"streams": (Stream("head"), Stream("side"))},
        "a head is reached on full steps only, or on skip steps only",
    ),
    "a table that matters": (
        {"idle": ("table",)},
        "without its idle modules a later step is off by",
    ),
    "a table by data": ({"idle": ("table",)}, "'table' was called 1 times on the full step"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_what_a_skip_step_cannot_do_is_told_and_the_model_runs_untouched(habit: str) -> None:
    changes, message = HABITS[habit]
    latents = torch.ones(1, 6, 4) if "like" in habit else torch.randn(1, 6, 4)
    model, truth = _Toy(habit), _run(_Toy(habit), latents)
    tap_ext.accelerate(model, window=3, spec=_spec(**changes))
    with pytest.warns(UserWarning, match=re.escape(message)):
        outputs = _run(model, latents)
    assert all(map(torch.equal, outputs, truth))
    _told(model, message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _run(model, latents)  # warned of once


def test_the_same_model_without_a_habit_is_accelerated() -> None:
    model = tap_ext.accelerate(_Toy("none"), window=3, spec=_spec())
    _run(model, torch.randn(1, 6, 4))
    assert tap_ext.stats(model).skip == 4


def _told(target: Any, message: str, calls: int | None = None) -> None:
    """``stats`` counts a reason, ``explain`` says it."""
    (model,) = tap_ext.stats(target).models
    (reason,) = [reason for reason in model.fallbacks if message in reason]
    count = model.fallbacks[reason]
    assert count > 0 and calls in (None, count)
    assert f"{count} calls ran untouched: {reason}" in tap_ext.explain(target)


class _Passing(_Toy):
    """Calls its blocks when asked to."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, whole: bool = False) -> Any:
        if whole:
            return super().forward(hidden_states, timestep)
        return (self.head(self.embed(hidden_states) + timestep[:, None, None]),)


@torch.no_grad()
def test_a_call_that_passes_the_blocks_by_is_told() -> None:
    """As one that only fills a cache of keys and values; the model itself is not refused."""
    message = "the first block or the head was not called"
    latents, time = torch.randn(1, 6, 4), torch.ones(1)
    model, truth = _Passing("none"), _Passing("none")
    tap_ext.accelerate(model, window=3, spec=_spec(name="_Passing"))
    with pytest.warns(UserWarning, match=message):
        assert torch.equal(model(latents, time)[0], truth(latents, time)[0])
    _told(model, message, 1)
    for step in range(STEPS):
        model(latents, torch.full((1,), 1 - step / STEPS), whole=True)
    assert tap_ext.stats(model).skip == 4


def test_a_call_that_never_reached_the_blocks_shows_nothing() -> None:
    model = _Passing("none")
    spec = _spec(name="_Passing")
    views, call = Views(model, spec), Call.full(spec)
    given = {"hidden_states": torch.randn(1, 6, 4), "timestep": torch.ones(1)}
    with torch.no_grad():
        output = run_view(views.full, call, (), given)
        message = "the first block or the head was never called"
        assert verify(views, call, output, (), given, between=False) == message
        assert misplaced(views, (), given) == message


def test_a_step_within_a_compilation_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(tap_ext.Config(graphs="skip"))
    views: Any = SimpleNamespace(spec=_spec(graphs="all"))
    plain: Any = SimpleNamespace(states={0: SimpleNamespace(decides_from_data=False)})
    assert steps._obstacle(Step.SKIP, views, plain) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert steps._obstacle(Step.SKIP, views, plain) == "the model is being compiled as a whole"


def test_what_is_no_tensor_is_told() -> None:
    model = tap_ext.accelerate(_Toy("none"), spec=_spec())
    time = torch.ones(1)
    with pytest.warns(UserWarning, match="hidden_states is no tensor"), pytest.raises(TypeError):
        model(hidden_states="none", timestep=time)
    _told(model, "hidden_states is no tensor", 1)
    with pytest.warns(UserWarning, match="timestep is no tensor"), pytest.raises(TypeError):
        model(hidden_states=torch.ones(1, 2, 4), timestep=None)
    _told(model, "timestep is no tensor", 1)


def test_a_forward_without_its_model_says_so() -> None:
    model = tap_ext.accelerate(_Toy("none"), spec=_spec())
    forward = model.forward
    forward.original = forward.__wrapped__ = None  # they would keep the model
    del model
    gc.collect()
    with torch.no_grad(), pytest.raises(RuntimeError, match="the model of this forward is gone"):
        forward(hidden_states=torch.ones(1, 2, 4), timestep=torch.ones(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": "x"}, "_Toy.forward has no argument 'x'"),
        ({"timestep": "t"}, "_Toy.forward has no argument 't'"),
        ({"blocks": (Blocks("blocks.0.attn"),)}, "_Toy.blocks.0.attn is empty"),
        ({"blocks": (Blocks("blocks", ("x",)),)}, "_Layer.forward has no argument 'x', it has"),
        ({"idle": ("head",)}, "the spec of _Toy names 'head' twice"),
        ({"idle": ("tables",)}, "_Toy has no module 'tables'"),
        ({"streams": (Stream("head.*"),)}, "_Toy.head is empty"),
        ({"idle": ("blocks.1.attn",)}, "'1' and 1.'attn' overlap"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    model = _Toy("none")
    with pytest.raises(AdapterError, match=re.escape(message)):
        tap_ext.accelerate(model, spec=_spec(**changes))
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("attention", "the probe of _Layer failed: _Layer has no module 'attention'"),
        ("spare", "the probe of _Idling failed: it never called 'spare'"),
        ("flat", "the probe of _Flat failed: nothing of shape (1, 6, '...') reached 'flat'"),
    ],
)
def test_a_probe_that_cannot_be_taken_is_told(attention: str, message: str) -> None:
    class _Idling(_Layer):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(8, 8)

    class _Flat(_Layer):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Linear(8, 8)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states + self.flat(hidden_states.flatten(0, 1)).mean()

    model = _Toy("none")
    for kind in (_Idling, _Flat):
        if kind.__name__ in message:
            model.blocks = nn.ModuleList(kind() for _ in range(3))
    latents = torch.randn(1, 6, 4)
    truth = _run(model, latents)
    tap_ext.accelerate(model, spec=_spec(streams=(Stream("head", attention=attention),)))
    with pytest.warns(UserWarning, match=re.escape(message)):
        assert all(map(torch.equal, _run(model, latents), truth))
    _told(model, message, STEPS)


def test_paths_that_lie_inside_one_another_are_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(AdapterError, match=re.escape("'0' and 0.'0' overlap")):
        graft(model, {"0": nn.Identity(), "0.0": nn.Identity()})
    with pytest.raises(AdapterError, match=re.escape("Sequential.0.0 is empty")):
        expand(model, "0.0.*")


def test_a_head_of_other_tokens_than_its_forecast_is_refused() -> None:
    model = _Toy("none")
    views, call = Views(model, _spec()), Call.full(_spec())
    given = {"hidden_states": torch.randn(1, 6, 4), "timestep": torch.ones(1)}
    with torch.no_grad():
        output = run_view(views.full, call, (), given)
        assert verify(views, call, output, (), given, between=False) is None
        short = call.skip(lambda stream, hidden, probe: hidden[:, :3])
        message = "'head' is given shape (1, 6, 8) on a skip step, (1, 3, 8) on a full one"
        with pytest.raises(AdapterError, match=re.escape(message)):
            run_view(views.skip, short, (), given)


def test_a_finished_run_without_a_skip_step_is_told() -> None:
    """Conditioning that is new at every step makes every step a first one."""
    pipe = accelerated()
    forward = pipe.transformer.x_embedder.register_forward_pre_hook(lambda *_: None)
    forward.remove()

    def other(pipe: Any, _step: int, _time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": tensors["prompt_embeds"] * 1.01}

    inputs = ["latents", "prompt_embeds"]
    with pytest.warns(
        UserWarning, match=r"FluxPipeline made 8 steps and skipped none; see tap_ext"
    ):
        generate(pipe, callback_on_step_end=other, callback_on_step_end_tensor_inputs=inputs)
    assert "0 skip steps" in tap_ext.explain(pipe)


def test_a_transformer_that_came_later_is_told() -> None:
    pipe = accelerated()
    pipe.transformer = make_transformer()
    message = "the FluxTransformer2DModel that FluxPipeline has now is not accelerated"
    with pytest.warns(UserWarning, match=message):
        assert torch.equal(generate(pipe), untouched())


@pytest.mark.filterwarnings("ignore:tap_ext. FluxPipeline made")
def test_a_cache_of_the_pipeline_that_came_later_is_told() -> None:
    pipe = accelerated()
    pipe._is_cached = True
    with pytest.warns(UserWarning, match="cache-dit was enabled on FluxPipeline after it was acc"):
        generate(pipe)


def test_plain_steps_need_a_pipeline_and_a_number_of_steps() -> None:
    with pytest.raises(ValueError, match="target must be a pipeline for method 'steps', got Flux"):
        tap_ext.accelerate(tiny.build(FLUX), method="steps", full_steps=4)
    pipe = tap_ext.accelerate(build(), method="steps", full_steps=4)
    with pytest.warns(
        UserWarning, match="method='steps' changes nothing: FluxPipeline is given si"
    ):
        generate(pipe, sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("name", sorted(SPECS)[:3])
def test_a_spec_of_another_class_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"target must hold a {name}, got _Toy"):
        tap_ext.accelerate(_Toy("none"), spec=SPECS[name])
