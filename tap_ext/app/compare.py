"""What the page shows, without the page: two runs of one prompt, step by step."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import tap_ext
from tap_ext.config import Config
from tap_ext.evaluate.models import Model
from tap_ext.plots import maps
from tap_ext.report import Choice

__all__ = ["Comparer", "Frame", "Outcome", "Side"]

SHOWN = 384
"""Pictures smaller than so many pixels are enlarged without smoothing."""

GAIN = 8
"""By how much the difference of two pictures is amplified."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        picture: (H, W, 3), what there is of it; None: nothing yet.
        step: how many steps are done.
        steps: how many there are.
        seconds: wall clock so far.
        full_steps: indices of the steps that ran in full; None: not known before the end.
        done: whether ``picture`` is the result.
    """

    picture: Picture | None
    step: int
    steps: int
    seconds: float = 0.0
    full_steps: tuple[int, ...] | None = None
    done: bool = False

    def __str__(self) -> str:
        """One line to stand beneath the picture."""
        if not self.done:
            return f"step {self.step} of {self.steps}" if self.step else "waiting"
        count = self.steps if self.full_steps is None else len(self.full_steps)
        return f"{self.seconds:.2f} s, {count} of {self.steps} steps full"


@dataclass(frozen=True)
class Outcome:
    """What an accelerated run chose.

    Attributes:
        picture: (H, W, 3), its result.
        full_steps: indices of its full steps.
        choices: of its skip steps, by step.
    """

    picture: Picture
    full_steps: tuple[int, ...]
    choices: dict[int, Choice]

    def overlay(self, step: int) -> tuple[Picture, str]:
        """The order of each token at a step over the picture, and a line about it."""
        if step not in self.choices:
            return self.picture, f"step {step} ran in full: no token was predicted"
        choice = self.choices[step]
        shown = maps.overlay(choice, self.picture)
        if shown is None:
            return self.picture, f"step {step}: the tokens fill no grid of this picture"
        taken = maps.orders(choice)[-1]
        shares = [
            f"order {order}: {float((taken == order).float().mean()):.0%}"
            for order in sorted(set(taken.tolist()))
        ]
        return (shown * 255).round().astype(np.uint8), f"step {step}: {', '.join(shares)}"


@dataclass(frozen=True)
class Frame:
    """What the page shows at a moment.

    Attributes:
        untouched: the run of the pipeline as it is; it comes first.
        accelerated: the other one.
        difference: (H, W, 3), ``GAIN`` times the difference of the two; None before the end.
        psnr: in dB, infinite where they are equal; None before the end.
        outcome: None before the end.
    """

    untouched: Side
    accelerated: Side
    difference: Picture | None = None
    psnr: float | None = None
    outcome: Outcome | None = None


class _Stopped(Exception):
    """Nobody looks any more."""


class Comparer:
    """Runs one model both ways. Runs of several threads do not disturb one another."""

    def __init__(self, model: Model, pause: float = 0.0) -> None:
        """Of ``model``, which stays untouched: every run has a pipeline of its own.

        Args:
            model: what generates.
            pause: seconds between two looks at a run at least. Every look costs time that the run
                then lacks on a machine with few cores.
        """
        self.model = model
        self.pause = pause

    def compare(
        self, prompt: str, seed: int, steps: int, preset: str, full_steps: int | None = None
    ) -> Iterator[Frame]:
        """Generates untouched, then accelerated, and yields what there is to see meanwhile.

        Args:
            prompt: what to generate.
            seed: of the noise that both begin with.
            steps: of both runs.
            preset: see ``tap_ext.Config``.
            full_steps: how many steps of the accelerated run are full; None: as ``preset`` says.

        Raises:
            ValueError: the model does not understand the prompt, or a number is out of range.
        """
        if not prompt.strip():
            raise ValueError("prompt must not be empty")
        self.model.check([prompt])
        config = Config(preset=preset, trace=True)
        if full_steps is not None:
            config = config.replace(full_steps=full_steps)
        frame = Frame(Side(None, 0, steps), Side(None, 0, steps))
        for side in self._watched(self.model.twin(), prompt, seed, steps):
            frame = replace(frame, untouched=side)
            yield frame
        pipe = tap_ext.accelerate(self.model.twin(), config)
        for side in self._watched(pipe, prompt, seed, steps):
            if side.done:
                break
            yield replace(frame, accelerated=side)
        outcome = _outcome(pipe, side)
        side = replace(side, full_steps=outcome.full_steps)
        before, after = frame.untouched.picture, side.picture
        assert before is not None and after is not None
        apart = np.abs(before.astype(int) - after)
        mean = float((apart.astype(float) ** 2).mean())
        psnr = 10 * np.log10(255**2 / mean) if mean else float("inf")
        difference = (apart * GAIN).clip(0, 255).astype(np.uint8)
        yield Frame(frame.untouched, side, difference, float(psnr), outcome)

    def _watched(self, pipe: Any, prompt: str, seed: int, steps: int) -> Iterator[Side]:
        """Generates in a thread of its own; yields after every step, at last the result."""
        seen: queue.Queue[Tensor | BaseException | None] = queue.Queue()
        stop = threading.Event()
        _observe(pipe, seen, stop)
        result: list[tuple[Tensor, float]] = []
        begin = time.perf_counter()

        def work() -> None:
            try:
                made = self.model.generate(pipe, [prompt], [seed], steps)[0]
                result.append((made, time.perf_counter() - begin))
                seen.put(None)
            except BaseException as error:
                seen.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            step, looked = 0, -self.pause
            while (latents := seen.get()) is not None:
                if isinstance(latents, BaseException):
                    raise latents
                step += 1
                seconds = time.perf_counter() - begin
                if seconds - looked >= self.pause:
                    looked = seconds
                    yield Side(self._preview(latents), step, steps, seconds)
            made, seconds = result[0]
            yield Side(_bytes(made), steps, steps, seconds, done=True)
        finally:
            stop.set()
            thread.join()

    def _preview(self, latents: Tensor) -> Picture | None:
        """What is to be seen in the latents; bundled models have no autoencoder."""
        if self.model.name not in PREVIEWS:
            return None
        return _bytes(PREVIEWS[self.model.name](latents)[0].cpu())


def _observe(pipe: Any, seen: queue.Queue[Any], stop: threading.Event) -> None:
    """Has the pipeline's scheduler, which is its own, show what each of its steps gives."""
    original = pipe.scheduler.step

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        if stop.is_set():
            raise _Stopped
        output = original(*args, **kwargs)
        latents = output[0] if isinstance(output, tuple) else output.prev_sample
        seen.put(latents.detach().clone())
        return output

    pipe.scheduler.step = step


