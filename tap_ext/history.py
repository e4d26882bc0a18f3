"""What a run is outside its ``State``: what it did, and all of it where it was taken out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tap_ext.buffers import Remembered
from tap_ext.config import Config
from tap_ext.correction import Sampling
from tap_ext.plan import Plan
from tap_ext.predictors import Predictor

__all__ = ["History", "Log"]


@dataclass
class Log:
    """What a state did in one run; outlives the buffers.

    Attributes:
        family: the candidate predictors.
        full_steps: indices of the full steps.
        skip_steps: indices of the skip steps.
        counts: (len(family),) int64 on the state's device, tokens per candidate; None: no skip.
    """

    family: tuple[Predictor, ...]
    full_steps: list[int] = field(default_factory=list)
    skip_steps: list[int] = field(default_factory=list)
    counts: Tensor | None = None

    def copy(self) -> Log:
        """Another that is written on by itself; its counts are the same tensor."""
        return Log(self.family, list(self.full_steps), list(self.skip_steps), self.counts)

    def chosen(self) -> dict[str, int]:
        """How many tokens took each candidate. Reads the device."""
        if self.counts is None:
            return {}
        pairs = zip(self.family, self.counts.tolist(), strict=True)
        return {str(predictor): count for predictor, count in pairs if count}


@dataclass(frozen=True)
class History:
    """A run that was taken out: to swap requests, to keep one in host memory, to send it on.

    As ``State.detach`` gives it; pickles if its plan does.

    Attributes:
        config: the configuration of its state.
        plan: its plan.
        sampling: what its corrections go by; None: it makes none.
        probes: the probe's history.
        features: the history of the residual, or of the hidden state.
        previous: (B, N, Dp), the last step's probe, where the plan compares steps.
        log: what the run did so far.
        progress: where it is: plain values of its state.
    """

    config: Config
    plan: Plan
    sampling: Sampling | None
    probes: Remembered
    features: Remembered
    previous: Tensor | None
    log: Log
    progress: dict[str, Any]

    def to(self, device: torch.device | str) -> History:
        """The same run on ``device``, for instance ``"cpu"`` while it waits."""
        counts, previous = self.log.counts, self.previous
        return replace(
            self,
            probes=self.probes.to(device),
            features=self.features.to(device),
            previous=None if previous is None else previous.to(device),
            log=replace(self.log, counts=None if counts is None else counts.to(device)),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of tensors held."""
        tensors = (self.probes.planes, self.features.planes, self.previous, self.log.counts)
        return sum(0 if tensor is None else tensor.nbytes for tensor in tensors)
