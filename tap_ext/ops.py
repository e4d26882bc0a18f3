"""The ops: typed functions over ``torch.ops.tap_ext``.

Shapes: B batch, N tokens, D channels, S planes, M candidates. A *stack* is (S, B, N, D), newest
plane first; features are (B, N, D) of the stack's dtype: float32, bfloat16 or float16, rounded
once, with all arithmetic in float32. Any strides will do, as long as the last axis is contiguous.
``rows`` (M, S) and ``gaps`` (S-1,) are float32 and, like everything else, on the stack's device:
no op reads memory of the device from the host, so none synchronises. Any B and N, zero included.

Results do not depend on the number of threads, nor a batch row on its neighbours. There is no
gradient through these ops. Each works under ``torch.compile`` and on meta tensors.

Every op raises RuntimeError, as torch's own do, where a tensor has a wrong shape, dtype, device
or stride, naming the argument, what was expected and what was got, and ValueError for a metric
it does not know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tap_ext import _checks as checks
from tap_ext import _library
from tap_ext._library import LibraryStatus

__all__ = [
    "LibraryStatus",
    "cosine_argmin",
    "gather_rows",
    "library_status",
    "modulated_skip_step_",
    "predict",
    "select",
    "select_out",
    "skip_step_",
    "stack_update_",
]

_ops = torch.ops.tap_ext


def library_status() -> LibraryStatus:
    """Whether the ops run compiled or in plain torch, and why."""
    return _library.STATUS


def stack_update_(
    stack: Tensor, feature: Tensor, gaps: Tensor, minus: Tensor | None = None
) -> None:
    """Push an evaluation onto the stack, in place and in one pass.

    The divided differences of Newton's interpolation, updated from the newest plane down:

        D_0' = feature - minus
        D_i' = (D_{i-1}' - D_{i-1}) / gaps[i-1],  i = 1..S-1

    With gaps[i-1] = t_0 - t_i, the distances from this evaluation to the i-th one before it, these
    are true divided differences at any spacing; with equal gaps they are those of eq. 4,
    arXiv 2603.03792. An infinite gap writes a plane of zeros whatever the old plane held: so does
    a history not yet filled begin. Moves S - 1 reads, S writes and one read per feature.

    Args:
        stack: (S, B, N, D), read and written.
        feature: (B, N, D), the evaluation; must not share memory with ``stack``.
        gaps: (S-1,) float32, in the unit of the step positions.
        minus: (B, N, D), taken off ``feature``: the hidden state before the blocks where the
            residual is the history (eq. 6); None for zero.
    """
    _ops.stack_update_.default(stack, feature, gaps, minus)


def predict(stack: Tensor, rows: Tensor) -> Tensor:
    """Build all candidates: ``sum_s rows[m, s] * stack[s]``.

    A plane of weight zero takes no part, whatever it holds. For tests, plots and the L1 metric;
    ``select`` needs no candidates. Moves S reads and M writes.

    Args:
        stack: (S, B, N, D).
        rows: (M, S) float32.

    Returns:
        (M, B, N, D), rounded to the dtype of the stack.
    """
    result: Tensor = _ops.predict.default(stack, rows)
    return result


def cosine_argmin(
    candidates: Tensor, target: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Choose, for every token, the candidate nearest to its target.

    ``cosine`` is 1 - cos (eq. 7, arXiv 2603.03792), ``l2`` the squared Euclidean distance, ``l1``
    the sum of absolute differences. The cosine is taken in the difference d = target - candidate,
    with u the target and v the candidate,

        1 - cos = (|d|^2 - (|u| - |v|)^2) / (2 |u| |v|),
        |u| - |v| = (2 <d, u> - |d|^2) / (|u| + |v|),

    where nothing cancels. The cosine with a zero vector is 0, and 1 between two of them. Ties
    take the lowest candidate, and a NaN distance never wins: among NaN alone it is candidate 0,
    at distance NaN. Moves M + 1 reads.

    Args:
        candidates: (M, B, N, D).
        target: (B, N, D).
        metric: "cosine", "l2" or "l1".

    Returns:
        index: (B, N) int32, the choice (eq. 8).
        distance: (B, N) float32, how far it is.
    """
    checks.any_metric("cosine_argmin", metric)
    result: tuple[Tensor, Tensor] = _ops.cosine_argmin.default(candidates, target, metric)
    return result


