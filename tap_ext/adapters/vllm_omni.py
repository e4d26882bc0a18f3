"""vLLM-Omni: a ``CacheBackend``.

Of vllm-omni 0.30.0, ``vllm_omni/diffusion/cache/base.py`` and its caller, ``worker/
diffusion_model_runner.py``: ``enable(pipeline)`` once, ``refresh(pipeline, num_inference_steps,
verbose)`` before each generation (0 or None where the request does not say), ``is_enabled()``.
It has no call for the end of a generation, which is one call of ``pipeline.forward``; so that is
watched. Where steps are called one by one, a run ends when the next one begins, or at ``disable``.
The configuration is a ``Config``, a mapping of its fields, or vLLM-Omni's ``DiffusionCacheConfig``
made from ``{"tap": {...}}``, which keeps unknown keys as attributes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from tap_ext.accelerate import accelerate, restore
from tap_ext.config import Config
from tap_ext.runtime import Moment, Run, enter, leave

__all__ = ["TapBackend"]

_TRANSFORMERS = ("transformer", "transformer_2")


class TapBackend:
    """Enters a pipeline's transformers; a class without a spec is watched at its first call."""

    def __init__(self, config: Any) -> None:
        """A backend, not enabled yet."""
        chosen = config if isinstance(config, Config | Mapping) else getattr(config, "tap", {})
        self.config = chosen if isinstance(chosen, Config) else Config(**chosen)
        self.enabled = False
        self._run: tuple[Run, str, float] | None = None

    def enable(self, pipeline: Any) -> None:
        """Accelerate the transformers of ``pipeline``."""
        for transformer in self._transformers(pipeline):
            accelerate(transformer, self.config)
        if not self.enabled and callable(forward := getattr(pipeline, "forward", None)):
            pipeline.forward = self._until_the_end_of(forward)
        self.enabled = True

    def refresh(self, pipeline: Any, num_inference_steps: int | None, verbose: bool = True) -> None:
        """Begin a generation: nothing of the last one is remembered, its buffers are reused."""
        self._end()
        self._run = (
            Run(_Steps(num_inference_steps or None)),
            type(pipeline).__name__,
            time.perf_counter(),
        )
        enter(self._run[0])

    def disable(self, pipeline: Any) -> None:
        """Leave the pipeline and its transformers as they were before ``enable``."""
        self._end()
        for transformer in self._transformers(pipeline):
            restore(transformer)
        if hasattr(vars(pipeline).get("forward"), "tap_ext"):
            del pipeline.forward
        self.enabled = False

    def is_enabled(self) -> bool:
        """Whether ``enable`` was called last."""
        return self.enabled

    def _until_the_end_of(self, forward: Any) -> Any:
        @functools.wraps(forward)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                output = forward(*args, **kwargs)
            except BaseException as error:
                self._end(error)
                raise
            self._end()
            return output

        vars(watched)["tap_ext"] = True
        return watched

    def _end(self, error: BaseException | None = None) -> None:
        if self._run is not None:
            run, name, begun = self._run
            self._run = None
            leave(run, name, time.perf_counter() - begun, error)

    def _transformers(self, pipeline: Any) -> list[Any]:
        found = [getattr(pipeline, name, None) for name in _TRANSFORMERS]
        return [transformer for transformer in found if transformer is not None]


class _Steps:
    """A clock that knows how long the run is; where it is, the timesteps tell."""

    def __init__(self, count: int | None) -> None:
        self._count = count

    def now(self) -> Moment | None:
        return None

    def num_steps(self) -> int | None:
        return self._count

    def angles(self) -> tuple[float, ...] | None:
        return None

    def prediction(self) -> None:
        return None

    def refusal(self) -> str | None:
        return None
