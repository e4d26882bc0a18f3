"""What the page shows, without the page: two runs of one prompt, step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

import tap_ext
from tap_ext.app.looks import SHOWN, Looks, Picture, Side
from tap_ext.app.preview import Preview
from tap_ext.app.watch import watched
from tap_ext.config import Config
from tap_ext.evaluate.models import Model
from tap_ext.plots import maps
from tap_ext.report import Choice

__all__ = ["GAIN", "SHOWN", "Comparer", "Frame", "Outcome", "Side"]

GAIN = 8
"""By how much the difference of two pictures is amplified."""


@dataclass(frozen=True)
class Outcome:
    """What an accelerated run chose.

    Attributes:
        picture: (H, W, 3), its result.
        full_steps: indices of its full steps.
        choices: of its skip steps, by step.
        frames: of its latents.
    """

    picture: Picture
    full_steps: tuple[int, ...]
    choices: dict[int, Choice]
    frames: int = 1

    def overlay(self, step: int) -> tuple[Picture, str]:
        """The order of each token at a step over the picture, and a line about it."""
        if step not in self.choices:
            return self.picture, f"step {step} ran in full: no token was predicted"
        choice = _middle(self.choices[step], self.frames)
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


class Comparer:
    """Runs one model both ways. Runs of several threads do not disturb one another."""

    def __init__(self, model: Model, pause: float = 0.0, **call: Any) -> None:
        """Of ``model``, which stays untouched: every run has a pipeline of its own.

        Args:
            model: what generates.
            pause: seconds between two looks at a run at least; slow looks are rarer still. 0: a
                look after every step.
            call: what of the pipeline's call a preview should know: height, width, num_frames.
        """
        self.model = model
        self.pause = pause
        self.call = call
        self._warm = False

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
        if not self._warm:  # else the untouched run, which comes first, would pay for all set-up
            self.model.generate(self.model.twin(), [prompt], [seed], 2)
            self._warm = True
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
        """Generates in a thread of its own; yields after its steps, at last the result."""
        looks = Looks(self._preview(pipe), steps, self.pause)

        def work() -> None:
            try:
                looks.begin()
                shown = watched(pipe, looks.see)
                looks.end(self.model.generate(shown, [prompt], [seed], steps)[0])
            except BaseException as error:
                looks.queue.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            done = False
            while not done:
                side = looks.queue.get()
                if isinstance(side, BaseException):
                    raise side
                done = side.done
                yield side
        finally:
            looks.stop.set()
            thread.join()

    def _preview(self, pipe: Any) -> Callable[[Tensor], Tensor | None]:
        if self.model.name in PREVIEWS:
            return lambda latents: PREVIEWS[self.model.name](latents)[0]
        return Preview(pipe, **self.call)


def _outcome(pipe: Any, side: Side) -> Outcome:
    """What an accelerated pipeline chose in the first branch of its last run."""
    known = tap_ext.stats(pipe).models[0]
    assert side.picture is not None
    if not known.branches:
        return Outcome(side.picture, tuple(range(side.steps)), {}, side.frames)
    branch = known.branches[0]
    choices = {choice.step: choice for choice in known.trace if choice.branch == branch.name}
    return Outcome(side.picture, branch.full_steps, choices, side.frames)


def _middle(choice: Choice, frames: int) -> Choice:
    """What was chosen in the middle frame."""
    tokens = choice.index.shape[1]
    if frames <= 1 or tokens % frames:
        return choice
    part = slice(tokens // frames * (frames // 2), tokens // frames * (frames // 2 + 1))
    return replace(choice, index=choice.index[:, part], distance=choice.distance[:, part])


def _flux(latents: Tensor) -> Tensor:
    from tap_ext.demo import bundled

    return bundled.unpack(latents)


def _digits(latents: Tensor) -> Tensor:
    return (latents.float() / 2 + 0.5).clamp(0, 1)


PREVIEWS: dict[str, Callable[[Tensor], Tensor]] = {"bundled": _flux, "digits": _digits}
"""Latents (B, ...) to pictures (B, 3, H, W), for models whose latents are pictures."""
