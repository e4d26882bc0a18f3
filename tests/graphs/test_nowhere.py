"""Every model on a device whose values nobody can read: what a CUDA graph could hold of it."""

from __future__ import annotations

import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import tap_ext
import tap_ext.steps
from bench.clock import Clock
from tap_ext import runtime
from tap_ext.backbones import find_spec
from tap_ext.integrations.diffusers import find_engine
from tap_ext.plan import Listed
from tap_ext.state import Step
from tests.graphs.nowhere import Obstacles, Waits, nowhere
from tests.graphs.test_models import REFUSED
from tests.models import MODELS
from tests.models.base import Tiny, build, cast, inputs
from tests.versions import DIFFUSERS_VERSION

STEPS = 5
FULL = (0, 1, 3)
"""The first is not captured; the last is forecast first, and what follows it is mixed."""

FLEX = ("AnyFlowFAR", "Kandinsky6SR", "Kandinsky5Transformer3DModel+sparse")
"""Their attention knows the devices that there are."""

UNTOLD = {
    "HunyuanImageTransformer2DModel+refiner": "others of its class look into a mask",
    "LuminaNextDiT2DModel": "its pipeline gives it a table on the host",
}
"""What a graph could hold here, of classes that are never captured."""

HELD = {"Flux2Transformer2DModel+extract", "Flux2Transformer2DModel+cached"}
"""Refused for what they are given, not for what they do."""

UNSEEN = {"BriaFibo2Transformer2DModel+padded"}
"""What waits or copies where tensors of the CPU do without: refused on a device alone."""

if DIFFUSERS_VERSION < (0, 37):  # it puts its padding where a mask says
    UNSEEN.add("ZImageTransformer2DModel")

OURS = Path(tap_ext.__file__).parent


@dataclass
class Found:
    """What stands against capturing the steps of a model.

    Attributes:
        lines: those that no graph could hold, by kind of step; no kind that never ran.
        waits: the line that waits for the device, where none can go on.
    """

    lines: dict[Step, list[str]] = field(default_factory=dict)
    waits: str | None = None

    def of(self, kind: Step) -> list[str]:
        return self.lines.get(kind, []) + ([] if self.waits is None else [self.waits])


def _look(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Found:
    found = Found()
    run = tap_ext.steps.Steps._run

    def watched(self: Any, kind: Step, step: Any, *rest: Any) -> Any:
        def seen(*args: Any) -> Any:
            with Obstacles() as obstacles:
                returned = step(*args)
            found.lines.setdefault(kind, []).extend(obstacles.lines)
            return returned

        return run(self, kind, seen, *rest)

    monkeypatch.setattr(tap_ext.steps.Steps, "_run", watched)
    model, given = build(tiny), inputs(tiny)
    times = [cast(tiny.time(1 - step / STEPS, 1), torch.float32) for step in range(STEPS)]
    tap_ext.accelerate(model, schedule=Listed(FULL), graphs="all", self_check=False)
    engine, clock = find_engine(model), Clock()
    assert engine is not None
    with nowhere(monkeypatch) as device, torch.no_grad():
        device.move(model)
        given, times = device.put(given), device.put(times)
        try:
            with device.mode, runtime.run(clock):
                for clock.step in range(STEPS):
                    model(**given, **times[clock.step], return_dict=False)
        except Waits as error:
            calls = [f for f in traceback.extract_tb(error.__traceback__) if _is_code(f.filename)]
            found.waits = f"{calls[-1].filename}:{calls[-1].lineno}"
        else:
            assert (engine.full, engine.skipped, engine.fallbacks) == (3, 2, {})
            assert engine._steps.blended == 1 and engine.corrected == 0
    return found


def _is_code(path: str) -> bool:
    return "/torch/" not in path and not path.startswith("<")


@pytest.mark.parametrize(
    "tiny", [tiny for name, tiny in MODELS.items() if not name.startswith(FLEX)], ids=str
)
def test_what_a_graph_can_hold(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of ours waits for the device, or mixes its tensors with the host's."""
    spec = find_spec(build(tiny))
    assert spec is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _look(tiny, monkeypatch)
    seen = found.of(Step.FULL) + found.of(Step.SKIP)
    assert not [line for line in seen if Path(line).is_relative_to(OURS)]
    if tiny.name in (REFUSED.keys() | UNSEEN) - HELD:
        assert seen
    elif spec.graphs == "all":
        assert not seen
    elif spec.graphs == "skip":
        assert not found.lines.get(Step.SKIP)
    else:
        assert bool(seen) is (tiny.name not in UNTOLD)
