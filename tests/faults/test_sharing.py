"""Faults of many users at once: threads, tasks, processes, copies."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext.runtime import run
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


@pytest.mark.cuda
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
    subprocess.run([sys.executable, "-c", code], check=True)


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
