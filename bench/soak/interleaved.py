"""Many requests at once, by threads that share one transformer: none sees another's history."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tap_ext
from bench.soak import requests
from bench.soak.memory import drift, held
from bench.soak.requests import PROMPTS, SHAPES, Request, answer, own, pool
from tap_ext.integrations.diffusers import find_engine
from tap_ext.runtime import MAX_BRANCHES

COUNT = 10_000
ROUND = 250
"""Requests between two readings of the memory."""

DIFFERENT = 192
THREADS = 4
MAX_DRIFT = 1.0
"""MB."""

CONFIGS: tuple[dict[str, Any] | None, ...] = (
    {"window": 3, "warmup": 2},
    {"window": 4, "warmup": 1, "forecast": "hidden", "position": "sigma"},
    None,
)
"""Of the rounds in turn, the first twice as often; None: restored."""

TURNS = (0, 1, 0, 2)


class _Served:
    """One transformer, four threads, and what each request has to get."""

    def __init__(self, device: str, asked: list[Request], say: Callable[[str], None]) -> None:
        self.device, self.requests = device, asked
        self.expected: dict[tuple[int, Request], Tensor] = {}
        for turn in sorted(set(TURNS)):
            for request in asked:
                self.expected[turn, request] = answer(self.build(turn), request, device)
            say(f"{len(asked)} requests answered one by one, configuration {turn}")
        self.pipe = requests.build(device)
        self.todo: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.begin = threading.Barrier(THREADS + 1)
        self.end = threading.Barrier(THREADS + 1)
        self.turn = 0
        self.over = False
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()

    def build(self, turn: int) -> Any:
        pipe = requests.build(self.device)
        config = CONFIGS[turn]
        return pipe if config is None else tap_ext.accelerate(pipe, **config)

    def work(self, seed: int, neighbour: Any) -> None:
        """One thread: requests until the round is over, round by round."""
        chance = random.Random(seed)
        while True:
            self.begin.wait()
            if self.over:
                return
            while (request := self.todo.get()) is not None:
                try:
                    self._serve(request, neighbour, chance)
                except Exception as error:
                    self.failures.append(f"{request}: {type(error).__name__}: {error}")
            self.end.wait()

    def _serve(self, request: Request, neighbour: Any, chance: random.Random) -> None:
        config = CONFIGS[self.turn]
        pipe = own(self.pipe)
        if config is not None and chance.random() < 0.2:
            tap_ext.accelerate(pipe, **config)  # as it is already: nothing may change
        if not torch.equal(answer(pipe, request, self.device), self.expected[self.turn, request]):
            self.failures.append(f"{request}, configuration {self.turn}: another result")
        self.done[request.kind] += 1
        if config is not None and chance.random() < 0.1:
            tap_ext.explain(pipe)
        if chance.random() < 0.05:  # another model comes and goes meanwhile
            tap_ext.restore(neighbour)
            tap_ext.accelerate(neighbour, **CONFIGS[0] or {})
            if not torch.equal(
                answer(own(neighbour), request, self.device), self.expected[0, request]
            ):
                self.failures.append(f"{request}, another model: another result")
            self.done["of another model"] += 1


def _bound(pipe: Any) -> tuple[int, int, int, list[str]]:
    """Live and spare histories of an idle engine, its bytes, and why calls ran untouched."""
    engine = find_engine(pipe.transformer)
    if engine is None:
        return 0, 0, 0, []
    branches = engine._branches
    live = sum(map(len, list(branches._by_run.values())))
    return live, len(branches._spare), branches.nbytes, list(engine.fallbacks)


def run(device: str, scale: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Serve ``COUNT`` requests; returns counts, failures, memory and bounds."""
    wanted = max(ROUND, round(COUNT * scale))
    served = _Served(device, pool(min(DIFFERENT, wanted)), say)
    threads = [
        threading.Thread(target=served.work, args=(seed, served.build(0)), daemon=True)
        for seed in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    chance = random.Random(1)
    rounds = -(-wanted // ROUND)
    megabytes: list[float] = []
    live = spare = nbytes = 0
    reasons: set[str] = set()
    for number in range(rounds):
        served.turn = TURNS[number % len(TURNS)]
        config = CONFIGS[served.turn]
        if config is None:
            tap_ext.restore(served.pipe)
        else:
            tap_ext.accelerate(served.pipe, **config)
        for request in (*chance.choices(served.requests, k=ROUND), *[None] * THREADS):
            served.todo.put(request)
        served.begin.wait()
        served.end.wait()
        megabytes.append(held())
        at_end = _bound(served.pipe)
        live, spare, nbytes = (
            max(a, b) for a, b in zip((live, spare, nbytes), at_end, strict=False)
        )
        reasons |= set(at_end[3])
        say(
            f"round {number + 1} of {rounds}, configuration {served.turn}: "
            f"{len(served.failures)} failures, {megabytes[-1]:.2f} MB, {at_end[:3]}"
            + "".join(f"\n{failure}" for failure in served.failures[:3])
        )
    served.over = True
    served.begin.wait()
    for thread in threads:
        thread.join()
    after = megabytes[len(megabytes) // 4 :]
    moved = drift(after)
    return {
        "requests": rounds * ROUND,
        "of these by kind": dict(served.done),
        "different requests": len(served.requests),
        "shapes": len(SHAPES),
        "prompts": PROMPTS,
        "threads": THREADS,
        "differences to serial results": len(served.failures),
        "failures": served.failures[:20],
        "memory after warm-up, first and last, MB": [round(after[0], 2), round(after[-1], 2)],
        "drift, MB": round(moved, 2),
        "spread, MB": round(max(after) - min(after), 2),
        "live histories between rounds": live,
        "spare histories": f"{spare} (bound {MAX_BRANCHES})",
        "bytes of histories": nbytes,
        "fallbacks": sorted(reasons),
        "passed": not served.failures
        and not reasons
        and moved <= MAX_DRIFT
        and live == 0
        and spare <= MAX_BRANCHES,
    }
