"""Second-order multistep solvers for plain step reduction, the hardest control."""

from __future__ import annotations

import copy
import functools
from typing import Any

import diffusers
from torch import Tensor

__all__ = ["second_order"]

_diffusers: Any = diffusers

_NOISE_PREDICTING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler")


def second_order(scheduler: Any) -> Any:
    """A second-order multistep scheduler over the same noise levels; one model call per step.

    For rectified flows the two-step Adams-Bashforth method on the velocity, with the true lengths
    of the steps: x + h (v + h / (2 h') (v - v')), where a prime marks the step before; the first
    step is Euler's. For models of the noise, of the picture or of "v": DPM-Solver++(2M)
    (arXiv 2211.01095) as diffusers has it.

    Args:
        scheduler: the pipeline's own; it is left as it is.

    Raises:
        ValueError: there is no such solver for it.
    """
    kind = type(scheduler).__name__
    if kind == "FlowMatchEulerDiscreteScheduler" and not scheduler.config.stochastic_sampling:
        ours = copy.deepcopy(scheduler)
        ours.__class__ = _extrapolating(type(scheduler))
        return ours
    if kind in _NOISE_PREDICTING:
        return _diffusers.DPMSolverMultistepScheduler.from_config(
            scheduler.config, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint"
        )
    raise ValueError(f"steps2 has no second-order solver for {kind}")


def _extrapolating(kind: Any) -> Any:
    """A subclass that hands Euler's step the slope in the step's middle, from the last two."""

    @functools.wraps(kind.step)  # pipelines read its arguments
    def step(
        self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if self.step_index is None:
            self._init_step_index(timestep)
        index = self.step_index
        length = float(self.sigmas[index + 1] - self.sigmas[index])
        slope = model_output
        before, last, velocity = getattr(self, "_last_step", (None, 0.0, slope))
        if before == index - 1:  # else a run begins
            change = model_output.float() - velocity.float()
            slope = (model_output.float() + length / (2 * last) * change).to(slope.dtype)
        self._last_step = (index, length, model_output)
        return kind.step(self, slope, timestep, sample, *args, **kwargs)

    return type("AdamsBashforth2", (kind,), {"step": step})
