"""Runs, steps and branches are told apart, whatever happens in between."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext import Config
from tap_ext.backbones import SPECS
from tap_ext.held import held, signature
from tap_ext.integrations.diffusers import engines_of
from tap_ext.plan import Measured
from tap_ext.runtime import Branches, Run, _run, current_run, enter, run
from tests import tiny

FLUX = tiny.MODELS[0]
STEPS = 12
SMALL = Config(window=4)
FULL = [0, 1, 2, 6, 10]


def _fresh(steps: int = STEPS, seed: int = 1, **changes: Any) -> Tensor:
    """The accelerated result of a model that has never run before."""
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    return tiny.sample(model, {**tiny.inputs(FLUX, seed), **changes}, steps)


def _full_steps(model: nn.Module) -> list[list[int]]:
    (stats,) = tap_ext.stats(model).models
    return [list(branch.full_steps) for branch in stats.branches]


def test_a_run_follows_the_plan() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    tiny.sample(model, tiny.inputs(FLUX), STEPS)
    assert _full_steps(model) == [FULL]
    stats = tap_ext.stats(model)
    assert (stats.full, stats.skip) == (len(FULL), STEPS - len(FULL))


def test_the_same_run_twice_is_bit_equal_without_a_pipeline() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)
    first = tiny.sample(model, arguments, STEPS)
    assert torch.equal(tiny.sample(model, arguments, STEPS), first)
    assert torch.equal(first, _fresh())
    assert tap_ext.stats(model).models[0].runs == 2


def test_buffers_go_to_the_next_run_but_to_no_other_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another one the device may still read them for the run that is over."""
    model, streams = tap_ext.accelerate(tiny.build(FLUX), SMALL), [1, 1, 2, 1, 2]
    monkeypatch.setattr("tap_ext.engine.stream_of", lambda device: streams[0])
    held = []
    while streams:
        assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), _fresh())
        held.append(tap_ext.stats(model).models[0].nbytes)
        del streams[0]
    once = held[0]
    assert once > 0 and held == [once, once, 2 * once, 2 * once, 2 * once]


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_run_given_up_anywhere_leaves_nothing_behind(stop: int) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    other = tiny.inputs(FLUX, seed=5)
    tiny.sample(model, other, STEPS, stop=stop)
    again = {**tiny.inputs(FLUX), "encoder_hidden_states": other["encoder_hidden_states"]}
    expected = _fresh(encoder_hidden_states=other["encoder_hidden_states"])
    assert torch.equal(tiny.sample(model, again, STEPS), expected)


def test_an_explicit_run_begins_anew_even_where_timesteps_go_on() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)
    with run():
        tiny.sample(model, arguments, STEPS, stop=3)
    with run(), torch.no_grad():
        model(**arguments, timestep=torch.tensor([0.3]))
    assert _full_steps(model) == [[0]]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_the_model_leaves_nothing_behind(error: type[BaseException]) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    calls = 0

    def interrupt(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error("stop")

    hook = model.norm_out.register_forward_hook(interrupt)
    with pytest.raises(error, match="stop"):
        tiny.sample(model, tiny.inputs(FLUX), STEPS)
    hook.remove()
    assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), _fresh())


def test_two_branches_keep_separate_histories() -> None:
    """Classifier-free guidance by two calls per step equals two models with one branch each."""
    cond, uncond = tiny.inputs(FLUX, 1), tiny.inputs(FLUX, 2)
    uncond["hidden_states"] = cond["hidden_states"]

    @torch.no_grad()
    def guided(first: nn.Module, second: nn.Module) -> Tensor:
        latents = cond["hidden_states"]
        for step in range(STEPS):
            timestep = torch.tensor([1 - step / STEPS])
            one = first(**{**cond, "hidden_states": latents}, timestep=timestep)[0]
            two = second(**{**uncond, "hidden_states": latents}, timestep=timestep)[0]
            latents = latents - (two + 2 * (one - two)) / STEPS
        return latents

    shared = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    result = guided(shared, shared)
    assert _full_steps(shared) == [FULL, FULL]
    apart = [tap_ext.accelerate(tiny.build(FLUX), SMALL) for _ in range(2)]
    assert torch.equal(result, guided(*apart))


def test_a_batch_row_never_depends_on_its_neighbours() -> None:
    """In a batch of the same size: the model's own products may round otherwise in another one."""
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL.replace(trace=True))
    first, second = (tiny.inputs(FLUX, seed, batch=3) for seed in (1, 2))
    for name in ("hidden_states", "encoder_hidden_states", "pooled_projections"):
        second[name][1] = first[name][1]
    results, choices = [], []
    for arguments in (first, second):
        results.append(tiny.sample(model, arguments, STEPS)[1])
        choices.append([choice.index[1] for choice in tap_ext.stats(model).trace])
    assert torch.equal(*results)
    assert len(choices[0]) == STEPS - len(FULL)
    assert all(map(torch.equal, *choices))


