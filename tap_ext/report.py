"""What was done, as data and in plain words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tap_ext.backbones import SPECS, BackboneSpec
from tap_ext.predictors import Rows

__all__ = ["BranchStats", "Choice", "ModelStats", "RunRecord", "Stats", "explain"]


@dataclass(frozen=True)
class Choice:
    """Which candidate every token took in one skip step.

    Attributes:
        branch: name of the branch.
        step: index of the step.
        index: (B, N) int32, a row of ``rows`` per token.
        rows: the candidates of the step.
        distance: (B, N) float32, from the chosen candidate's probe to the true one (eq. 7), in
            ``Config.metric``.
    """

    branch: str
    step: int
    index: Tensor
    rows: Rows
    distance: Tensor


@dataclass(frozen=True)
class RunRecord:
    """One finished run, as ``tap_ext.on_run`` tells of it.

    Attributes:
        name: class of the pipeline; empty for a run that was opened by hand.
        steps: distinct denoising steps of accelerated calls.
        full: calls of transformers that ran in full and were remembered.
        skipped: calls that were predicted.
        fallbacks: calls that ran untouched, by reason.
        seconds: wall clock of the host from begin to end, whatever else the pipeline does included.
        error: class of the exception that ended the run; None: it came to its end.
    """

    name: str
    steps: int
    full: int
    skipped: int
    fallbacks: Mapping[str, int]
    seconds: float
    error: str | None = None

    @property
    def untouched(self) -> int:
        """Calls that ran untouched, whatever the reason."""
        return sum(self.fallbacks.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"fallbacks": dict(self.fallbacks), "untouched": self.untouched}

    def __str__(self) -> str:
        """One line for a log."""
        ended = "" if self.error is None else f", ended by {self.error}"
        return (
            f"{self.name or 'run'}: {self.steps} steps in {self.seconds:.3f} s, {self.full} full, "
            f"{self.skipped} skipped, {self.untouched} untouched{ended}"
        )


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
        nbytes: bytes held by histories and blends, in use or kept for the next run.
        captured: steps captured as CUDA graphs since it was accelerated or configured.
        replayed: steps that were replays of these.
        uncaptured: steps that were to be captured and ran eagerly, by reason.
        corrected: full steps that made up for skip steps before them; None: not asked for.
        blended: skip steps whose forecast was mixed with the curve through the last full outputs,
            since it was accelerated or configured; None: not asked for.
        compiled_instead: whether its blocks are compiled because the user had compiled the whole.
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
    captured: int
    replayed: int
    uncaptured: dict[str, int]
    corrected: int | None = None
    blended: int | None = None
    compiled_instead: bool = False
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
        if model.corrected:
            lines.append(f"  {model.corrected} full steps made up for the skip steps before them")
        elif model.corrected == 0 and model.skip:
            lines.append(
                "  no full step was corrected: nobody told the noise levels and what the model "
                "predicts, as a pipeline's scheduler does"
            )
        if model.blended:
            lines.append(
                f"  {model.blended} forecasts were mixed with the curve through full outputs"
            )
        if model.compiled_instead:
            lines.append("  it was compiled as a whole; its blocks are compiled instead")
        if not model.runs and not model.fallbacks:
            lines.append("  not called yet")
        lines.append(f"  histories hold {model.nbytes / 1e6:.1f} MB")
        lines.append(
            f"  CUDA graphs: {model.captured} captured, {model.replayed} steps were replays"
            if model.captured or model.uncaptured
            else "  CUDA graphs: none"
        )
        for reason, count in model.uncaptured.items():
            lines.append(f"    {count} steps ran eagerly: {reason}")
    lines.append(f"ops: {stats.library}")
    return "\n".join(lines)
