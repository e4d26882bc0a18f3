"""Runs given up at random points: the next run has to be that of a model never given up on."""

from __future__ import annotations

import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import tap_ext
from bench.soak.subjects import CONFIG, STEPS, Subject, models_of, subjects

COUNT = 1000
TAP = str(Path(tap_ext.__file__).parent)


class AbortError(Exception):
    """What the raising modules and callbacks raise."""


@contextmanager
def _module_calls(models: list[nn.Module]) -> Iterator[Counter[str]]:
    """How often each module is called."""
    seen: Counter[str] = Counter()
    with ExitStack() as hooks:
        for number, model in enumerate(models):
            for path, module in model.named_modules():
                name = f"{number}:{path}"

                def count(*_: Any, name: str = name) -> None:
                    seen[name] += 1

                hooks.callback(module.register_forward_pre_hook(count).remove)
        yield seen


@contextmanager
def _raising_module(
    models: list[nn.Module], name: str, call: int, error: BaseException, *, after: bool
) -> Iterator[None]:
    """Raise at the given call of a module, before it or after it."""
    number, _, path = name.partition(":")
    module = models[int(number)].get_submodule(path)
    left = [call]

    def act(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    enter = module.register_forward_hook if after else module.register_forward_pre_hook
    handle = enter(act)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _lines(at: int | None = None) -> Iterator[list[int]]:
    """Count the lines that are executed in tap_ext; at one of them, Ctrl-C is pressed."""
    seen = [0]

    def line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            seen[0] += 1
            if seen[0] == at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return line

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(TAP) else None

    sys.settrace(enter)
    try:
        yield seen
    finally:
        sys.settrace(None)


def _at(step: int, act: Callable[[Any], None]) -> Callable[..., dict[str, Any]]:
    def callback(pipe: Any, now: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if now == step:
            act(pipe)
        return tensors

    return callback


def _raise(pipe: Any) -> None:
    raise AbortError


def _interrupt(pipe: Any) -> None:
    pipe._interrupt = True


class _Soaked:
    """One subject, and what it has to make."""

    def __init__(self, subject: Subject, device: str) -> None:
        self.subject, self.device = subject, device
        self.target = self._fresh()
        self.truth = self._run(self._fresh(), 0)
        self.calls: dict[bool, Counter[str]] = {}
        self.lines: dict[bool, int] = {}
        self.where = ""
        for new in (True, False):  # a new engine also finds out whether skip steps are right
            if new:
                self.renew()
            with _module_calls(models_of(subject, self.target)) as calls:
                self._run(self.target, 0)
            if new:
                self.renew()
            with _lines() as lines:
                self._run(self.target, 0)
            self.calls[new], self.lines[new] = calls, lines[0]

    def _fresh(self) -> Any:
        return tap_ext.accelerate(self.subject.make().to(self.device), **CONFIG)

    def _run(self, target: Any, seed: int, callback: Any = None) -> Any:
        return self.subject.run(target, self.device, seed, callback)

    def renew(self) -> None:
        """A new engine on the same model."""
        tap_ext.accelerate(tap_ext.restore(self.target), **CONFIG)

    def give_up(self, kind: str, seed: int, chance: random.Random, *, new: bool) -> bool:
        """One run that ends early; False: it did not."""
        models = models_of(self.subject, self.target)
        callback = None
        with ExitStack() as armed:
            if kind == "Ctrl-C in tap_ext":
                armed.enter_context(_lines(chance.randint(1, self.lines[new])))
            elif kind == "raising callback":
                callback = _at(chance.randrange(STEPS), _raise)
            elif kind == "_interrupt":
                callback = _at(chance.randrange(STEPS), _interrupt)
            else:
                name, calls = chance.choice(sorted(self.calls[new].items()))
                error = KeyboardInterrupt() if kind == "Ctrl-C in a module" else AbortError()
                after = chance.random() < 0.5
                call = chance.randint(1, calls)
                armed.enter_context(_raising_module(models, name, call, error, after=after))
            try:
                self._run(self.target, seed, callback)
            except (AbortError, KeyboardInterrupt) as error:
                last = traceback.extract_tb(error.__traceback__)[-2:]
                self.where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in last[::-1])
                if kind.endswith("module"):
                    self.where = f"call {call} of {name}, {'after' if after else 'before'}"
                return True
        return kind == "_interrupt"

    def recovered(self) -> str | None:
        """What is wrong with the next run; None: nothing."""
        before = [(m.full, m.skip, m.runs) for m in tap_ext.stats(self.target).models]
        made = self._run(self.target, 0)
        if not all(map(torch.equal, made, self.truth)):
            apart = max(float((a - b).abs().max()) for a, b in zip(made, self.truth, strict=True))
            done = [(m.branches, m.fallbacks) for m in tap_ext.stats(self.target).models]
            return f"another result, by {apart:.1e}: {done}"
        for model, (full, skip, runs) in zip(
            tap_ext.stats(self.target).models, before, strict=True
        ):
            # One given up before its first step was done may go on as the next one.
            new = model.runs - runs
            if model.skip == skip or model.full == full or new not in (0, 1):
                return f"{new} runs, {model.full - full} full and {model.skip - skip} skip steps"
            if model.fallbacks:
                return f"fallbacks {model.fallbacks}"
        return None


KINDS = (
    "error in a module",
    "Ctrl-C in a module",
    "Ctrl-C in tap_ext",
    "raising callback",
    "_interrupt",
)


def run(device: str, scale: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Give up ``COUNT`` runs; returns counts and failures."""
    chance = random.Random(0)
    wanted = max(1, round(COUNT * scale))
    soaked = [_Soaked(subject, device) for subject in subjects()]
    done: Counter[str] = Counter()
    by_subject: Counter[str] = Counter()
    failures: list[str] = []
    missed = 0
    while (total := sum(done.values())) < wanted and missed < 10 * wanted:
        one = soaked[total % len(soaked)]
        kind = chance.choice(KINDS if one.subject.calls_back else KINDS[:3])
        new = chance.random() < 0.3
        if new:
            one.renew()
        seed = chance.randint(1, 1000)
        if not one.give_up(kind, seed, chance, new=new):
            missed += 1
            continue
        done[kind] += 1
        by_subject[str(one.subject)] += 1
        if (wrong := one.recovered()) is not None:
            failures.append(f"{one.subject}: {kind} ({one.where}), seed {seed}, new={new}: {wrong}")
            say(failures[-1])
            one.target = one._fresh()
        if (total + 1) % 100 == 0:
            say(f"{total + 1} runs given up, {len(failures)} failures")
    return {
        "runs given up": sum(done.values()),
        "by kind": dict(done),
        "by subject": dict(by_subject),
        "points missed": missed,
        "failures": failures,
        "passed": not failures and sum(done.values()) >= wanted,
    }
