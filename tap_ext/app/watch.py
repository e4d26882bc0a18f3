"""A pipeline that is looked at after each of its steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["watched"]

See = Callable[[Tensor], None]


def watched(pipe: Any, see: See) -> Any:
    """What is called, and has attributes, like ``pipe``; ``see`` is given the latents of each step.

    Through ``callback_on_step_end`` where the pipeline has it. The few older ones are followed by
    their scheduler, while they run; it must be their own, and belong to no other pipeline.
    """
    return type(type(pipe).__name__, (_Watched,), {})(pipe, see)


class _Watched:
    def __init__(self, pipe: Any, see: See) -> None:
        self._pipe, self._see = pipe, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "callback_on_step_end" in inspect.signature(type(self._pipe).__call__).parameters:
            return self._pipe(*args, **kwargs | {"callback_on_step_end": self._step_ended})
        scheduler = self._pipe.scheduler
        scheduler.step = self._seen(scheduler.step)
        try:
            return self._pipe(*args, **kwargs)
        finally:
            del scheduler.step

    def _step_ended(self, _pipe: Any, _step: int, _time: Any, kept: dict[str, Any]) -> Any:
        if isinstance(latents := kept.get("latents"), Tensor):
            self._see(latents)
        return {}  # nothing is changed

    def _seen(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            self._see(output[0] if isinstance(output, tuple) else output.prev_sample)
            return output

        return step
