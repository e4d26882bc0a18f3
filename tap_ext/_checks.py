"""What the ops ask of their arguments, written once for the fakes and the plain-torch reference.

Nothing here but ``distinct`` and ``in_range`` looks beyond shapes, strides, dtypes and devices, so
that fake and symbolic tensors pass through. A tensor that breaks the contract is a RuntimeError
with the sentence of the compiled binding, the type that torch's own operators raise: what a caller
catches does not depend on which of the two runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STORAGE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of planes and features, on every route through ``torch.ops.tap_ext``."""

REFERENCE_DTYPES = (*STORAGE_DTYPES, torch.float64)
"""What the functions of ``tap_ext.reference`` take when called directly."""

GRAM_METRICS = ("cosine", "l2")
"""Metrics that follow from inner products of planes, without building a candidate."""

METRICS = (*GRAM_METRICS, "l1")

MAX_SCORED_PLANES = 16
"""Limit on S where rows are scored from inner products: the kernels hold all of them at once."""


def stack_update_(
    stack: Tensor,
    feature: Tensor,
    gaps: Tensor,
    minus: Tensor | None = None,
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``stack_update_``."""
    op = "stack_update_"
    _stack(op, "stack", stack, dtypes)
    _feature(op, "feature", feature, "stack", stack)
    if minus is not None:
        _feature(op, "minus", minus, "stack", stack)
    planes = stack.shape[0]
    _shape(op, "gaps", gaps, (planes - 1,), f"stack with S={planes}")
    _dtype(op, "gaps", gaps, torch.float32)
    _device(op, "gaps", gaps, "stack", stack)
    _last_axis(op, "gaps", gaps)


def predict(stack: Tensor, rows: Tensor, dtypes: Sequence[torch.dtype] = STORAGE_DTYPES) -> None:
    """Check the arguments of ``predict``."""
    _stack("predict", "stack", stack, dtypes)
    _rows("predict", rows, "stack", stack)


def cosine_argmin(
    candidates: Tensor,
    target: Tensor,
    metric: str = "cosine",
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``cosine_argmin``."""
    op = "cosine_argmin"
    _stack(op, "candidates", candidates, dtypes, letter="M")
    _feature(op, "target", target, "candidates", candidates)
    any_metric(op, metric)


def gather_rows(
    stack: Tensor,
    rows: Tensor,
    index: Tensor,
    base: Tensor | None,
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``gather_rows``."""
    op = "gather_rows"
    _stack(op, "stack", stack, dtypes)
    _rows(op, rows, "stack", stack)
    _per_token(op, "index", index, torch.int32, "stack", stack)
    if base is not None:
        _feature(op, "base", base, "stack", stack)


def select(
    stack: Tensor,
    target: Tensor,
    rows: Tensor,
    metric: str = "cosine",
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``select``."""
    op = "select"
    _stack(op, "stack", stack, dtypes)
    _scored(op, "stack", stack)
    _feature(op, "target", target, "stack", stack)
    _rows(op, rows, "stack", stack)
    gram_metric(op, metric)


def select_out(
    stack: Tensor,
    target: Tensor,
    rows: Tensor,
    metric: str = "cosine",
    *,
    index: Tensor,
    distance: Tensor,
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``select.out``."""
    select(stack, target, rows, metric, dtypes)
    _per_token("select", "index", index, torch.int32, "stack", stack)
    accumulated = torch.float64 if stack.dtype == torch.float64 else torch.float32
    _per_token("select", "distance", distance, accumulated, "stack", stack)


def skip_step_(
    out: Tensor,
    index: Tensor,
    probe_stack: Tensor,
    probe: Tensor,
    residual_stack: Tensor,
    hidden: Tensor | None,
    rows: Tensor,
    metric: str = "cosine",
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``skip_step_``."""
    op = "skip_step_"
    _stack(op, "probe_stack", probe_stack, dtypes)
    _scored(op, "probe_stack", probe_stack)
    _feature(op, "probe", probe, "probe_stack", probe_stack)
    _stack(op, "residual_stack", residual_stack, dtypes)
    expected = (*probe_stack.shape[:3], residual_stack.shape[3])
    _shape(op, "residual_stack", residual_stack, expected, "probe_stack")
    _dtype(op, "residual_stack", residual_stack, probe_stack.dtype, "probe_stack")
    _device(op, "residual_stack", residual_stack, "probe_stack", probe_stack)
    if hidden is not None:
        _feature(op, "hidden", hidden, "residual_stack", residual_stack)
    _feature(op, "out", out, "residual_stack", residual_stack)
    _per_token(op, "index", index, torch.int32, "residual_stack", residual_stack)
    _rows(op, rows, "probe_stack", probe_stack)
    gram_metric(op, metric)


def modulated_skip_step_(
    out: Tensor,
    index: Tensor,
    probe_stack: Tensor,
    hidden: Tensor,
    shift: Tensor,
    scale: Tensor,
    residual_stack: Tensor,
    rows: Tensor,
    eps: float = 1e-6,
    metric: str = "cosine",
    add: bool = True,
    dtypes: Sequence[torch.dtype] = STORAGE_DTYPES,
) -> None:
    """Check the arguments of ``modulated_skip_step_``."""
    op, stack = "modulated_skip_step_", "probe_stack"
    _stack(op, stack, probe_stack, dtypes)
    _scored(op, stack, probe_stack)
    _feature(op, "hidden", hidden, stack, probe_stack)
    batches, channels = probe_stack.shape[1], probe_stack.shape[3]
    _like(op, "shift", shift, (batches, channels), stack, probe_stack)
    _like(op, "scale", scale, (batches, channels), stack, probe_stack)
    _like(op, "residual_stack", residual_stack, tuple(probe_stack.shape), stack, probe_stack)
    _feature(op, "out", out, stack, probe_stack)
    _per_token(op, "index", index, torch.int32, stack, probe_stack)
    _rows(op, rows, stack, probe_stack)
    not_negative(op, "eps", eps)
    gram_metric(op, metric)


def not_negative(op: str, name: str, value: float) -> None:
    """Check a number.

    Raises:
        ValueError: it is negative, infinite or NaN.
    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"tap_ext::{op}: {name} must be finite and at least 0, got {value:.6f}")


def any_metric(op: str, metric: str) -> None:
    """Check a metric of materialised candidates.

    Raises:
        ValueError: it is not one of METRICS.
    """
    if metric not in METRICS:
        raise ValueError(f"tap_ext::{op}: metric must be cosine, l2 or l1, got {metric!r}")


def gram_metric(op: str, metric: str) -> None:
    """Check a metric of candidates that are never built.

    Raises:
        ValueError: it is not one of GRAM_METRICS.
    """
    if metric not in GRAM_METRICS:
        remedy = "; use predict and cosine_argmin for l1" if metric == "l1" else ""
        raise ValueError(f"tap_ext::{op}: metric must be cosine or l2, got {metric!r}{remedy}")


def distinct(op: str, name: str, written: Tensor, **others: Tensor | None) -> None:
    """Check that ``written`` shares no memory with itself or with ``others``, by address range.

    Needs real tensors: a fake one has no address. Of no elements, any strides will do: torch makes
    such tensors with strides of zero.
    """
    if written.numel() == 0:
        return
    if any(step == 0 and size > 1 for step, size in _axes(written)):
        _fail(op, f"{name} must not overlap itself", f"strides {_tuple(written.stride())}")
    begin, end = _extent(written)
    for other_name, other in others.items():
        other_begin, other_end = _extent(other)
        if begin < other_end and other_begin < end:
            _fail(op, f"{name} must not share memory with {other_name}", "overlapping tensors")


def in_range(op: str, index: Tensor, rows: int) -> None:
    """Check that every entry of ``index`` is in [0, rows), where that costs no synchronisation.

    Raises:
        IndexError: one is not.
    """
    if not index.is_cpu:
        return
    flat = index.flatten()
    wrong = ((flat < 0) | (flat >= rows)).nonzero()
    if len(wrong):
        token = int(wrong[0])
        raise IndexError(
            f"tap_ext::{op}: index must lie in [0, {rows}), got {int(flat[token])} "
            f"for token {token}"
        )


def _extent(tensor: Tensor | None) -> tuple[int, int]:
    """Addresses of a tensor's first byte and of the one after its last; (0, 0) if it has none."""
    if tensor is None or tensor.numel() == 0:
        return 0, 0
    last = sum(step * (size - 1) for step, size in _axes(tensor))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def _axes(tensor: Tensor) -> zip[tuple[int, int]]:
    """(stride, size) of each axis."""
    return zip(tensor.stride(), tensor.shape, strict=True)


def _stack(
    op: str, name: str, stack: Tensor, dtypes: Sequence[torch.dtype], letter: str = "S"
) -> None:
    """Check (S, B, N, D) or, with ``letter`` M, (M, B, N, D)."""
    if stack.dim() != 4 or stack.shape[0] < 1 or stack.shape[3] < 1:
        shape = f"({letter}, B, N, D) with {letter} >= 1 and D >= 1"
        _fail(op, f"{name} must have shape {shape}", _tuple(stack.shape))
    if stack.dtype not in dtypes:
        _fail(op, f"{name} must be float32, bfloat16 or float16", _name(stack.dtype))
    _last_axis(op, name, stack)


def _scored(op: str, name: str, stack: Tensor) -> None:
    if stack.shape[0] > MAX_SCORED_PLANES:
        _fail(op, f"{name} must have S <= {MAX_SCORED_PLANES} planes", f"S={stack.shape[0]}")


def _feature(op: str, name: str, feature: Tensor, stack_name: str, stack: Tensor) -> None:
    """Check (B, N, D) against the stack it belongs to."""
    _like(op, name, feature, tuple(stack.shape[1:]), stack_name, stack)


def _like(
    op: str, name: str, tensor: Tensor, shape: tuple[int, ...], stack_name: str, stack: Tensor
) -> None:
    """Check a shape, and dtype and device against the stack it belongs to."""
    _shape(op, name, tensor, shape, stack_name)
    _dtype(op, name, tensor, stack.dtype, stack_name)
    _device(op, name, tensor, stack_name, stack)
    _last_axis(op, name, tensor)


def _per_token(
    op: str, name: str, values: Tensor, dtype: torch.dtype, stack_name: str, stack: Tensor
) -> None:
    """Check contiguous (B, N)."""
    _shape(op, name, values, tuple(stack.shape[1:3]), stack_name)
    _dtype(op, name, values, dtype)
    _device(op, name, values, stack_name, stack)
    if not values.is_contiguous():
        _fail(op, f"{name} must be contiguous", f"strides {_tuple(values.stride())}")


def _rows(op: str, rows: Tensor, stack_name: str, stack: Tensor) -> None:
    """Check (M, S)."""
    planes = stack.shape[0]
    if rows.dim() != 2 or rows.shape[0] < 1 or rows.shape[1] != planes:
        expected = f"shape (M, {planes}) to match {stack_name} with S={planes}"
        _fail(op, f"rows must have {expected}", _tuple(rows.shape))
    _dtype(op, "rows", rows, torch.float32)
    _device(op, "rows", rows, stack_name, stack)
    _last_axis(op, "rows", rows)


def _shape(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], match: str) -> None:
    if tuple(tensor.shape) != shape:
        expected = f"{name} must have shape {_tuple(shape)} to match {match}"
        _fail(op, expected, _tuple(tensor.shape))


def _dtype(op: str, name: str, tensor: Tensor, dtype: torch.dtype, match: str = "") -> None:
    if tensor.dtype != dtype:
        reason = f" to match {match}" if match else ""
        _fail(op, f"{name} must be {_name(dtype)}{reason}", _name(tensor.dtype))


def _device(op: str, name: str, tensor: Tensor, match: str, stack: Tensor) -> None:
    if tensor.device != stack.device:
        _fail(op, f"{name} must be on {stack.device} to match {match}", str(tensor.device))


def _last_axis(op: str, name: str, tensor: Tensor) -> None:
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1 and tensor.numel() > 0:
        _fail(op, f"{name} must have a contiguous last axis", f"strides {_tuple(tensor.stride())}")


def _fail(op: str, expected: str, got: str) -> None:
    raise RuntimeError(f"tap_ext::{op}: {expected}, got {got}")


def _tuple(values: Sequence[int]) -> str:
    return str(tuple(values))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
