"""Faults in the middle of a run, and pipelines that change between runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler

import tap_ext
from tap_ext.integrations import diffusers as host
from tests.faults.common import CONFIG, done, fast, given, sample
from tests.pipelines.builders import (
    CLOSE,
    FULL,
    SKIP,
    WINDOWED,
    accelerated,
    at_step,
    build,
    expected,
    generate,
    make_scheduler,
    prompt,
    steps,
    untouched,
)


class _GaveUp(Exception):
    pass


@pytest.mark.parametrize("kind", [_GaveUp, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("step", [0, 2, 3, 6])
def test_a_callback_that_raises_leaves_nothing_behind(kind: type[BaseException], step: int) -> None:
    """Row 4: the next run equals that of a pipeline that never failed, bit for bit."""

    def give_up(*_: Any) -> None:
        raise kind("stop")

    pipe = accelerated()
    with pytest.raises(kind, match="stop"):
        generate(pipe, **prompt(40), **at_step(step, give_up))
    assert torch.equal(generate(pipe), expected())


@pytest.mark.parametrize("module", ["x_embedder", "transformer_blocks.1", "norm_out", "proj_out"])
@pytest.mark.parametrize("call", [1, 4])
def test_a_module_that_raises_leaves_nothing_behind(module: str, call: int) -> None:
    """Row 4: anywhere inside the model, on full steps and on skip steps."""
    model, calls = fast(**CONFIG, self_check=False), 0

    def give_up(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise _GaveUp

    hook = model.get_submodule(module).register_forward_pre_hook(give_up)
    with pytest.raises(_GaveUp):
        sample(model, given(7))
    hook.remove()
    assert torch.equal(sample(model), sample(fast()))


def _pressed(code: CodeType, at: int, work: Callable[[], Any]) -> bool:
    """Whether Ctrl-C, pressed at the given executed line of a function, stopped the work."""
    seen = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        seen += event == "line"
        if seen == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: line if frame.f_code is code else None)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_interrupt_at_the_door_locks_nobody_out() -> None:
    """Row 9: Ctrl-C on any line of what keeps a second thread out; the next thread comes in."""
    pipe, code, at = accelerated(), host._alone.__wrapped__.__code__, 1
    while _pressed(code, at, lambda: generate(pipe)):
        made: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda made=made: made.append(generate(pipe)))
        thread.start()
        thread.join()
        assert len(made) == 1 and torch.equal(made[0], expected())
        assert not host._stepping
        at += 1
    assert at > 5


@pytest.mark.parametrize("line", range(1, 30))
def test_an_interrupt_while_a_model_is_entered_can_be_mended(line: int) -> None:
    """Row 14: after it, accelerate does all that it does, and restore undoes all."""
    pipe = build()
    _pressed(host.install.__code__, line, lambda: tap_ext.accelerate(pipe, **WINDOWED))
    assert torch.equal(generate(tap_ext.accelerate(pipe, **WINDOWED)), expected())
    _pressed(host.uninstall.__code__, line, lambda: tap_ext.restore(pipe))
    assert torch.equal(generate(tap_ext.restore(pipe)), untouched())
    assert "forward" not in vars(pipe.transformer)


@pytest.mark.parametrize("step", [0, 3, 5])
def test_an_interrupted_pipeline_leaves_nothing_behind(step: int) -> None:
    """Row 5: ``_interrupt`` ends the loop without an exception."""
    pipe = accelerated()
    generate(pipe, **at_step(step, lambda pipe, _: setattr(pipe, "_interrupt", True)))
    ((full, skip),) = steps(pipe)
    assert len(full) + len(skip) == step + 1
    assert torch.equal(generate(pipe), expected())


def test_memory_running_out_in_the_model_is_the_callers_to_see(device: str) -> None:
    """Row 7: the very exception, and no history is held after it."""
    model, calls = fast(device), 0
    raised = torch.OutOfMemoryError("out of memory")

    def run_out(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2 * 4:  # two double blocks, the fourth full step
            raise raised

    hook = model.transformer_blocks[1].register_forward_pre_hook(run_out)
    block = model.transformer_blocks[0].register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        sample(model, given(device=device))
    hook.remove(), block.remove()
    assert caught.value is raised
    assert tap_ext.stats(model).models[0].nbytes == 0
    clean = sample(fast(device), given(device=device))
    assert torch.equal(sample(model, given(device=device)), clean)


@pytest.mark.cuda
def test_memory_that_really_runs_out_comes_back() -> None:
    """Row 7: a batch that cannot fit; afterwards as much is allocated as before, within 1 MB."""
    model = fast("cuda")
    sample(model, given(device="cuda"))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            sample(model, given(batch=300_000, device="cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() <= before + 2**20
    clean = sample(fast("cuda"), given(device="cuda"))
    assert torch.equal(sample(model, given(device="cuda")), clean)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pipeline_of_few_steps_is_untouched(count: int) -> None:
    """Row 21: fewer steps than the warm-up has."""
    changes = {"num_inference_steps": count}
    assert torch.equal(generate(accelerated(), **changes), generate(build(), **changes))


class _Heun(FlowMatchHeunDiscreteScheduler):
    """For pipelines that insist on sigmas."""

    def set_timesteps(
        self, sigmas: Any = None, device: Any = None, mu: float | None = None
    ) -> None:
        super().set_timesteps(len(sigmas), device)


def test_two_evaluations_per_step_are_refused_with_the_reason() -> None:
    """Row 24: Heun's method; the picture is the untouched one, and explain says why."""
    pipe = accelerated(scheduler=_Heun())
    with pytest.warns(UserWarning, match="_Heun evaluates the model 2 times per step"):
        picture = generate(pipe)
    assert torch.equal(picture, generate(build(scheduler=_Heun())))
    assert "ran untouched: _Heun evaluates the model 2 times per step" in tap_ext.explain(pipe)


