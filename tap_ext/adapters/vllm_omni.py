"""vLLM-Omni: a ``CacheBackend``.

The contract is that of ``vllm_omni/diffusion/cache/base.py`` in vllm-project/vllm-omni (commit
be81443): ``enable(pipeline)`` once, ``refresh(pipeline, num_inference_steps, verbose)`` before each
generation, ``is_enabled()``. The configuration is a ``Config``, a mapping of its fields, or
vLLM-Omni's ``DiffusionCacheConfig`` made from ``{"tap": {...}}``, which keeps unknown keys as
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tap_ext.accelerate import accelerate, restore
from tap_ext.config import Config
from tap_ext.integrations.diffusers import engines_of
from tap_ext.runtime import Moment, Run, enter

__all__ = ["TapBackend"]

_TRANSFORMERS = ("transformer", "transformer_2")


class TapBackend:
    """Enters a pipeline's transformers; a class without a spec is watched at its first call."""

    def __init__(self, config: Any) -> None:
        """A backend, not enabled yet."""
        chosen = config if isinstance(config, Config | Mapping) else getattr(config, "tap", {})
        self.config = chosen if isinstance(chosen, Config) else Config(**chosen)
        self.enabled = False
        self._run: Run | None = None

    def enable(self, pipeline: Any) -> None:
        """Accelerate the transformers of ``pipeline``."""
        for transformer in self._transformers(pipeline):
            accelerate(transformer, self.config)
        self.enabled = True

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        """Begin a generation: nothing of the last one is remembered, its buffers are reused."""
        if self._run is not None:
            for transformer in self._transformers(pipeline):
                for engine in engines_of(transformer):
                    engine.finish(self._run)
        self._run = Run(_Steps(num_inference_steps))
        enter(self._run)

    def disable(self, pipeline: Any) -> None:
        """Leave the transformers as they were before ``enable``."""
        for transformer in self._transformers(pipeline):
            restore(transformer)
        self.enabled = False

    def is_enabled(self) -> bool:
        """Whether ``enable`` was called last."""
        return self.enabled

    def _transformers(self, pipeline: Any) -> list[Any]:
        found = [getattr(pipeline, name, None) for name in _TRANSFORMERS]
        return [transformer for transformer in found if transformer is not None]


class _Steps:
    """A clock that knows how long the run is; where it is, the timesteps tell."""

    def __init__(self, count: int) -> None:
        self._count = count

    def now(self) -> Moment | None:
        return None

    def num_steps(self) -> int | None:
        return self._count

    def angles(self) -> tuple[float, ...] | None:
        return None

    def refusal(self) -> str | None:
        return None