def _doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v if "ids" in k else v.repeat_interleave(2, 0) for k, v in arguments.items()}


def _halved(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v.bfloat16() for k, v in arguments.items()}


def _fewer_tokens(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        **arguments,
        "hidden_states": arguments["hidden_states"][:, :8],
        "img_ids": arguments["img_ids"][:8],
    }


def _other_value(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "joint_attention_kwargs": {"scale": 1.0}}


@pytest.mark.parametrize("change", [_doubled, _halved, _fewer_tokens, _other_value])
@torch.no_grad()
def test_a_change_of_signature_within_a_run_begins_the_history_anew(change: Any) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX, batch=2)
    for step, time in enumerate(torch.linspace(1, 0.1, STEPS)):
        if step == 5:
            arguments = change(arguments)
            model.to(arguments["hidden_states"].dtype)
        rows = arguments["hidden_states"].shape[0]
        model(**arguments, timestep=time.expand(rows).to(arguments["hidden_states"].dtype))
    (stats,) = tap_ext.stats(model).models
    assert stats.branches[-1].full_steps == (0, 1, 2, 6)
    assert stats.branches[-1].skip_steps == (3, 4, 5)
    assert stats.runs == 1


def test_conditioning_edited_in_place_is_another_branch() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)
    with run(), torch.no_grad():
        for time in (1.0, 0.9, 0.8, 0.7):
            model(**arguments, timestep=torch.tensor([time]))
        arguments["encoder_hidden_states"].mul_(2)
        for time in (0.6, 0.5):
            model(**arguments, timestep=torch.tensor([time]))
    assert _full_steps(model) == [[0, 1, 2], [0, 1]]


def test_conditioning_copied_for_every_call_is_the_same_branch() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)
    names = ("encoder_hidden_states", "pooled_projections")
    with run(), torch.no_grad():
        for step in range(STEPS):
            arguments |= {name: arguments[name].clone() for name in names}
            model(**arguments, timestep=torch.tensor([1 - step / STEPS]))
    assert _full_steps(model) == [FULL]


def test_conditioning_that_changes_at_every_call_cannot_fill_memory() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)
    with run() as opened, torch.no_grad():
        for step in range(30):
            arguments["encoder_hidden_states"] = torch.randn(1, tiny.TEXT, 32)
            model(**arguments, timestep=torch.tensor([1 - step / 30]))
        opened.watchers.clear()  # to be told that nothing was skipped is another test's
        bound = tap_ext.stats(model).models[0].nbytes
        assert opened.skips == 0
    one = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    tiny.sample(one, tiny.inputs(FLUX), 2)
    assert bound <= 16 * tap_ext.stats(one).models[0].nbytes


def test_threads_with_runs_of_their_own_share_one_model() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    expected = [_fresh(seed=seed) for seed in range(4)]
    results: list[Tensor | None] = [None] * 4
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        barrier.wait()
        for _ in range(3):
            results[seed] = tiny.sample(model, tiny.inputs(FLUX, seed), STEPS)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, truth in zip(results, expected, strict=True):
        assert result is not None and torch.equal(result, truth)


def test_repeated_runs_allocate_no_new_history() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    held_bytes = set()
    for seed in range(5):
        with run() as opened:
            tiny.sample(model, tiny.inputs(FLUX, seed), STEPS)
        (engine,) = engines_of(model)
        engine.finish(opened)
        held_bytes.add(tap_ext.stats(model).models[0].nbytes)
    assert len(held_bytes) == 1 and held_bytes.pop() > 0


def test_a_finished_run_takes_its_branches_with_it() -> None:
    branches = Branches()
    opened = Run()
    assert branches.of(opened) == []
    alive = weakref.ref(opened)
    del opened
    gc.collect()
    assert alive() is None and branches.nbytes == 0


def test_a_run_that_is_only_let_go_of_frees_its_histories() -> None:
    """At once, without a collection: what was looked up last is not held by that."""
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    opened, arguments = Run(), tiny.inputs(FLUX)
    gc.disable()
    try:
        enter(opened)
        tiny.sample(model, arguments, 5)
        (engine,) = engines_of(model)
        branch = weakref.ref(engine._branches.of(opened)[0])
        assert branch() is not None
        _run.set(None)
        del opened
        assert branch() is None
    finally:
        gc.enable()


