"""predict and gather_rows: combinations of planes."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, SIZES, Sizes, history, strided

NAN = torch.nan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_predict_matches_float64(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype
) -> None:
    h = history(sizes, dtype, device)
    candidates = op.predict(h["stack"], h["rows"])
    assert candidates.dtype == dtype and candidates.is_contiguous()
    oracle.predict(h["stack"], h["rows"]).assert_rounded(candidates)


@pytest.mark.parametrize("based", [False, True], ids=["no-base", "base"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gather_rows_matches_float64(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, based: bool
) -> None:
    h = history(sizes, dtype, device)
    base = h["base"] if based else None
    out = op.gather_rows(h["stack"], h["rows"], h["index"], base)
    assert out.dtype == dtype and out.is_contiguous()
    oracle.gather_rows(h["stack"], h["rows"], h["index"], base).assert_rounded(out)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("base_layout", LAYOUTS)
def test_any_strides(op: ModuleType, device: str, layout: str, base_layout: str) -> None:
    h = history(Sizes(3, 7, 33, 3, 11), torch.bfloat16, device, layout=layout)
    base = strided(h["base"], base_layout)
    rows = h["rows"].repeat(1, 2)[:, :3]  # a slice: rows need not be next to one another
    out = op.gather_rows(h["stack"], rows, h["index"], base)
    oracle.gather_rows(h["stack"], h["rows"], h["index"], base).assert_rounded(out)
    candidates = op.predict(h["stack"], rows)
    oracle.predict(h["stack"], h["rows"]).assert_rounded(candidates)
    assert out.is_contiguous() and candidates.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
def test_planes_of_weight_zero_are_not_read(
    op: ModuleType, device: str, dtype: torch.dtype
) -> None:
    """Each token may hold garbage in the planes that its own row leaves out."""
    h = history(Sizes(1, 4, 33, 3, 4), dtype, device)
    rows = torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, 0, -1], [0, 0, 0]], device=device)
    index = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32, device=device)
    stack = h["stack"]
    for token in range(4):
        stack[rows[token] == 0, 0, token] = NAN if token % 2 else torch.inf
    out = op.gather_rows(stack, rows, index, h["base"])
    expected = oracle.gather_rows(stack, rows, index, h["base"])
    assert not out.isnan().any()
    expected.assert_rounded(out)
    assert torch.equal(out[0, 3], h["base"][0, 3])
    assert (op.gather_rows(stack, rows, index, None)[0, 3] == 0).all()

    candidates = op.predict(stack, rows)
    for m in range(4):
        assert not candidates[m, 0, m].isnan().any()


def test_one_rounding(op: ModuleType, device: str) -> None:
    """base + a + b in bfloat16, where rounding any partial sum would lose the small terms."""
    stack = torch.full((2, 1, 1, 9), 0.5, dtype=torch.bfloat16, device=device)
    base = torch.full((1, 1, 9), 256.0, dtype=torch.bfloat16, device=device)
    rows = torch.tensor([[2.0, 2.0]], device=device)  # 256 + 1 + 1; the spacing there is 2
    index = torch.zeros(1, 1, dtype=torch.int32, device=device)
    assert (op.gather_rows(stack, rows, index, base) == 258).all()


def test_base_defaults_to_zero() -> None:
    from tap_ext import ops

    h = history(Sizes(1, 2, 5, 2, 3))
    plain = ops.gather_rows(h["stack"], h["rows"], h["index"])
    assert torch.equal(plain, ops.gather_rows(h["stack"], h["rows"], h["index"], None))


def test_nan_stays_in_its_token(op: ModuleType, device: str) -> None:
    h = history(Sizes(2, 5, 17, 3, 4), device=device)
    h["rows"][:, 1] = 1.0
    clean = op.gather_rows(h["stack"], h["rows"], h["index"], h["base"])
    h["stack"][1, 0, 3] = NAN
    out = op.gather_rows(h["stack"], h["rows"], h["index"], h["base"])
    touched = torch.zeros(2, 5, dtype=torch.bool, device=device)
    touched[0, 3] = True
    assert out[touched].isnan().all()
    assert torch.equal(out[~touched], clean[~touched])
