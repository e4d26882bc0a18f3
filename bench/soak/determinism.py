"""The same twice: by seed, by batch, by number of threads, with graphs and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import tap_ext
from bench.soak.subjects import CONFIG, STEPS, Subject, subjects, to_device
from tap_ext import ops
from tests import models as bare
from tests.models.base import build, inputs, sample

BATCH = 8
BATCHED = (
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SanaTransformer2DModel",
    "WanTransformer3DModel",
    "Lumina2Transformer2DModel",
)
SEEDS = range(1, 6)

TOLERANCE = 4.0
"""A picture may depend on its batch so many times as much as the untouched model's does: a forecast
adds up to three outputs of the blocks, each rounded otherwise."""


def run(device: str, scale: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All four; ``scale`` changes nothing."""
    failures: list[str] = []
    result: dict[str, Any] = {"runs made twice": _twice(device, failures)}
    say("same seed twice")
    result |= _batches(device, failures)
    say("batches of 8")
    result["bit-equal on 1 and 2 threads"] = _threads(failures) if device == "cpu" else "CPU only"
    say("threads")
    result["bit-equal with and without graphs"] = _graphs(device, failures)
    return result | {"failures": failures, "passed": not failures}


def _accelerated(subject: Subject, device: str, **config: Any) -> Any:
    return tap_ext.accelerate(subject.make().to(device), **{**CONFIG, **config})


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def _twice(device: str, failures: list[str]) -> int:
    """On the same model and on one made anew."""
    count = 0
    for subject in subjects():
        target = _accelerated(subject, device)
        for seed in SEEDS:
            first = subject.run(target, device, seed, None)
            again = subject.run(target, device, seed, None)
            anew = subject.run(_accelerated(subject, device), device, seed, None)
            if not (_same(first, again) and _same(first, anew)):
                failures.append(f"{subject}, seed {seed}: not the same twice")
            count += 1
    return count


def _row(value: Any, row: int) -> Any:
    """What one of a batch is given."""
    if isinstance(value, Tensor):
        return value[row : row + 1] if value.dim() and len(value) == BATCH else value
    if isinstance(value, Mapping):
        return {key: _row(item, row) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and len(value) == BATCH:
        return type(value)(value[row : row + 1])
    return value


def _batches(device: str, failures: list[str]) -> dict[str, Any]:
    """A batch and its rows one by one: what is chosen, and what is made."""
    choices = different = 0
    worst: dict[str, str] = {}
    for name in BATCHED:
        tiny = bare.MODELS[name]
        model = build(tiny).to(device)
        given = to_device(inputs(tiny, batch=BATCH), device)
        plain = sample(tiny, model, given, STEPS)
        plain_rows = [sample(tiny, model, _row(given, row), STEPS) for row in range(BATCH)]
        tap_ext.accelerate(model, **CONFIG, trace=True)
        with tap_ext.run():
            made = sample(tiny, model, given, STEPS)
        chosen = tap_ext.stats(model).models[0].trace
        own, theirs = 0.0, 0.0
        for row in range(BATCH):
            with tap_ext.run():
                alone = sample(tiny, model, _row(given, row), STEPS)
            trace = tap_ext.stats(model).models[0].trace
            assert len(trace) == len(chosen) > 0
            for one, all_ in zip(trace, chosen, strict=True):
                choices += one.index.numel()
                share = all_.index[row * len(one.index) : (row + 1) * len(one.index)]
                share = share[:, : one.index.shape[1]]  # a batch may be padded at the end
                different += int((one.index != share).sum())
            own = max(own, _apart(plain, plain_rows[row], row))
            theirs = max(theirs, _apart(made, alone, row))
        worst[name] = f"{theirs:.1e} ({own:.1e} untouched)"
        if theirs > TOLERANCE * max(own, 2**-22):
            failures.append(f"{name}: {theirs:.1e} between batch and row, untouched {own:.1e}")
    if different:
        failures.append(f"{different} choices depend on the batch")
    return {
        "choices in a batch of 8 and one by one": choices,
        "choices that differ": different,
        "largest relative difference of the output": worst,
    }


def _apart(batch: list[Tensor], alone: list[Tensor], row: int) -> float:
    pairs = [(_row(b, row).double(), a.double()) for b, a in zip(batch, alone, strict=True)]
    return max(float((b - a).norm() / a.norm()) for b, a in pairs)


def _threads(failures: list[str]) -> int:
    """Every subject, and the fused op at a size where both threads work."""
    before, count = torch.get_num_threads(), 0
    try:
        for work in (*(_run_of(subject) for subject in subjects()), *_large_ops()):
            name, do = work
            torch.set_num_threads(1)
            alone = do()
            torch.set_num_threads(2)
            if not _same(alone, do()):
                failures.append(f"{name}: depends on the number of threads")
            count += 1
    finally:
        torch.set_num_threads(before)
    return count


def _run_of(subject: Subject) -> tuple[str, Callable[[], list[Tensor]]]:
    target = _accelerated(subject, "cpu")
    return str(subject), lambda: subject.run(target, "cpu", 1, None)


def _large_ops() -> list[tuple[str, Callable[[], list[Tensor]]]]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        stack = torch.randn(3, 2, 1500, 515, generator=generator).to(dtype)
        target = torch.randn(2, 1500, 515, generator=generator).to(dtype)
        rows = torch.randn(11, 3, generator=generator)

        def skip(
            stack: Tensor = stack, target: Tensor = target, rows: Tensor = rows
        ) -> list[Tensor]:
            out, index = torch.empty_like(target), torch.empty(2, 1500, dtype=torch.int32)
            ops.skip_step_(out, index, stack, target, stack.flip(0), target, rows, "cosine")
            return [out, index]

        def push(stack: Tensor = stack, target: Tensor = target) -> list[Tensor]:
            pushed = stack.clone()
            ops.stack_update_(pushed, target, torch.tensor([3.0, 6.0]), None)
            return [pushed]

        found += [(f"skip_step_ {dtype}", skip), (f"stack_update_ {dtype}", push)]
    return found


def _graphs(device: str, failures: list[str]) -> int | str:
    if device == "cpu":
        return "needs a GPU"
    count = 0
    for subject in subjects():
        without = _accelerated(subject, device, graphs="off")
        with_graphs = _accelerated(subject, device, graphs="auto")
        for seed in SEEDS:
            pair = [subject.run(target, device, seed, None) for target in (without, with_graphs)]
            if not _same(*pair):
                failures.append(f"{subject}, seed {seed}: graphs change the result")
            count += 1
    return count