def test_branches_are_found_by_run_whichever_was_last() -> None:
    branches, runs = Branches(), [Run(), Run()]
    lists = [branches.of(opened) for opened in runs]
    assert lists[0] is not lists[1]
    for _ in range(2):
        assert all(branches.of(o) is known for o, known in zip(runs, lists, strict=True))
    for forget in (lambda: branches.drop(runs[1]), branches.clear):
        known = branches.of(runs[1])
        forget()
        assert branches.of(runs[1]) is not known


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), True),
        (torch.zeros(2, 3), torch.zeros(3, 2), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float16), False),
        ({"a": 1, "b": [2.0, None]}, {"b": [2.0, None], "a": 1}, True),
        ({"scale": 0.5}, {"scale": 0.6}, False),
        ([torch.zeros(1)], [None], False),
        ((1, 2), [1, 2], True),
    ],
)
def test_signature(left: Any, right: Any, same: bool) -> None:
    assert (signature(left) == signature(right)) is same


def test_held_tensors_keep_their_memory() -> None:
    tensor = torch.zeros(4)
    kept = held([tensor, None])
    address = tensor.data_ptr()
    del tensor
    assert kept[0].tensor.data_ptr() == address and kept[1] is None


def _with_an_error_at(call: int, model: nn.Module) -> Tensor:
    """A run in which one call of the last layer fails."""
    calls = []

    def fail_once(*_: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            raise ValueError("once")

    handle = model.get_submodule("proj_out").register_forward_pre_hook(fail_once)
    try:
        return tiny.sample(model, tiny.inputs(FLUX), STEPS)
    finally:
        handle.remove()


def test_an_error_that_comes_once_during_the_self_check_is_no_verdict() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    # the first call is the full step's, the second the self-check's
    assert torch.equal(_with_an_error_at(2, model), _fresh())
    assert not tap_ext.stats(model).models[0].fallbacks


def test_an_error_that_comes_once_while_a_model_is_watched_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = _fresh()
    monkeypatch.delitem(SPECS, "FluxTransformer2DModel")
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    assert torch.equal(_with_an_error_at(1, model), expected)
    assert not tap_ext.stats(model).models[0].fallbacks


def test_a_call_that_fails_by_itself_leaves_an_unknown_model_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = _fresh()
    monkeypatch.delitem(SPECS, "FluxTransformer2DModel")
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    with pytest.warns(UserWarning, match="must be given latents"), pytest.raises(TypeError):
        model()
    assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), expected)
    assert sum(tap_ext.stats(model).models[0].fallbacks.values()) == 1


def test_an_interrupt_between_a_lock_and_its_release_blocks_nobody_in_this_thread() -> None:
    branches, opened = Branches(), Run()
    at = Branches.of.__code__

    def line(frame: Any, event: str, _: Any) -> Any:
        # the line of the ``with`` comes twice: at its begin, and before it lets go
        if event == "line" and frame.f_lineno not in seen:
            seen.append(frame.f_lineno)
        elif event == "line":
            sys.settrace(None)
            raise KeyboardInterrupt
        return line

    seen: list[int] = []
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: line if frame.f_code is at else None)
    try:
        with pytest.raises(KeyboardInterrupt):
            branches.of(opened)
    finally:
        sys.settrace(before)
    assert branches._lock.acquire(blocking=False)
    assert branches.of(opened) == []


def test_a_run_of_a_bare_model_that_skips_nothing_is_told_of() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    arguments = tiny.inputs(FLUX)

    def steps(count: int) -> None:
        with run(), torch.no_grad():
            for step in range(count):
                arguments["encoder_hidden_states"] = torch.randn(1, tiny.TEXT, 32)
                model(**arguments, timestep=torch.tensor([1 - step / count]))

    steps(3)  # nothing is ever skipped in so few
    with pytest.warns(UserWarning, match=r"FluxTransformer2DModel made 8 steps in a run\(\) and"):
        steps(8)
    with pytest.raises(ValueError, match="own"), run():  # one that failed has its error
        steps(3)
        raise ValueError("own")


def test_a_part_of_a_run_says_nothing_of_its_calibrated_plan() -> None:
    plan = Measured((0, 1, 2, 3, 4, 5), 10)
    model = tap_ext.accelerate(tiny.build(FLUX), schedule=plan)
    with run():
        tiny.sample(model, tiny.inputs(FLUX), STEPS, stop=5)
    assert tap_ext.stats(model).skip == 0


def test_a_run_that_has_no_end_takes_no_more_memory() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), SMALL)
    tiny.sample(model, tiny.inputs(FLUX), STEPS)
    assert not current_run().exact and not current_run().steps
