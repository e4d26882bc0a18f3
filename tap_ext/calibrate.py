"""Full steps placed by what one untouched run of the user's own pipeline shows."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tap_ext import _arguments
from tap_ext.backbones import BackboneSpec, find_spec
from tap_ext.files import write
from tap_ext.integrations import diffusers as host
from tap_ext.placement import place, refine, run_cost, window_costs
from tap_ext.plan import Even, Measured
from tap_ext.predictors import Taylor
from tap_ext.views import tensors

__all__ = ["Calibration", "calibrate"]

ELEMENTS = 2**16
"""Elements of a model output that are looked at, drawn once at random."""

_LARGEST = 2**25
"""Costs of histories, 8 bytes each, that are worth their memory; beyond, even steps are refined."""

_KIND = "tap_ext calibration 1"


@dataclass(frozen=True, eq=False)
class Calibration:
    """How the output of a model moves over the steps of a run, and what follows for a budget.

    Attributes:
        gram: (T, T) float64, inner products of the outputs of all pairs of steps.
    """

    gram: np.ndarray[Any, np.dtype[np.float64]]

    def __post_init__(self) -> None:
        """Check the field."""
        gram = np.asarray(self.gram, dtype=np.float64)
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
            raise ValueError(f"gram must have shape (T, T), got {gram.shape}")
        if not np.isfinite(gram).all() or not np.allclose(gram, gram.T, rtol=1e-6, atol=0):
            raise ValueError("gram must be finite and symmetric")
        if (gram.diagonal() < 0).any():
            raise ValueError("gram must have no negative diagonal")
        object.__setattr__(self, "gram", gram)

    @property
    def num_steps(self) -> int:
        """T, the number of steps of the runs that it is for."""
        return len(self.gram)

    def schedule(self, full_steps: int, order: int = 2) -> Measured:
        """The schedule of so many full steps whose forecasts are least wrong in sum.

        Args:
            full_steps: how many steps are full; all of them where a run has no more.
            order: of the forecast, as in ``Config``.
        """
        count = _arguments.integer("full_steps", full_steps, 1, 10**6)
        total = self.num_steps
        if count >= total or count == 1:
            return Measured(tuple(range(total if count > 1 else 1)), total)
        longest = min(total, 2 * -(-total // count) + 2)
        row = Taylor(order)
        begun = [Even(count).full_steps(total)]
        if total * longest**3 <= _LARGEST:
            costs = window_costs(self.gram, row, longest, min(count, 3))
            begun.insert(0, place(costs, count))
        ends = [refine(self.gram, steps, row) for steps in begun]
        costs_of_ends = [run_cost(self.gram, steps, row) for steps in ends]
        return Measured(tuple(ends[costs_of_ends.index(min(costs_of_ends))]), total)

    def save(self, path: str | Path) -> None:
        """Writes a small JSON file."""
        rows = [[float(f"{value:.9g}") for value in row] for row in self.gram.tolist()]
        write(Path(path), json.dumps({"kind": _KIND, "gram": rows}))

    @staticmethod
    def load(path: str | Path) -> Calibration:
        """Reads what ``save`` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no such file.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            if saved["kind"] != _KIND:
                raise ValueError
            return Calibration(np.array(saved["gram"], dtype=np.float64))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"path must be a file that Calibration.save wrote: {path}") from None


def calibrate(
    target: Any, generate: Callable[[], object], *, spec: BackboneSpec | None = None
) -> Calibration:
    """Watches untouched runs and remembers how the model's output moves over their steps.

    For pictures of the same pipeline, sampler, guidance and number of steps; a few of them do::

        found = tap_ext.calibrate(pipe, lambda: pipe(prompts, num_inference_steps=50))
        tap_ext.accelerate(pipe, schedule=found.schedule(full_steps=8), forecast="hidden")

    Args:
        target: a pipeline with one transformer of a known class, or that transformer; it must not
            be accelerated, and stays as it is.
        generate: makes some pictures with it, in one run or several of equal length.
        spec: of a transformer whose class is not known.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a module, or ``generate`` is no function.
        ValueError: ``target`` is accelerated, holds no or several known transformers, or the runs
            were none, or of different lengths, or not finite.
    """
    if not host.is_pipeline(target) and not isinstance(target, nn.Module):
        raise TypeError(
            f"target must be a diffusers pipeline or transformer, got {type(target).__name__}"
        )
    if not callable(generate):
        raise TypeError(f"generate must be a function, got {type(generate).__name__}")
    if host.engines_of(target):
        raise ValueError("target must not be accelerated while it is calibrated; restore() it")
    known = [(model, _spec_of(model, spec)) for model in host.transformers_of(target)]
    found = [(model, entry) for model, entry in known if entry is not None]
    if len(found) != 1:
        raise ValueError(f"target must hold one transformer of a known class, got {len(found)}")
    model, entry = found[0]
    with _watching(model, entry) as runs:
        generate()
    lengths = sorted({len(run.calls) for run in runs})
    if len(lengths) != 1:
        raise ValueError(f"generate must make runs of one length, got {lengths or 'no run'}")
    gram = np.zeros((lengths[0], lengths[0]))
    for run in runs:
        gram += run.gram()
    if not np.isfinite(gram).all():
        raise ValueError("generate must make finite outputs")
    return Calibration(gram)


def _spec_of(model: nn.Module, given: BackboneSpec | None) -> BackboneSpec | None:
    if given is None:
        return find_spec(model)
    return given if given.name in {base.__name__ for base in type(model).__mro__} else None


@dataclass
class _Run:
    """The outputs of one run: per step one vector per call of the model."""

    calls: list[list[Tensor]] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)

    def begins_anew(self, timestep: float) -> bool:
        """Whether this timestep belongs to another run: it turns back."""
        known = self.timesteps
        if len(known) < 2 or timestep == known[-1]:
            return False
        return (timestep > known[-1]) != (known[-1] > known[-2])

    def add(self, timestep: float, output: Tensor) -> None:
        """Add a call; the same timestep again is another branch of the same step."""
        if self.timesteps[-1:] != [timestep]:
            self.timesteps.append(timestep)
            self.calls.append([])
        self.calls[-1].append(output)

    def gram(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(T, T) inner products, added up over the calls of a step."""
        sizes = {tuple(call.shape for call in step) for step in self.calls}
        if len(sizes) != 1:
            raise ValueError("generate must call the model alike in every step of a run")
        features = torch.stack([torch.cat(step) for step in self.calls]).double()
        gram: np.ndarray[Any, np.dtype[np.float64]] = (features @ features.T).numpy()
        return gram


@contextlib.contextmanager
def _watching(model: nn.Module, spec: BackboneSpec) -> Iterator[list[_Run]]:
    """Yields the runs of a model, which fill as it is called."""
    runs: list[_Run] = []
    signature = inspect.signature(model.forward)
    drawn: dict[int, Tensor] = {}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        given = given | given.get("kwargs", {})
        values, made = tensors(given.get(spec.timestep)), tensors(output)
        if not made:
            return
        timestep = float(values[0].float().mean()) if values else float(given[spec.timestep])
        flat = made[0].detach().flatten()
        if flat.numel() > ELEMENTS:
            if flat.numel() not in drawn:
                order = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))
                drawn[flat.numel()] = order[:ELEMENTS].sort().values.to(flat.device)
            flat = flat[drawn[flat.numel()]]
        if not runs or runs[-1].begins_anew(timestep):
            runs.append(_Run())
        runs[-1].add(timestep, flat.float().cpu())

    handle = model.register_forward_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            yield runs
    finally:
        handle.remove()
