"""Every op in plain torch: the readable oracle, and what runs where no library was built.

Any device, and float64 besides the storage dtypes. Arithmetic is in float32, or in float64 for
float64 tensors; results are rounded once, to the dtype of the stack. Signatures, checks and
results are those of ``tap_ext.ops``, whose docstrings say what each op is for; here is how.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from tap_ext import _checks as checks

__all__ = [
    "cosine_argmin",
    "gather_rows",
    "modulate",
    "modulated_skip_step_",
    "predict",
    "select",
    "select_materialised",
    "select_out",
    "skip_step_",
    "stack_update_",
]


def stack_update_(
    stack: Tensor, feature: Tensor, gaps: Tensor, minus: Tensor | None = None
) -> None:
    """Push ``feature - minus`` (B, N, D) onto ``stack`` (S, B, N, D); see ``ops.stack_update_``."""
    checks.stack_update_(stack, feature, gaps, minus, dtypes=checks.REFERENCE_DTYPES)
    checks.distinct("stack_update_", "stack", stack, feature=feature, minus=minus)
    newest = _wide(feature) if minus is None else _wide(feature) - _wide(minus)
    for plane, gap in zip(stack, gaps, strict=False):  # all planes but the last
        # The quotient is dropped, not multiplied by zero: a plane never written may hold a NaN.
        divided = ((newest - _wide(plane)) / gap).masked_fill(gap.isinf(), 0)
        plane.copy_(newest)
        newest = divided
    stack[-1].copy_(newest)


def predict(stack: Tensor, rows: Tensor) -> Tensor:
    """All M candidates of ``rows`` (M, S), as (M, B, N, D); see ``ops.predict``."""
    checks.predict(stack, rows, dtypes=checks.REFERENCE_DTYPES)
    candidates = stack.new_empty((rows.shape[0], *stack.shape[1:]))
    planes = [_wide(plane) for plane in stack]
    for candidate, row in zip(candidates, rows, strict=True):
        candidate.copy_(_combine(planes, row, None))
    return candidates


def cosine_argmin(
    candidates: Tensor, target: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Nearest of ``candidates`` (M, B, N, D) per token; see ``ops.cosine_argmin``."""
    checks.cosine_argmin(candidates, target, metric, dtypes=checks.REFERENCE_DTYPES)
    u = _wide(target)
    uu = _dot(u, u)
    distances = [_distance(u, uu, _wide(candidate), metric) for candidate in candidates]
    return _best(torch.stack(distances, dim=-1))


def gather_rows(stack: Tensor, rows: Tensor, index: Tensor, base: Tensor | None) -> Tensor:
    """``base`` plus each token's own row of ``rows``, (B, N, D); see ``ops.gather_rows``."""
    checks.gather_rows(stack, rows, index, base, dtypes=checks.REFERENCE_DTYPES)
    checks.in_range("gather_rows", index, rows.shape[0])
    out = stack.new_empty(stack.shape[1:])
    return out.copy_(_combine(stack.unbind(), rows[index.long()], base))


