"""Real pipeline classes, accelerated: what they make, how often they skip, what stays behind."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext.backbones import find_spec
from tap_ext.views import tensors
from tests.zoo import CASES
from tests.zoo.base import Case, generate

EACH = pytest.mark.parametrize("case", CASES.values(), ids=str)


@contextmanager
def _timesteps(case: Case, pipe: Any) -> Iterator[dict[str, list[float]]]:
    """What each transformer is told of time, in the order of its calls."""
    seen: dict[str, list[float]] = {name: [] for name in case.models}
    handles = []
    for name in case.models:
        model = getattr(pipe, name)
        spec = find_spec(model)
        assert spec is not None, type(model).__name__
        position = list(inspect.signature(model.forward).parameters).index(spec.timestep)

        def note(_: Any, args: Any, kwargs: Any, name=name, spec=spec, at=position) -> None:
            value = kwargs[spec.timestep] if spec.timestep in kwargs else args[at]
            seen[name].append(float(torch.as_tensor(value).double().mean()))

        handles.append(model.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _error(made: Tensor, truth: Tensor) -> float:
    return float((made.double() - truth.double()).norm() / truth.double().norm())


@EACH
def test_a_pipeline_is_accelerated_and_restored(case: Case) -> None:
    pipe = case.make()
    with _timesteps(case, pipe) as seen:
        truth = generate(case, pipe)
    for name, times in seen.items():
        rising = find_spec(getattr(pipe, name)).rising
        rises = sum((now > before) - (now < before) for before, now in pairwise(times))
        assert (rises > 0) is rising, (name, times)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tap_ext", category=UserWarning)
        tap_ext.accelerate(pipe, window=3, warmup=2)
        near = generate(case, pipe)
        again = generate(case, pipe)
    assert torch.equal(near, again)
    stats = tap_ext.stats(pipe)
    assert [sum(m.fallbacks.values()) for m in stats.models] == [
        2 * case.passed for _ in case.models
    ]
    for model, name in zip(stats.models, case.models, strict=True):
        calls = len(seen[name]) - case.passed
        assert model.full + model.skip == 2 * calls
        assert sum(model.fallbacks.values()) == 2 * case.passed
        assert model.skip >= model.full / 2
        main = [branch for branch in model.branches if "." not in branch.name]
        if case.branches:
            assert len(main) == case.branches
            for branch in main:
                steps = len(branch.full_steps) + len(branch.skip_steps)
                assert steps == calls // case.branches // case.runs
                assert branch.skip_steps
    assert truth.isfinite().all() and not torch.equal(near, truth)
    assert _error(near, truth) <= case.loose
    tap_ext.accelerate(pipe, window=1)
    assert torch.equal(generate(case, pipe), truth)
    tap_ext.restore(pipe)
    assert torch.equal(generate(case, pipe), truth)
    assert tensors(truth)
