"""cache-dit: a calibrator of its type, beside ``taylorseer``, ``dmd`` and ``foca``.

cache-dit decides which steps are full and runs its first blocks on every step; the calibrator
predicts what the others would add (``cache_dit/caching/cache_contexts/calibrators`` in version
1.5.3: ``mark_step_begin``, ``update``, ``approximate``, ``reset_cache``)::

    probe = Probe(pipe.transformer.transformer_blocks[0].norm1)
    cache_dit.enable_cache(pipe, cache_config=..., calibrator_config=calibrator_config(probe))

The probe is the output of a module that runs on every step. Features of other tokens than it has
(those of a text stream) take the nominal predictor.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from tap_ext.config import Config
from tap_ext.plan import Listed, Plan
from tap_ext.state import State

__all__ = ["Probe", "TapCalibrator", "calibrator_config"]


class Probe:
    """The last output of a module, its first tensor where there are several."""

    def __init__(self, module: nn.Module) -> None:
        """Watch ``module`` until ``remove``."""
        self.value: Tensor | None = None
        self.remove = module.register_forward_hook(self._keep).remove

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.value = output[0] if isinstance(output, tuple) else output

    def __deepcopy__(self, _memo: Any) -> Probe:
        """Itself: cache-dit copies its configurations."""
        return self


class TapCalibrator:
    """One history per name, each step's tokens by their own predictors."""

    def __init__(self, config: Config | None = None, probe: Probe | None = None, **_: Any) -> None:
        """A calibrator; without a ``probe`` every token takes the nominal predictor."""
        config = Config() if config is None else config
        self._config = config.replace(forecast="hidden")  # what is given is what is predicted
        self._nominal = self._config.replace(predictors=config.family()[:1])
        self._probe, self._step = probe, -1
        self._states: dict[str, tuple[State, Tensor]] = {}

    def reset_cache(self, *_: Any, **__: Any) -> None:
        """Begin another run."""
        self._step = -1
        self._states.clear()

    def mark_step_begin(self, *_: Any, **__: Any) -> None:
        """Another step begins."""
        self._step += 1

    def update(self, Y: Tensor, name: str = "default") -> None:
        """A full step: ``Y`` (B, N, D) is the feature called ``name``."""
        probe, (state, last) = self._probe_for(Y), self._states.get(name, (None, Y))
        if state is None or last.shape != Y.shape:
            config = self._nominal if probe is None else self._config
            state = State(Plan(schedule=Listed((0,))), config)  # cache-dit names the full steps
        state.begin(self._step, full=True)
        state.record(Y, Y, Y[..., :1] if state.config is self._nominal else _given(probe))
        self._states[name] = state, Y

    def approximate(self, name: str = "default") -> Tensor:
        """The feature called ``name`` at this step, in a buffer that the next one overwrites."""
        if name not in self._states:
            raise RuntimeError(f"update() must come before approximate(), got none for {name!r}")
        state, like = self._states[name]
        state.begin(self._step)
        nominal = state.config is self._nominal
        return state.predict(like, like[..., :1] if nominal else _given(self._probe_for(like)))

    def _probe_for(self, feature: Tensor) -> Tensor | None:
        value = None if self._probe is None else self._probe.value
        return value if value is not None and value.shape[:-1] == feature.shape[:-1] else None


def _given(probe: Tensor | None) -> Tensor:
    if probe is None:
        raise RuntimeError("the probe must have the tokens of the feature at every step of a run")
    return probe


def calibrator_config(probe: Probe | None = None, config: Config | None = None) -> Any:
    """A ``CalibratorConfig`` of cache-dit for its type ``"tap"``, which is made known to it."""
    calibrators: Any = importlib.import_module("cache_dit.caching.cache_contexts.calibrators")
    contexts: Any = importlib.import_module("cache_dit.caching.cache_contexts.cache_context")
    if "tap" not in contexts.Calibrator._supported_calibrators:
        make = contexts.Calibrator

        class WithTap(make):  # type: ignore[misc, valid-type]
            _supported_calibrators = (*make._supported_calibrators, "tap")

            def __new__(cls, calibrator_config: Any) -> Any:
                if calibrator_config.calibrator_type == "tap":
                    return TapCalibrator(**calibrator_config.to_kwargs())
                return make(calibrator_config)

        contexts.Calibrator = WithTap
    arguments = {"config": config, "probe": probe}
    return calibrators.CalibratorConfig(True, True, "tap", calibrator_kwargs=arguments)
