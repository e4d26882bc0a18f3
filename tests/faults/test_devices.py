"""Faults of devices, memory over many requests, determinism, several processes."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from bench.gpu import SANITIZED
from tap_ext import Config, ops
from tap_ext.plan import Plan
from tap_ext.runtime import MAX_BRANCHES
from tap_ext.state import State, Step
from tests.faults.common import STEPS, done, fast, given, plain, sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms(device: str, deterministic: None) -> None:
    """Row 31: nothing that torch then refuses is used, and the result is the usual one."""
    inside = sample(fast(device), given(device=device))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(sample(fast(device), given(device=device)), inside)


def test_the_same_seed_twice_and_a_batch_beside(device: str) -> None:
    """Row 30: bit-equal; eight at once choose as eight alone, within the model's tolerance."""
    model = fast(device, window=3, trace=True)
    batch = given(batch=8, device=device)
    together = sample(model, batch)
    chosen = [choice.index.clone() for choice in tap_ext.stats(model).trace]
    assert torch.equal(sample(model, batch), together)
    for row in (0, 3, 7):
        alone = {name: v[row : row + 1] if v.shape[0] == 8 else v for name, v in batch.items()}
        output = sample(model, alone)
        torch.testing.assert_close(output, together[row : row + 1], rtol=1e-4, atol=1e-4)
        same = [
            (choice.index == index[row]).float().mean()
            for choice, index in zip(tap_ext.stats(model).trace, chosen, strict=True)
        ]
        assert min(same) > 0.9  # a tie may fall the other way where the model rounds otherwise


@pytest.mark.cuda
def test_graphs_change_no_bit() -> None:
    """Row 30: graphs on and off."""
    eager = sample(fast("cuda", window=3, graphs="off"), given(device="cuda"))
    model = fast("cuda", window=3, graphs="all")
    for _ in range(3):
        assert torch.equal(sample(model, given(device="cuda")), eager)


def test_memory_is_flat_over_requests_of_many_shapes() -> None:
    """Row 29: histories are bounded by the branches kept, whatever comes; ``make soak`` is longer.

    Each shape has one history, so what is held is at most ``MAX_BRANCHES`` of the largest.
    """
    model = fast()
    sizes = [(batch, tokens) for batch in (1, 2, 3) for tokens in (4, 8, 12, 16)]

    def request(batch: int, tokens: int) -> None:
        arguments = given(batch=batch)
        arguments["hidden_states"] = arguments["hidden_states"][:, :tokens]
        arguments["img_ids"] = arguments["img_ids"][:tokens]
        sample(model, arguments, 4)

    def held() -> int:
        return tap_ext.stats(model).models[0].nbytes

    request(3, 16)
    largest = held()
    after = []
    for _ in range(3):
        for size in sizes:
            request(*size)
            assert held() <= 2 * MAX_BRANCHES * largest
        after.append(held())
    assert len(set(after)) == 1


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:tap_ext:UserWarning")
def test_memory_running_out_in_a_capture() -> None:
    """Row 6: the step is right all the same, the reason is counted, other shapes go on."""
    truth = sample(fast("cuda", window=3, graphs="off"), given(device="cuda"))
    model = fast("cuda", window=3, graphs="all")
    gc.collect()  # what the first one held is enough for the second, and no capture is
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        assert torch.equal(sample(model, given(device="cuda")), truth)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(sample(model, given(device="cuda")), truth)
    sample(model, given(batch=2, device="cuda"))


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:tap_ext")
def test_a_capture_that_fails_leaves_a_working_device() -> None:
    """Row 8: a module that waits for the device cannot be captured; it runs eagerly, and is told.

    Another process is not needed: what is asked for is that this one goes on.
    """

    class _Waits(torch.nn.Module):
        def __init__(self, real: torch.nn.Module) -> None:
            super().__init__()
            self.real = real

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            output = self.real(*args, **kwargs)
            output.sum().item()
            return output

    def waiting(**config: Any) -> torch.nn.Module:
        model = plain("cuda")
        model.proj_out = _Waits(model.proj_out)
        return tap_ext.accelerate(model, window=3, **config)

    truth = sample(waiting(graphs="off"), given(device="cuda"))
    model = waiting(graphs="all")
    for _ in range(2):
        assert torch.equal(sample(model, given(device="cuda")), truth)
    assert torch.ones(2, device="cuda").sum() == 2
    assert tap_ext.stats(model).skip == 2 * 4
    other = fast("cuda", window=3, graphs="all")
    sample(other, given(device="cuda"))


@pytest.mark.cuda
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_kernels_under_the_sanitizer(tool: str) -> None:
    """Row 35: no finding in the tests of the ops."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
    tests = ["-m", "pytest", "-q", "-k", "cuda and not reference", *SANITIZED]
    subprocess.run([*command, sys.executable, *tests], cwd=ROOT, check=True)


def _forecast(hidden: list[Tensor], config: Config) -> tuple[Tensor, Tensor]:
    """What a skip step gives after three full ones, and which candidate each token took."""
    chosen: list[Tensor] = []
    state = State(Plan(window=4, warmup=3), config)
    state.on_predict = lambda step, index, *_: chosen.append(index.clone())
    for feature in hidden[:-1]:
        state.begin(full=True)
        state.record(feature, feature.cos(), feature.sin())
    assert state.begin() is Step.SKIP
    return state.predict(hidden[-1], hidden[-1].sin()).clone(), chosen[0]


@pytest.mark.parametrize("cuts", [(8,), (5,), (4, 9, 13)], ids=["halves", "uneven", "four ranks"])
def test_tokens_shared_out_over_ranks_choose_as_in_one(device: str, cuts: tuple[int, ...]) -> None:
    """Row 36: what is chosen for a token depends on that token alone, so shards need no word of
    each other: no collective, and the same forecast bit for bit."""
    torch.manual_seed(0)
    features = [torch.randn(2, 16, 32, device=device) for _ in range(4)]
    whole, index = _forecast(features, Config())
    shards = zip(*(f.tensor_split(cuts, dim=1) for f in features), strict=True)
    parts = [_forecast(list(shard), Config()) for shard in shards]
    assert torch.equal(torch.cat([part for part, _ in parts], dim=1), whole)
    assert torch.equal(torch.cat([chosen for _, chosen in parts], dim=1), index)


def _rank(rank: int, ranks: int, store: str) -> bool:
    """Ulysses over ``ranks`` processes: the same steps and the same latents as one process."""
    import torch.distributed as dist
    from diffusers import ContextParallelConfig

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.accelerator.device_count = lambda: 1  # diffusers counts accelerators, the host is none
    truth = sample(fast())
    model = fast()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks))
    output = sample(model)
    right = done(model) == done_alone() and bool((output - truth).norm() < 1e-4 * truth.norm())
    dist.destroy_process_group()
    return right


def done_alone() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    model = fast()
    sample(model)
    return done(model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_context_parallel_ranks_make_what_one_process_makes(tmp_path: Path) -> None:
    """Row 36: two ranks over gloo, diffusers' own context parallelism."""
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                right = _rank(rank, 2, str(tmp_path / "store"))
            except BaseException:
                import traceback

                traceback.print_exc()
                right = False
            os._exit(0 if right else 1)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ends == [0, 0]


def test_the_ops_are_what_the_rows_speak_of() -> None:
    """Of the file: the run skips, through the library where it is compiled."""
    model = fast()
    sample(model)
    assert len(done(model)[0][0]) < STEPS
    assert ops.library_status().path.name == "libtap_ext_ops.so"
