"""What is seen of one run, step by step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tap_ext.plots import maps

__all__ = ["SHOWN", "Looks", "Picture", "Side"]

SHOWN = 384
"""Pictures smaller than so many pixels are enlarged without smoothing."""

LEISURE = 9
"""A look at a run is followed by so many times as long without one."""

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
        frames: of a video's latents, as far as they are known; 1: of a picture.
    """

    picture: Picture | None
    step: int
    steps: int
    seconds: float = 0.0
    full_steps: tuple[int, ...] | None = None
    done: bool = False
    frames: int = 1

    def __str__(self) -> str:
        """One line to stand beneath the picture."""
        if not self.done:
            return f"step {self.step} of {self.steps}" if self.step else "waiting"
        count = self.steps if self.full_steps is None else len(self.full_steps)
        return f"{self.seconds:.2f} s, {count} of {self.steps} steps full"


class _Stopped(Exception):
    """Nobody looks any more."""


class Looks:
    """Looks at one run in its own thread; the time that they take is not the run's."""

    def __init__(
        self, preview: Callable[[Tensor], Tensor | None], steps: int, pause: float = 0.0
    ) -> None:
        """Of a run of so many steps.

        Args:
            preview: latents to a picture (3, H, W) in [0, 1].
            steps: how many there will be.
            pause: seconds between two looks at least; 0: one after every step.
        """
        self.queue: queue.Queue[Side | BaseException] = queue.Queue()
        self.stop = threading.Event()
        self._preview, self._steps, self._pause = preview, steps, pause
        self._step, self._spent, self._due = 0, 0.0, 0.0

    def begin(self) -> None:
        """The run begins."""
        self._begun = time.perf_counter()

    def see(self, latents: Tensor) -> None:
        """A step is done."""
        if self.stop.is_set():
            raise _Stopped
        self._step += 1
        if time.perf_counter() < self._due:
            return
        if latents.device.type != "cpu":  # what is still to be computed is the run's time
            torch.accelerator.synchronize(latents.device)
        now = time.perf_counter()
        seconds = now - self._begun - self._spent
        picture = self._preview(latents)
        shown = None if picture is None else _bytes(picture.cpu())
        took = time.perf_counter() - now
        if self._pause:
            self._due = now + took + max(self._pause, LEISURE * took)
        self._spent += took
        self.queue.put(Side(shown, self._step, self._steps, seconds, frames=self._frames()))

    def end(self, made: Tensor) -> None:
        """The result, (3, H, W) or (F, 3, H, W)."""
        seconds = time.perf_counter() - self._begun - self._spent
        shown, frames = _bytes(made), self._frames()
        self.queue.put(Side(shown, self._steps, self._steps, seconds, done=True, frames=frames))

    def _frames(self) -> int:
        return getattr(self._preview, "frames", 1)


def _bytes(made: Tensor) -> Picture:
    """(3, H, W) in [0, 1], or the middle of a video (F, 3, H, W), as bytes, enlarged if small."""
    still = made[made.shape[0] // 2] if made.dim() == 4 else made
    pixels: Picture = (maps.as_array(still) * 255).round().astype(np.uint8)
    times = max(1, SHOWN // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)
