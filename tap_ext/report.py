"""What was done, as data and in plain words."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tap_ext.backbones import SPECS, BackboneSpec
from tap_ext.predictors import Rows

__all__ = ["BranchStats", "Choice", "ModelStats", "Stats", "explain"]


@dataclass(frozen=True)
class Choice:
    """Which candidate every token took in one skip step.

    Attributes:
        branch: name of the branch.
        step: index of the step.
        index: (B, N) int32, a row of ``rows`` per token.
        rows: the candidates of the step.
    """

    branch: str
    step: int
    index: Tensor
    rows: Rows


@dataclass(frozen=True)
class BranchStats:
    """One branch of the last run.

    Attributes:
        name: ``0``, ``1``, ... in the order in which the model was called within a step.
        full_steps: indices of the full steps.
        skip_steps: indices of the skip steps.
        candidates: tokens that took each candidate, over all skip steps.
    """

    name: str
    full_steps: tuple[int, ...]
    skip_steps: tuple[int, ...]
    candidates: dict[str, int]


@dataclass(frozen=True)
class ModelStats:
    """One transformer.

    Attributes:
        model: class name.
        spec: how it is entered; None: not known before its first call.
        runs: runs begun since it was accelerated.
        full: full steps of all runs and branches.
        skip: skip steps of all runs and branches.
        branches: the last run.
        fallbacks: calls that ran untouched, by reason.
        nbytes: bytes held by histories, in use or kept for the next run.
        trace: the choices of the last run, where ``Config.trace`` is set.
    """

    model: str
    spec: BackboneSpec | None
    runs: int
    full: int
    skip: int
    branches: tuple[BranchStats, ...]
    fallbacks: dict[str, int]
    nbytes: int
    trace: tuple[Choice, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Stats:
    """Everything that ``tap_ext.stats`` tells.

    Attributes:
        models: one entry per accelerated transformer.
        library: how the ops run: ``compiled`` or ``plain torch``, with the reason.
    """

    models: tuple[ModelStats, ...]
    library: str

    @property
    def full(self) -> int:
        """Full steps of all models, runs and branches."""
        return sum(model.full for model in self.models)

    @property
    def skip(self) -> int:
        """Skip steps of all models, runs and branches."""
        return sum(model.skip for model in self.models)

    @property
    def trace(self) -> tuple[Choice, ...]:
        """The choices of the last run, of all models."""
        return tuple(choice for model in self.models for choice in model.trace)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the traces are left out."""
        models = [dataclasses.asdict(dataclasses.replace(m, trace=())) for m in self.models]
        for model, entry in zip(models, self.models, strict=True):
            del model["trace"]
            model["spec"] = None if entry.spec is None else entry.spec.to_dict()
        return {"full": self.full, "skip": self.skip, "library": self.library, "models": models}

    def to_json(self) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict())


def explain(stats: Stats) -> str:
    """The same in plain words, one line per fact."""
    lines = []
    for model in stats.models:
        lines.append(
            f"{model.model}: {model.runs} runs, {model.full} full and {model.skip} skip steps"
        )
        if model.spec is not None and model.spec.name not in SPECS:
            lists = ", ".join(blocks.path for blocks in model.spec.blocks)
            heads = ", ".join(stream.head for stream in model.spec.streams)
            lines.append(f"  its class has no spec; skipped are {lists}, up to {heads}")
        for branch in model.branches:
            steps = len(branch.full_steps) + len(branch.skip_steps)
            listed = ", ".join(map(str, branch.full_steps))
            lines.append(
                f"  last run, branch {branch.name}: {len(branch.full_steps)} of {steps} steps full"
                + (f" ({listed})" if listed else "")
            )
            total = sum(branch.candidates.values())
            for name, count in sorted(branch.candidates.items(), key=lambda item: -item[1]):
                lines.append(f"    {count / total:6.1%} of the tokens took {name}")
        for reason, count in model.fallbacks.items():
            lines.append(f"  {count} calls ran untouched: {reason}")
        if not model.runs and not model.fallbacks:
            lines.append("  not called yet")
        lines.append(f"  histories hold {model.nbytes / 1e6:.1f} MB")
    lines.append(f"ops: {stats.library}")
    lines.append("graphs: none are captured in this version; every step runs eagerly")
    return "\n".join(lines)