def test_a_scheduler_that_adds_noise_is_as_right_as_without_it() -> None:
    """Row 24: stochastic steps follow the plan, and are the same again with the same seed."""

    def seeded(pipe: Any) -> torch.Tensor:
        torch.manual_seed(0)  # of the scheduler's own noise
        return generate(pipe)

    pipe = accelerated(scheduler=FlowMatchLCMScheduler())
    picture = seeded(pipe)
    assert steps(pipe) == [(FULL, SKIP)]
    assert torch.equal(seeded(pipe), picture)
    truth = seeded(build(scheduler=FlowMatchLCMScheduler()))
    assert 0 < (picture - truth).norm() < 2 * CLOSE * truth.norm()


@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_a_scheduler_exchanged_after_accelerate_is_the_one_that_counts(shift: float) -> None:
    """Row 28: what comes out is what a pipeline accelerated with that scheduler makes."""

    def other() -> Any:
        return type(make_scheduler())(shift=shift)

    pipe = accelerated()
    generate(pipe)
    pipe.scheduler = other()
    assert torch.equal(generate(pipe), generate(accelerated(scheduler=other())))
    pipe.scheduler = make_scheduler()
    assert torch.equal(generate(pipe), expected())


def test_requests_in_turn_are_as_if_alone() -> None:
    """Row 17: A, B, A; the third equals the first, whatever memory the prompts were given."""
    pipe = accelerated()
    first = generate(pipe, **prompt(10))
    generate(pipe, **prompt(30))
    assert torch.equal(generate(pipe, **prompt(10)), first)


def test_an_address_used_again_is_not_taken_for_the_prompt_that_had_it() -> None:
    """Row 17: prompts freed between requests; each history is its own prompt's."""
    model = fast()
    for seed in (3, 4, 5, 3):
        assert torch.equal(sample(model, given(seed)), sample(fast(), given(seed)))
    assert len(done(model)) == 1


def test_restoring_gives_the_pipeline_back() -> None:
    """Row 13: the picture, and all that could be left behind, are those of a plain pipeline."""
    from tests.pipelines.builders import marks, unmarked

    pipe = tap_ext.accelerate(build(), **WINDOWED)
    assert not torch.equal(generate(pipe), untouched())
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())
    assert marks(pipe) == unmarked()
