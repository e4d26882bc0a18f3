"""Random sizes, dtypes and strides, for what the tables of the other files do not list."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tap_ext import ops
from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, Sizes, history, strided

SIZES = st.builds(
    Sizes,
    B=st.integers(0, 3),
    N=st.integers(0, 20),
    D=st.integers(1, 150),
    S=st.integers(1, 7),
    M=st.integers(1, 40),
)
SEEDS = st.integers(0, 2**31)


@given(SIZES, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS[:3]), SEEDS, st.data())
def test_stack_update(
    sizes: Sizes, dtype: torch.dtype, layout: str, seed: int, data: st.DataObject
) -> None:
    h = history(sizes, dtype, seed=seed, layout=layout)
    gap = st.sampled_from([0.25, 1.0, -2.0, 3.0, torch.inf])
    gaps = torch.tensor(data.draw(st.lists(gap, min_size=sizes.S - 1, max_size=sizes.S - 1)))
    minus = strided(h["base"], data.draw(st.sampled_from(LAYOUTS)))
    expected = oracle.stack_update(h["stack"], h["target"], gaps, minus)
    ops.stack_update_(h["stack"], h["target"], gaps, minus)
    expected.assert_rounded(h["stack"])


@given(
    SIZES,
    st.integers(1, 150),
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    SEEDS,
    st.sampled_from(["cosine", "l2"]),
)
def test_skip_step(
    sizes: Sizes, channels: int, dtype: torch.dtype, layout: str, seed: int, metric: str
) -> None:
    probe = history(sizes, dtype, seed=seed, layout=layout)
    wide = Sizes(sizes.B, sizes.N, channels, sizes.S, sizes.M)
    residual = history(wide, dtype, seed=seed + 1, layout=layout)
    stack, target, rows = probe["stack"], probe["target"], probe["rows"]
    out = torch.empty(sizes.B, sizes.N, channels, dtype=dtype)
    index = torch.empty(sizes.B, sizes.N, dtype=torch.int32)
    base = residual["base"]
    ops.skip_step_(out, index, stack, target, residual["stack"], base, rows, metric)
    chosen, distance = ops.select(stack, target, rows, metric)
    assert torch.equal(index, chosen)
    oracle.row_distances(stack, target, rows, metric).assert_chosen(index, distance)
    oracle.gather_rows(residual["stack"], rows, index, base).assert_rounded(out)


@given(SIZES, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), SEEDS)
def test_candidates(sizes: Sizes, dtype: torch.dtype, layout: str, seed: int) -> None:
    h = history(sizes, dtype, seed=seed, layout=layout)
    candidates = ops.predict(h["stack"], h["rows"])
    oracle.predict(h["stack"], h["rows"]).assert_rounded(candidates)
    for metric in ("cosine", "l2", "l1"):
        index, distance = ops.cosine_argmin(candidates, h["target"], metric)
        oracle.distances(candidates, h["target"], metric).assert_chosen(index, distance)
