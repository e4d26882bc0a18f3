"""stack_update_: divided differences, pushed in place."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, SIZES, Sizes, history, strided

INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize("minus", [False, True], ids=["feature", "feature-minus"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_float64(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, minus: bool
) -> None:
    h = history(sizes, dtype, device)
    gaps = torch.tensor([1.0, 3.0, 4.5, 7.0, 0.5, 11.0], device=device)[: sizes.S - 1]
    base = h["base"] if minus else None
    expected = oracle.stack_update(h["stack"], h["target"], gaps, base)
    assert op.stack_update_(h["stack"], h["target"], gaps, base) is None
    expected.assert_rounded(h["stack"])


@pytest.mark.parametrize("feature_layout", LAYOUTS)
@pytest.mark.parametrize("stack_layout", ["contiguous", "transposed", "sliced"])
def test_any_strides(op: ModuleType, device: str, stack_layout: str, feature_layout: str) -> None:
    h = history(Sizes(3, 7, 33, 3, 1), torch.bfloat16, device)
    stack = strided(h["stack"], stack_layout)
    feature, minus = (strided(h[k], feature_layout) for k in ("target", "base"))
    gaps = torch.tensor([1.0, 2.0], device=device)
    expected = oracle.stack_update(stack, feature, gaps, minus)
    op.stack_update_(stack, feature, gaps, minus)
    expected.assert_rounded(stack)


def test_writes_nothing_beside_the_stack(op: ModuleType, device: str) -> None:
    buffer = torch.full((3, 2, 7, 40), 5.0, device=device)
    stack = buffer[:, :, :, 1:34]
    op.stack_update_(stack, torch.ones(2, 7, 33, device=device), torch.ones(2, device=device))
    assert (buffer[..., 0] == 5).all() and (buffer[..., 34:] == 5).all()
    assert (stack[0] == 1).all()


def test_gives_the_derivatives_of_a_polynomial(op: ModuleType, device: str) -> None:
    """True divided differences of a cubic at uneven nodes, from an empty history."""
    nodes = [0.0, 2.0, 3.0, 7.0]
    stack = torch.full((4, 1, 1, 1), NAN, device=device)
    for count, node in enumerate(nodes):
        past = nodes[:count][::-1]
        gaps = torch.tensor([node - t for t in past] + [INF] * (3 - count), device=device)
        value = torch.full((1, 1, 1), node**3, device=device)
        op.stack_update_(stack, value, gaps)
    # f[7], f[7,3], f[7,3,2], f[7,3,2,0] of t^3
    assert stack.flatten().tolist() == [343.0, 79.0, 12.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filled", range(1, 5))
@pytest.mark.parametrize("gap", [INF, -INF])
def test_infinite_gaps_write_zeros_over_garbage(
    op: ModuleType, device: str, dtype: torch.dtype, filled: int, gap: float
) -> None:
    """A history of ``filled`` evaluations, this one included, in a buffer of four planes."""
    h = history(Sizes(3, 7, 33, 4, 1), dtype, device)
    stack = h["stack"]
    stack[filled - 1] = INF  # would be the minuend of the first zero plane
    stack[filled:] = NAN
    gaps = torch.full((3,), gap, device=device)
    gaps[: filled - 1] = 1.0
    expected = oracle.stack_update(stack, h["target"], gaps, None)
    op.stack_update_(stack, h["target"], gaps)
    assert (stack[filled:] == 0).all()
    expected.assert_rounded(stack)


def test_infinite_gap_between_finite_ones(op: ModuleType, device: str) -> None:
    """The plane after a zero one still is its difference to the old one, as the formula says."""
    stack = torch.tensor([1.0, NAN, 6.0, 8.0], device=device).reshape(4, 1, 1, 1)
    gaps = torch.tensor([INF, 2.0, 2.0], device=device)
    stack[1] = 4.0
    op.stack_update_(stack, torch.full((1, 1, 1), 5.0, device=device), gaps)
    assert stack.flatten().tolist() == [5.0, 0.0, -2.0, -4.0]


def test_differences_are_taken_before_rounding(op: ModuleType, device: str) -> None:
    """D_1' comes from the float32 difference, not from the plane it was rounded to."""
    stack = torch.full((2, 1, 1, 1), 255.0, dtype=torch.bfloat16, device=device)
    feature = torch.full((1, 1, 1), 256.0, dtype=torch.bfloat16, device=device)
    minus = torch.full_like(feature, 0.5)  # 255.5, which bfloat16 rounds to 256
    op.stack_update_(stack, feature, torch.ones(1, device=device), minus)
    assert stack.flatten().tolist() == [256.0, 0.5]


def test_nan_stays_in_its_channel(op: ModuleType, device: str) -> None:
    h = history(Sizes(2, 3, 17, 3, 1), device=device)
    clean = h["stack"].clone()
    gaps = torch.ones(2, device=device)
    op.stack_update_(clean, h["target"], gaps)
    h["target"][1, 2, 5] = NAN
    op.stack_update_(h["stack"], h["target"], gaps)
    touched = torch.zeros_like(clean, dtype=torch.bool)
    touched[:, 1, 2, 5] = True
    assert h["stack"][touched].isnan().all()
    assert torch.equal(h["stack"][~touched], clean[~touched])