def _outcome(pipe: Any, side: Side) -> Outcome:
    """What an accelerated pipeline chose in the first branch of its last run."""
    known = tap_ext.stats(pipe).models[0]
    assert side.picture is not None
    if not known.branches:
        return Outcome(side.picture, tuple(range(side.steps)), {})
    branch = known.branches[0]
    choices = {choice.step: choice for choice in known.trace if choice.branch == branch.name}
    return Outcome(side.picture, branch.full_steps, choices)


def _bytes(made: Tensor) -> Picture:
    """(3, H, W) in [0, 1], or the middle of a video (F, 3, H, W), as bytes, enlarged if small."""
    still = made[made.shape[0] // 2] if made.dim() == 4 else made
    pixels: Picture = (maps.as_array(still) * 255).round().astype(np.uint8)
    times = max(1, SHOWN // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def _flux(latents: Tensor) -> Tensor:
    from tap_ext.demo import bundled

    return bundled.unpack(latents)


def _digits(latents: Tensor) -> Tensor:
    return (latents.float() / 2 + 0.5).clamp(0, 1)


PREVIEWS: dict[str, Callable[[Tensor], Tensor]] = {"bundled": _flux, "digits": _digits}
"""Latents (B, ...) to pictures (B, 3, H, W), for models whose latents are pictures."""