def gather_rows(stack: Tensor, rows: Tensor, index: Tensor, base: Tensor | None = None) -> Tensor:
    """Predict every token by its own row: ``base + sum_s rows[index, s] * stack[s]``.

    What eq. 9 of arXiv 2603.03792 hands to the model's head. A plane of weight zero is not read,
    whatever it holds. Moves up to S reads, one for ``base`` and one write.

    Args:
        stack: (S, B, N, D).
        rows: (M, S) float32.
        index: (B, N) contiguous int32, each in [0, M); not checked on a device, where the check
            would synchronise.
        base: (B, N, D); None for zero.

    Returns:
        (B, N, D).

    Raises:
        IndexError: an entry of ``index`` in host memory names no row.
    """
    result: Tensor = _ops.gather_rows.default(stack, rows, index, base)
    return result


def select(
    stack: Tensor, target: Tensor, rows: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """``cosine_argmin(predict(stack, rows), target)`` without building a candidate.

    All distances of a token follow from the inner products of (target - D_0, D_1..D_{S-1},
    target), so each plane is read once whatever M is: S + 1 reads. Candidates are never rounded,
    so below float32 this is also the more exact of the two.

    Args:
        stack: (S, B, N, D), S <= 16.
        target: (B, N, D).
        rows: (M, S) float32; the nominal row first, for it wins ties.
        metric: "cosine" or "l2".

    Returns:
        index: (B, N) int32.
        distance: (B, N) float32.
    """
    checks.gram_metric("select", metric)
    result: tuple[Tensor, Tensor] = _ops.select.default(stack, target, rows, metric)
    return result


def select_out(
    stack: Tensor,
    target: Tensor,
    rows: Tensor,
    metric: str = "cosine",
    *,
    index: Tensor,
    distance: Tensor,
) -> None:
    """``select`` into tensors of the caller; allocates nothing.

    Args:
        stack: (S, B, N, D), S <= 16.
        target: (B, N, D).
        rows: (M, S) float32.
        metric: "cosine" or "l2".
        index: (B, N) contiguous int32, written.
        distance: (B, N) contiguous float32, written.
    """
    checks.gram_metric("select", metric)
    _ops.select.out(stack, target, rows, metric, index=index, distance=distance)


def skip_step_(
    out: Tensor,
    index: Tensor,
    probe_stack: Tensor,
    probe: Tensor,
    residual_stack: Tensor,
    hidden: Tensor | None,
    rows: Tensor,
    metric: str = "cosine",
) -> None:
    """A whole skip step: ``select`` on the probe, then ``gather_rows`` on the residual.

    Eq. 7 to 9 of arXiv 2603.03792 in one pass. Allocates nothing. Moves 2S + 2 reads and one
    write.

    Args:
        out: (B, N, D), written; must not share memory with any input.
        index: (B, N) contiguous int32, written: the row that each token took.
        probe_stack: (S, B, N, Dp), S <= 16.
        probe: (B, N, Dp).
        residual_stack: (S, B, N, D); D and Dp may differ.
        hidden: (B, N, D), what the prediction is added to; None for zero.
        rows: (M, S) float32; the nominal row first, for it wins ties.
        metric: "cosine" or "l2".
    """
    checks.gram_metric("skip_step_", metric)
    _ops.skip_step_.default(out, index, probe_stack, probe, residual_stack, hidden, rows, metric)


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
) -> None:
    """``skip_step_`` on a probe that is never written.

    For a probe that is a modulated LayerNorm without weights of its own,

        probe = (hidden - mean) / sqrt(variance + eps) * (1 + scale) + shift,

    with mean and (biased) variance over a token's channels: adaLN-Zero, the first norm of FLUX,
    Qwen-Image, HunyuanVideo and many more. In float32 and without rounding in between, so where
    the model rounds its own probe to a half type this one is the more exact. Allocates nothing.
    Moves 2S + 1 reads and one write; ``skip_step_`` moves 2S + 2 and one, and what makes its probe
    a read and a write at the least.

    Args:
        out: (B, N, D), written; must not share memory with any input.
        index: (B, N) contiguous int32, written: the row that each token took.
        probe_stack: (S, B, N, D), S <= 16.
        hidden: (B, N, D), what enters the first block.
        shift: (B, D), the same for all tokens of a batch row, in the dtype of the stack.
        scale: (B, D), likewise.
        residual_stack: (S, B, N, D).
        rows: (M, S) float32; the nominal row first, for it wins ties.
        eps: at least 0.
        metric: "cosine" or "l2".
        add: ``out`` is ``hidden`` plus the prediction; else the prediction alone.

    Raises:
        ValueError: ``eps`` is negative or not finite.
    """
    checks.not_negative("modulated_skip_step_", "eps", eps)
    checks.gram_metric("modulated_skip_step_", metric)
    _ops.modulated_skip_step_.default(
        out, index, probe_stack, hidden, shift, scale, residual_stack, rows, eps, metric, add
    )
