"""Faults of many users at once: threads, tasks, processes, copies."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tap_ext.integrations import diffusers as host
from tap_ext.runtime import current_run, run
from tests.faults.common import STEPS, fast, given, plain, sample
from tests.pipelines.builders import (
    accelerated,
    at_step,
    build,
    expected,
    generate,
    make_scheduler,
    prompt,
    untouched,
)


def _together(works: list[Callable[[], Any]]) -> list[Any]:
    """What each of some functions returns or raises, called at the same time."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works), timeout=60)

    def call(number: int) -> None:
        barrier.wait()
        try:
            results[number] = works[number]()
        except Exception as raised:
            results[number] = raised

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_threads_in_one_pipeline_never_mix() -> None:
    """Row 9: who comes second while the scheduler is in use is refused, and told what to use."""
    pipe, entered, leave = accelerated(), threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        entered.set()
        assert leave.wait(60)

    def first() -> Tensor:
        return generate(pipe, **at_step(3, hold))

    def second() -> Tensor:
        assert entered.wait(60)
        try:
            return generate(pipe, **prompt(30))
        finally:
            leave.set()

    made, refused = _together([first, second])
    assert torch.equal(made, expected())
    assert isinstance(refused, RuntimeError)
    assert "RequestScopedPipeline" in str(refused)
    assert torch.equal(generate(pipe), expected())  # nobody is locked out afterwards


def test_a_pipeline_that_raised_can_be_entered_again() -> None:
    """Row 9: the scheduler is free again however a call ends."""

    def give_up(*_: Any) -> None:
        raise ValueError("stop")

    pipe = accelerated()
    with pytest.raises(ValueError, match="stop"):
        generate(pipe, **at_step(1, give_up))
    (made,) = _together([lambda: generate(pipe)])
    assert torch.equal(made, expected())


def test_copies_with_schedulers_of_their_own_share_one_transformer() -> None:
    """Row 10: what RequestScopedPipeline makes: copies, in threads, equal to serial ones."""
    pipe = accelerated()

    def request(seed: int) -> Callable[[], Tensor]:
        own = copy.copy(pipe)
        own.scheduler = make_scheduler()
        return lambda: generate(own, **prompt(seed))

    serial = [request(seed)() for seed in (10, 30, 50)]
    assert all(map(torch.equal, _together([request(seed) for seed in (10, 30, 50)]), serial))
    assert torch.equal(serial[0], expected())


def test_tasks_of_one_thread_do_not_meet() -> None:
    """Row 11: asyncio tasks that take turns at every step over one model."""
    model = fast()

    async def task(seed: int) -> Tensor:
        arguments = given(seed)
        latents = arguments["hidden_states"]
        with run(), torch.no_grad():
            for step in range(STEPS):
                arguments["hidden_states"] = latents
                time = torch.tensor([1 - step / STEPS])
                latents = latents - model(**arguments, timestep=time)[0] / STEPS
                await asyncio.sleep(0)
        return latents

    async def both() -> list[Tensor]:
        return await asyncio.gather(task(1), task(2), task(3))

    together = asyncio.run(both())
    alone = [asyncio.run(task(seed)) for seed in (1, 2, 3)]
    assert all(map(torch.equal, together, alone))


def _loop(model: nn.Module, seed: int) -> Iterator[Tensor]:
    """A sampling loop without a run, step by step; all of them share a prompt."""
    arguments = {**given(5), "hidden_states": given(seed)["hidden_states"]}
    for step in range(STEPS):
        with torch.no_grad():
            made = model(**arguments, timestep=torch.tensor([1 - step / STEPS]))[0]
        arguments["hidden_states"] = arguments["hidden_states"] - made / STEPS
        yield arguments["hidden_states"]


def _alone(seed: int) -> Tensor:
    *_, last = _loop(fast(), seed)
    return last


def test_tasks_take_over_no_run_that_was_guessed_before_them() -> None:
    """Row 11: their contexts are copies of one in which the model has run already."""
    model = fast()
    sample(model, given(9))

    async def task(seed: int) -> Tensor:
        made = []
        for latents in _loop(model, seed):
            made.append(latents)
            await asyncio.sleep(0)
        return made[-1]

    async def both() -> list[Tensor]:
        return await asyncio.gather(task(1), task(2))

    assert all(map(torch.equal, asyncio.run(both()), [_alone(1), _alone(2)]))


def test_threads_of_tasks_take_over_no_run_either() -> None:
    """Row 11: ``asyncio.to_thread`` copies the context, too; here they step together."""
    model, barrier = fast(), threading.Barrier(2, timeout=60)
    sample(model, given(9))

    def work(seed: int) -> Tensor:
        made = []
        for latents in _loop(model, seed):
            made.append(latents)
            barrier.wait()
        return made[-1]

    async def both() -> list[Tensor]:
        return await asyncio.gather(*(asyncio.to_thread(work, seed) for seed in (1, 2)))

    assert all(map(torch.equal, asyncio.run(both()), [_alone(1), _alone(2)]))


def test_a_run_that_was_opened_is_shared_with_the_threads_of_its_task() -> None:
    """Row 11: each step in another thread, inside one ``run()``."""
    model = fast()

    async def whole() -> Tensor:
        steps = _loop(model, 1)
        with run() as opened:
            for _ in range(STEPS):
                latents = await asyncio.to_thread(next, steps)
                assert await asyncio.to_thread(current_run) is opened
        return latents

    assert torch.equal(asyncio.run(whole()), _alone(1))


