"""Whether a pair of views is right for a call: the self-check."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tap_ext.views.call import Call, run_view, tensors
from tap_ext.views.pair import Views
from tap_ext.views.standins import argument_names

__all__ = ["locate", "misplaced", "verify"]

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Relative error of the oracle, in norm, by dtype of the output."""

ELSEWHERE = "the head does not see what entered the first block when the blocks are absent"

CARRIED = 0.05
"""Relative error, in norm, of what is carried to the head: rounding of large hidden states."""


@torch.no_grad()
def verify(
    views: Views,
    full: Call,
    output: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    between: bool,
) -> str | None:
    """Run the skip view with the true output put back and compare with the model's.

    Args:
        views: the views to check.
        full: the call of the full view that gave ``output``. Where it does not say yet which of
            the tokens its heads are given, it does afterwards.
        output: what the model returned.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        between: the model may add to the hidden state between its blocks in this call, so what
            its heads see when the blocks are absent need not be what entered the first one. What
            is added to that must then reach them unchanged.

    Returns:
        None when the skip view is right, else what is wrong. Runs the skip view once, and twice
        more where modules are idle; reads the device.
    """
    wrong = None
    for _ in range(2):  # what raises once only says nothing of the spec
        try:
            return _verify(views, full, output, args, kwargs, between)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model makes of a wrong spec
            wrong = str(error) or type(error).__name__
    return wrong


def misplaced(views: Views, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The part of ``verify`` that runs no block: whether the heads see what enters the first one.

    Returns:
        None when they do, also where something is added between, else what is wrong.
    """
    dry = Call.full(views.spec)
    run_view(views.skip, dry, args, kwargs)
    if not dry.passages[0].used:
        return "the first block or the head was never called"
    return None if _aligned(dry, dry) or _carried(views, dry, dry, args, kwargs) else ELSEWHERE


def _verify(
    views: Views,
    full: Call,
    output: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    between: bool,
) -> str | None:
    if not full.passages[0].used:
        return "the first block or the head was never called"
    if len(set(full.visited)) != len(full.visited):
        return "a block is called twice"
    call = full.skip(lambda stream, hidden, probe: _truth(full, stream))
    for passage in call.passages:
        passage.take = passage.take or slice(None)
    again = run_view(views.skip, call, args, kwargs)
    bypassed = tuple(f"{entry.path}." for entry in views.spec.bypassed)
    called = [path for path in call.visited if not path.startswith(bypassed)]
    if called != full.visited:
        return f"{len(called)} blocks are called on a skip step, {len(full.visited)} on a full one"
    for passage, absent in zip(full.passages, call.passages, strict=True):
        if passage.used != absent.used:
            return "a head is reached on full steps only, or on skip steps only"
    aligned = views.spec.adds or _aligned(full, call)
    if not aligned and not (between and _carried(views, full, call, args, kwargs)):
        return ELSEWHERE
    if not full.located:
        return "where the head's tokens lie cannot be seen in this call"
    if (wrong := _difference(tensors(again), tensors(output))) is not None:
        return f"a skip step with the true residual is {wrong}"
    return _restless(views, full, args, kwargs) if views.spec.idle else None


def _restless(
    views: Views, full: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Whether an idle module matters on a later step, so that it must not be idle."""
    later = _later(views, args, kwargs)
    seen = []
    for awake in (True, False):
        call = full.skip(lambda stream, hidden, probe: _truth(full, stream).roll(1, -1))
        call.awake = awake
        output = tensors(run_view(views.skip, call, *later))
        for passage in call.passages:
            output += [t for t in (passage.hidden, passage.probe) if t is not None]
        seen.append(output)
    wrong = _difference(seen[1], seen[0])
    return None if wrong is None else f"without its idle modules a later step is {wrong}"


def _later(
    views: Views, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with other latents, at another time."""
    names = argument_names(views.full)
    given = list(args)
    named = dict(kwargs)
    for name, change in ((views.spec.latents, _rolled), (views.spec.timestep, _halved)):
        if name in named:
            named[name] = change(named[name])
        elif name in names[: len(given)]:
            given[names.index(name)] = change(given[names.index(name)])
    return tuple(given), named


def _rolled(latents: Any) -> Any:
    if isinstance(latents, (list, tuple)):
        return type(latents)(_rolled(item) for item in latents)
    return latents.roll(1, -1) if isinstance(latents, Tensor) else latents


def _halved(timestep: Any) -> Any:
    whole = isinstance(timestep, int) or (
        isinstance(timestep, Tensor) and not timestep.is_floating_point()
    )
    return timestep // 2 if whole else timestep / 2


def _truth(full: Call, stream: int) -> Tensor:
    output = full.passages[stream].output
    assert output is not None
    return output


def _aligned(full: Call, absent: Call) -> bool:
    """Whether each head sees the tokens that entered when the blocks are absent."""
    for passage, seen in zip(full.passages, absent.passages, strict=True):
        if not passage.used:
            continue
        assert passage.hidden is not None and seen.output is not None
        if passage.take is None:
            passage.take = locate(passage.hidden, seen.output)
        if passage.take is None or not _same(passage.taken(passage.hidden), seen.output):
            return False
    return True


def _carried(
    views: Views, full: Call, before: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether what is added where the first block stood reaches each head as it is."""
    call = full.skip(lambda stream, hidden, probe: _truth(full, stream))
    for passage, entered in zip(call.passages, full.passages, strict=True):
        if entered.used and (entered.hidden is None or passage.take is None):
            return False
        if entered.used and entered.hidden is not None:
            passage.nudge = entered.hidden.roll(1, -1)
    run_view(views.skip, call, args, kwargs)
    for passage, plain in zip(call.passages, before.passages, strict=True):
        if passage.nudge is not None:
            assert passage.output is not None and plain.output is not None
            added = passage.taken(passage.nudge).float()
            moved = passage.output.float() - plain.output.float()
            if not (moved - added).norm() <= CARRIED * added.norm():
                return False
    return True


def locate(entered: Tensor, seen: Tensor) -> slice | None:
    """Where the tokens that a head sees lie among those that entered; None: nowhere, or unclear.

    Args:
        entered: (..., N, D).
        seen: (..., n, D).
    """
    count = seen.shape[-2]
    starts = range(entered.shape[-2] - count + 1)
    found = [s for s in starts if _same(entered[..., s : s + count, :], seen)]
    return slice(found[0], found[0] + count) if len(found) == 1 else None


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def _difference(found: list[Tensor], expected: list[Tensor]) -> str | None:
    """Where two lists of tensors differ by more than rounding; None: nowhere."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        shapes = [[tuple(tensor.shape) for tensor in side] for side in (found, expected)]
        return f"of shapes {shapes[0]}, not {shapes[1]}"
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.float().norm().item()
        error = (ours.float() - theirs.float()).norm().item()
        limit = TOLERANCE.get(theirs.dtype, 1e-2) * scale
        if not error <= limit and torch.isfinite(theirs).all():
            return f"off by {error:.2e} of {scale:.2e}"
    return None