def select(
    stack: Tensor, target: Tensor, rows: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Nearest row of ``rows`` (M, S) per token, no candidate built; see ``ops.select``."""
    checks.select(stack, target, rows, metric, dtypes=checks.REFERENCE_DTYPES)
    return _select(stack, target, rows, metric)


def select_out(
    stack: Tensor,
    target: Tensor,
    rows: Tensor,
    metric: str = "cosine",
    *,
    index: Tensor,
    distance: Tensor,
) -> None:
    """``select`` into ``index`` and ``distance`` (B, N); see ``ops.select_out``."""
    checks.select_out(
        stack,
        target,
        rows,
        metric,
        index=index,
        distance=distance,
        dtypes=checks.REFERENCE_DTYPES,
    )
    best_index, best_distance = _select(stack, target, rows, metric)
    index.copy_(best_index)
    distance.copy_(best_distance)


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
    """``select`` on the probe, then ``gather_rows`` on the residual; see ``ops.skip_step_``."""
    checks.skip_step_(
        out,
        index,
        probe_stack,
        probe,
        residual_stack,
        hidden,
        rows,
        metric,
        dtypes=checks.REFERENCE_DTYPES,
    )
    checks.distinct(
        "skip_step_",
        "out",
        out,
        probe_stack=probe_stack,
        probe=probe,
        residual_stack=residual_stack,
        hidden=hidden,
    )
    index.copy_(_select(probe_stack, probe, rows, metric)[0])
    out.copy_(_combine(residual_stack.unbind(), rows[index.long()], hidden))


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
    """``skip_step_`` on the probe of ``hidden``; see ``ops.modulated_skip_step_``."""
    checks.modulated_skip_step_(
        out,
        index,
        probe_stack,
        hidden,
        shift,
        scale,
        residual_stack,
        rows,
        eps,
        metric,
        add,
        dtypes=checks.REFERENCE_DTYPES,
    )
    checks.distinct(
        "modulated_skip_step_",
        "out",
        out,
        probe_stack=probe_stack,
        hidden=hidden,
        shift=shift,
        scale=scale,
        residual_stack=residual_stack,
    )
    probe = _modulate(hidden, shift, scale, eps)
    index.copy_(_select(probe_stack, probe, rows, metric)[0])
    base = hidden if add else None
    out.copy_(_combine(residual_stack.unbind(), rows[index.long()], base))


def modulate(hidden: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, scaled and shifted: the probe of ``modulated_skip_step_``.

    Args:
        hidden: (B, N, D).
        shift: (B, D).
        scale: (B, D).
        eps: added to the variance over a token's channels.

    Returns:
        (B, N, D), rounded once, to the dtype of ``hidden``.
    """
    return _modulate(hidden, shift, scale, eps).to(hidden.dtype)


def select_materialised(
    stack: Tensor, target: Tensor, rows: Tensor, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """``select`` the way it is usually written: build every candidate, then compare.

    Candidates are rounded to the dtype of the stack on their way through memory, so below float32
    the choice is worse than that of ``select``. Benchmarks measure against it.
    """
    return cosine_argmin(predict(stack, rows), target, metric)


def _wide(tensor: Tensor) -> Tensor:
    """In the dtype of all arithmetic."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _modulate(hidden: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Not yet rounded."""
    wide = _wide(hidden)
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return normed * (1 + _wide(scale)[:, None]) + _wide(shift)[:, None]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the channels."""
    return (a * b).sum(-1)


def _combine(planes: Sequence[Tensor], weights: Tensor, base: Tensor | None) -> Tensor:
    """``base`` + sum_s weights[..., s] * planes[s], (B, N, D), not yet rounded.

    ``weights`` is (S,), or (B, N, S) with a row per token. A plane of weight zero takes no part,
    so that a NaN it may hold stays where it is.
    """
    total = None if base is None else _wide(base)
    for plane, weight in zip(planes, weights[..., None, :].unbind(-1), strict=True):
        term = (weight * _wide(plane)).masked_fill_(weight == 0, 0)
        total = term if total is None else term.add_(total)
    assert total is not None  # there is a plane
    return total


def _select(stack: Tensor, target: Tensor, rows: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Score every row from the inner products of a basis, S + 1 vectors for any M.

    With u the target, v a row's candidate and e = u - D_0, the difference is
    d = u - v = w_0 e - sum_i w_i D_i + (1 - w_0) u: a combination of (e, D_1, ..., D_{S-1}, u).
    """
    u, newest, *others = _wide(target), *_wide(stack)
    basis = [u - newest, *others, u]
    size = len(basis)
    gram = u.new_empty((*u.shape[:2], size, size))
    for i, j in combinations_with_replacement(range(size), 2):
        gram[..., i, j] = gram[..., j, i] = _dot(basis[i], basis[j])
    uu = gram[..., -1, -1]
    weights = rows.to(u.dtype)
    distances = []
    for c in torch.cat([weights[:, :1], -weights[:, 1:], 1 - weights[:, :1]], dim=1):
        pairs = torch.outer(c, c)
        dd = (pairs * gram).masked_fill(pairs == 0, 0).sum((-2, -1)).clamp_min(0)
        du = (c * gram[..., -1]).masked_fill(c == 0, 0).sum(-1)
        vv = (uu - 2 * du + dd).clamp_min(0)
        distances.append(dd if metric == "l2" else _cosine_distance(dd, du, uu, vv))
    return _best(torch.stack(distances, dim=-1))


def _distance(u: Tensor, uu: Tensor, v: Tensor, metric: str) -> Tensor:
    """Distance of candidate v from target u per token, both (B, N, D); uu is |u|^2."""
    d = u - v
    if metric == "l1":
        return d.abs().sum(-1)
    dd = _dot(d, d)
    return dd if metric == "l2" else _cosine_distance(dd, _dot(d, u), uu, _dot(v, v))


def _cosine_distance(dd: Tensor, du: Tensor, uu: Tensor, vv: Tensor) -> Tensor:
    """1 - cos(v, u), the proxy loss (eq. 7, arXiv 2603.03792), of d = u - v.

    Written in d, because 1 - <u, v> / (|u| |v|) loses all digits where v is near u, as the good
    candidates are. The cosine with a zero vector is 0, and 1 between two of them.
    """
    u_norm, v_norm = uu.sqrt(), vv.sqrt()
    shortfall = (2 * du - dd) / (u_norm + v_norm)  # |u| - |v|
    both = u_norm * v_norm
    distance = ((dd - shortfall * shortfall) / (2 * both)).clamp_min(0)
    return torch.where(both == 0, (u_norm != v_norm).to(distance.dtype), distance)


def _best(distances: Tensor) -> tuple[Tensor, Tensor]:
    """Argmin over the last axis of (B, N, M) and its distance (eq. 8, arXiv 2603.03792).

    Ties take the lowest row. A NaN never wins, not even against infinity; among NaN alone row 0.
    """
    finite = distances.clamp_max(torch.finfo(distances.dtype).max)
    index = finite.masked_fill(finite.isnan(), torch.inf).argmin(-1, keepdim=True)
    return index.squeeze(-1).int(), distances.gather(-1, index).squeeze(-1)
