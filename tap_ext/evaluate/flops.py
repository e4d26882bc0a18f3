"""Floating-point operations of the calls of a pipeline's transformer, counted as they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import tap_ext
from tap_ext.evaluate.clocks import around_calls
from tap_ext.plan import Listed

__all__ = ["Painter", "StepFlops", "step_flops"]


class Painter(Protocol):
    """What is counted: a pipeline and a fixed batch of pictures asked of it."""

    def twin(self) -> Any:
        """Another pipeline over the same weights."""

    @property
    def paint(self) -> Callable[[Any, int, Any], Any]:
        """``(pipe, steps, callback)`` makes the pictures."""


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one call of the transformer.

    Attributes:
        untouched: of the model as it is.
        full: of a full step, which computes the probe besides.
        skip: of a skip step, and of the forecast that a corrected full step begins with.
    """

    untouched: int
    full: int
    skip: int

    def ratio(self, steps: int, full: int, skip: int) -> float:
        """By how much a run of so many full steps and forecasts is cheaper than a plain one."""
        return steps * self.untouched / (full * self.full + skip * self.skip)


def step_flops(subject: Painter) -> StepFlops:
    """Counts what is dispatched in one call of each kind, in short runs of the pipeline.

    Counted as torch's counter does: matrix products and attention at two operations per
    multiply-add, element-wise work at none; and in the same way the ops of a skip step.
    """
    plain = _flops_of_calls(subject, subject.twin(), 1)
    pipe = subject.twin()
    # Neither a self-check's second pass nor a captured graph, which dispatches nothing.
    only_first = tap_ext.Config(schedule=Listed((0,)), self_check=False, graphs="off")
    tap_ext.accelerate(pipe, only_first)
    calls = _flops_of_calls(subject, pipe, 4)
    return StepFlops(plain[0], calls[0], calls[-1])


def _flops_of_calls(subject: Painter, pipe: Any, steps: int) -> list[int]:
    counter = FlopCounterMode(display=False, custom_mapping=_unknown_to_torch())
    with counter, around_calls(pipe.transformer, counter.get_total_flops) as counts:
        subject.paint(pipe, steps, None)
    return [after - before for before, after in counts]


def _unknown_to_torch() -> dict[Any, Callable[..., int]]:
    """Formulas, from shapes, of ops that the counter would count as nothing."""
    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.tap_ext.skip_step_: _skip_step_flops,
        torch.ops.tap_ext.modulated_skip_step_: _modulated_skip_step_flops,
    }


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    count: Any = sdpa_flop_count
    return int(count(query, key, value))


def _skip_step_flops(
    out: Any, index: Any, probe_stack: Any, probe: Any, stack: Any, *_: Any, **__: Any
) -> int:
    """Per token: the Gram matrix of S + 1 vectors, half of it, and S weighted planes."""
    planes, batch, tokens, width = probe_stack
    products = (planes + 1) * (planes + 2) // 2
    return int(2 * batch * tokens * (products * width + planes * stack[-1]))


def _modulated_skip_step_flops(
    out: Any, index: Any, probes: Any, hidden: Any, shift: Any, scale: Any, stack: Any, *_: Any,
    **__: Any,
) -> int:  # fmt: skip
    """The same: the norm and its modulation are element-wise."""
    return _skip_step_flops(out, index, probes, hidden, stack)