def test_two_threads_that_accelerate_one_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 14: as the workers of a server do at their start; the second waits for the first."""
    pipe, install, inside = build(), host.install, threading.Semaphore(0)
    met: list[bool] = []

    def slow(*given: Any) -> Any:
        inside.release()
        met.append(inside.acquire(timeout=0.5) and inside.acquire(timeout=0.5))
        return install(*given)

    monkeypatch.setattr(host, "install", slow)
    twice = _together([lambda: tap_ext.accelerate(pipe, window=3, warmup=3)] * 2)
    assert twice == [pipe, pipe] and met == [False]
    assert torch.equal(generate(pipe), expected())
    assert torch.equal(generate(tap_ext.restore(pipe)), untouched())


def test_a_branch_that_another_thread_has_cleared_ends_quietly() -> None:
    """Row 13: ``restore`` in one thread, a change of shape in another."""
    model = fast()
    with run() as opened:
        sample(model, steps=1)
        branches = next(iter(opened.holders))
        (branch,) = branches.of(opened)
        branches.clear()
        branches.retire(opened, branch)
        assert branches.nbytes == 0


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:tap_ext. a step runs eagerly:UserWarning")  # another captures
def test_a_stream_of_ones_own() -> None:
    """Row 11: under a current stream that is not the default one, alone and two at once."""
    truth = sample(fast("cuda"), given(device="cuda"))

    def work() -> Tensor:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), run():
            output = sample(model, given(device="cuda"))
        stream.synchronize()
        return output

    model = fast("cuda")
    assert torch.equal(work(), truth)
    assert all(torch.equal(output, truth) for output in _together([work, work]))


def test_copies_and_pickles_are_plain_models() -> None:
    """Row 12: each runs untouched on its own weights, and can be accelerated by itself."""
    model = fast()
    sample(model)
    truth = sample(plain())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(sample(twin), truth)
        with pytest.raises(ValueError, match="must be accelerated"):
            tap_ext.stats(twin)


def test_what_is_saved_is_the_same_on_disk(tmp_path: Path) -> None:
    """Row 12: ``save_pretrained`` writes the same files under the same class name."""
    pipe = accelerated()
    generate(pipe)
    pipe.save_pretrained(tmp_path / "fast")
    build().save_pretrained(tmp_path / "plain")

    def files(folder: Path) -> dict[str, bytes]:
        found = folder.rglob("*.*")
        return {str(file.relative_to(folder)): file.read_bytes() for file in found}

    assert files(tmp_path / "fast") == files(tmp_path / "plain")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_makes_the_same() -> None:
    """Row 16: as a web server forks after loading; the child's run equals its parent's."""
    model = fast()
    truth = sample(model)
    child = os.fork()
    if child == 0:
        try:
            right = torch.equal(sample(model), truth) and tap_ext.stats(model).skip > 0
        except BaseException:
            right = False
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(sample(model), truth)


def _forked(work: Callable[[], bool]) -> bool:
    """What a forked child finds out; it is ended when it hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            right = work()
        except BaseException:
            right = False
        os._exit(0 if right else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_another_thread_works_is_free() -> None:
    """Row 16: that thread is not there in the child, nor what it held."""
    pipe, entered, leave = accelerated(), threading.Event(), threading.Event()
    (engine,) = host.engines_of(pipe)
    entry = sys.modules["tap_ext.accelerate"]  # the package has a function of that name

    def hold(*_: Any) -> None:
        with engine._branches._lock, entry._lock:
            entered.set()
            assert leave.wait(120)

    other = threading.Thread(target=lambda: generate(pipe, **at_step(3, hold)))
    other.start()
    assert entered.wait(60)

    def work() -> bool:
        right = torch.equal(generate(pipe), expected())
        return right and torch.equal(generate(tap_ext.restore(pipe)), untouched())

    try:
        assert _forked(work)
    finally:
        leave.set()
        other.join()
    assert torch.equal(generate(pipe), expected())


@pytest.mark.cuda
def test_accelerating_initialises_no_device_before_a_fork() -> None:
    """Row 16: CUDA cannot be used in a child whose parent used it, so nothing may begin with it."""
    import subprocess
    import sys

    code = (
        "import os, torch, tap_ext\n"
        "from tests.faults.common import fast, given, sample\n"
        "model = fast()\n"
        "assert not torch.cuda.is_initialized()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sample(model.to('cuda'), given(device='cuda'))\n"
        "    os._exit(0 if tap_ext.stats(model).skip else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    # else torch asks CUDA whether there is a device, when diffusers is imported
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_restored_model_lets_go_of_everything() -> None:
    """Row 13: no attribute is left, and the histories are freed."""
    import gc

    from tap_ext.integrations.diffusers import engines_of

    model = plain()
    before = set(vars(model))
    tap_ext.accelerate(model)
    sample(model)
    (engine,) = map(weakref.ref, engines_of(model))
    tap_ext.restore(model)
    gc.collect()
    assert engine() is None and set(vars(model)) == before
    assert torch.equal(sample(model), sample(plain()))


def test_a_preview_with_the_same_scheduler_is_the_callers_own_affair() -> None:
    """Row 9: in one thread nothing is refused; stock diffusers allows it, so do we."""
    pipe = accelerated()
    other = copy.copy(pipe)
    other.scheduler = make_scheduler()
    shown: list[Tensor] = []
    made = generate(pipe, **at_step(3, lambda *_: shown.append(generate(other))))
    assert torch.equal(made, expected()) and torch.equal(shown[0], expected())
    assert not torch.equal(made, untouched())
