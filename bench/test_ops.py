"""Each op against a copy of as many bytes, and against plain torch that builds every candidate.

Both are measured beside the op, in the same process: on a machine with other load the times move,
the ratios hardly do. See README.md.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.shapes import Shape
from bench.timing import timed
from tap_ext import ops, reference

PLANES = 3  # order 2, as in the paper
CANDIDATES = 11
ROUNDS = 9
FLOATS = 30
"""Float32 planes that a case needs at most: plain torch builds every candidate."""


class Inputs:
    """All tensors of one size, outputs included: nothing is allocated while the clock runs."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, device=device).to(dtype)

        feature = (shape.B, shape.N, shape.D)
        self.stack = normal(PLANES, *feature)
        self.residual = normal(PLANES, *feature)
        self.target, self.base, self.out = normal(*feature), normal(*feature), normal(*feature)
        self.rows = torch.randn(CANDIDATES, PLANES, device=device)
        self.rows[:, 0] = 1
        self.gaps = torch.arange(1.0, PLANES, device=device)
        self.shift, self.scale = normal(2, shape.B, shape.D)
        tokens = feature[:2]
        self.index = torch.randint(CANDIDATES, tokens, dtype=torch.int32, device=device)
        self.distance = torch.empty(tokens, device=device)
        self.plane = self.target.nbytes


@dataclass(frozen=True)
class Case:
    """An op, what it replaces, and the bytes that it cannot avoid to move."""

    op: Callable[[], object]
    twin: Callable[[], object]
    nbytes: int


def stack_update(x: Inputs) -> Case:
    return Case(
        lambda: ops.stack_update_(x.stack, x.target, x.gaps, x.base),
        lambda: reference.stack_update_(x.stack, x.target, x.gaps, x.base),
        (PLANES - 1 + PLANES + 2) * x.plane,
    )


def predict(x: Inputs) -> Case:
    return Case(
        lambda: ops.predict(x.stack, x.rows),
        lambda: reference.predict(x.stack, x.rows),
        (PLANES + CANDIDATES) * x.plane,
    )


def cosine_argmin(x: Inputs) -> Case:
    candidates = ops.predict(x.stack, x.rows)
    return Case(
        lambda: ops.cosine_argmin(candidates, x.target),
        lambda: reference.cosine_argmin(candidates, x.target),
        (CANDIDATES + 1) * x.plane,
    )


def gather_rows(x: Inputs) -> Case:
    return Case(
        lambda: ops.gather_rows(x.stack, x.rows, x.index, x.base),
        lambda: reference.gather_rows(x.stack, x.rows, x.index, x.base),
        (PLANES + 2) * x.plane,
    )


def select(x: Inputs) -> Case:
    return Case(
        lambda: ops.select_out(x.stack, x.target, x.rows, index=x.index, distance=x.distance),
        lambda: reference.select_materialised(x.stack, x.target, x.rows),
        (PLANES + 1) * x.plane,
    )


def skip_step(x: Inputs) -> Case:
    def twin() -> Tensor:
        index, _ = reference.select_materialised(x.stack, x.target, x.rows)
        return reference.gather_rows(x.residual, x.rows, index, x.base)

    return Case(
        lambda: ops.skip_step_(x.out, x.index, x.stack, x.target, x.residual, x.base, x.rows),
        twin,
        (2 * PLANES + 3) * x.plane,
    )


def modulated_skip_step(x: Inputs) -> Case:
    """Against a skip step that is given its probe, and what writes that one."""
    width = (x.base.shape[-1],)

    def twin() -> Tensor:
        normed = torch.nn.functional.layer_norm(x.base, width, eps=1e-6)
        probe = normed * (1 + x.scale[:, None]) + x.shift[:, None]
        index, _ = reference.select_materialised(x.stack, probe, x.rows)
        return reference.gather_rows(x.residual, x.rows, index, x.base)

    return Case(
        lambda: ops.modulated_skip_step_(
            x.out, x.index, x.stack, x.base, x.shift, x.scale, x.residual, x.rows
        ),
        twin,
        (2 * PLANES + 2) * x.plane,
    )


def written_skip_step(x: Inputs) -> Case:
    """``skip_step`` after torch's own LayerNorm and modulation: what the op before replaces."""
    width = (x.base.shape[-1],)

    def op() -> None:
        normed = torch.nn.functional.layer_norm(x.base, width, eps=1e-6)
        probe = normed * (1 + x.scale[:, None]) + x.shift[:, None]
        ops.skip_step_(x.out, x.index, x.stack, probe, x.residual, x.base, x.rows)

    return Case(op, modulated_skip_step(x).twin, (2 * PLANES + 2) * x.plane)


CASES = (
    stack_update,
    predict,
    cosine_argmin,
    gather_rows,
    select,
    skip_step,
    modulated_skip_step,
    written_skip_step,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_op(
    benchmark: BenchmarkFixture,
    lines: list[str],
    case: Callable[[Inputs], Case],
    shape: Shape,
    dtype: torch.dtype,
    device: str,
) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cpu" and memory < (needed := FLOATS * 4 * shape.B * shape.N * shape.D):
        pytest.skip(f"needs {needed / 2**30:.0f} GiB, and there are {memory / 2**30:.0f}")
    measured = case(Inputs(shape, dtype, device))
    source = torch.ones(measured.nbytes // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    times: dict[str, list[float]] = {"op": [], "copy": []}

    def run() -> None:
        times["op"].append(timed(measured.op, device)[1])

    def copy() -> None:  # just before every run: side by side, and no input is left in a cache
        times["copy"].append(timed(lambda: target.copy_(source), device)[1])

    benchmark.group = f"{shape} {dtype} {device}"
    benchmark.pedantic(run, setup=copy, rounds=ROUNDS, warmup_rounds=1)

    op, as_copy = (statistics.median(times[k][1:]) for k in ("op", "copy"))  # after the warm-up
    _, twin = timed(measured.twin, device)
    info = {
        "bytes": measured.nbytes,
        "GB/s": measured.nbytes / op / 1e9,
        "time / copy": op / as_copy,
        "plain torch / time": twin / op,
        "threads": torch.get_num_threads(),
        "compiled": ops.library_status().compiled,
    }
    benchmark.extra_info.update(info)
    name = f"{case.__name__} {benchmark.group}"
    lines.append(
        f"{name:58} {op * 1e3:9.2f} ms {info['GB/s']:8.1f} GB/s  copy x {op / as_copy:6.2f}"
        f"  plain torch / {twin / op:8.1f}"
    )
