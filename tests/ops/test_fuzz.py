"""Random sizes, dtypes and strides, for what the tables of the other files do not list."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tap_ext import ops
from tests.ops import modulated, oracle
from tests.ops.data import DTYPES, LAYOUTS, OPS, Sizes, arguments, history, strided

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


@given(
    SIZES,
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS),
    SEEDS,
    st.sampled_from(["cosine", "l2"]),
    st.booleans(),
)
def test_modulated_skip_step(
    sizes: Sizes, dtype: torch.dtype, layout: str, seed: int, metric: str, add: bool
) -> None:
    given = modulated.step(sizes, dtype, "cpu", layout, seed)
    out, index = modulated.run(ops, given, metric, add=add)
    modulated.verify(given, out, index, metric, add=add)


@given(SIZES, st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), SEEDS)
def test_candidates(sizes: Sizes, dtype: torch.dtype, layout: str, seed: int) -> None:
    h = history(sizes, dtype, seed=seed, layout=layout)
    candidates = ops.predict(h["stack"], h["rows"])
    oracle.predict(h["stack"], h["rows"]).assert_rounded(candidates)
    for metric in ("cosine", "l2", "l1"):
        index, distance = ops.cosine_argmin(candidates, h["target"], metric)
        oracle.distances(candidates, h["target"], metric).assert_chosen(index, distance)


MAGNITUDES = {torch.float32: 1e15, torch.bfloat16: 1e15, torch.float16: 1e2}
"""Largest values whose sums over planes and rows the storage type can hold."""


@st.composite
def _finite(draw: st.DrawFn, op: str) -> dict[str, Any]:
    """Valid arguments of an op, every slice of them huge, tiny, zero or usual."""
    sizes = draw(st.builds(Sizes, *map(st.integers, (1, 1, 1, 1, 1), (2, 4, 40, 5, 12))))
    dtype = draw(st.sampled_from(DTYPES))
    scale = st.sampled_from([0.0, 1e-38, 1e-20, 1e-3, 1.0, MAGNITUDES[dtype]])
    given = arguments(op, sizes, dtype)
    for value in given.values():
        if isinstance(value, Tensor) and value.dim() >= 3:
            planes = value if value.dim() == 4 else value[None]
            factors = [draw(scale) for _ in planes]
            scaled = [
                (p.float() * f).clamp(-1e16, 1e16) for p, f in zip(planes, factors, strict=True)
            ]
            planes.copy_(torch.stack(scaled).to(dtype))
    return given


@pytest.mark.parametrize("name", OPS)
@given(data=st.data())
def test_finite_arguments_give_finite_results(name: str, data: st.DataObject) -> None:
    given = data.draw(_finite(name))
    made = getattr(ops, name)(**given)
    written = [given[key] for key in ("stack", "out", "distance") if key in given]
    returned = made if isinstance(made, tuple) else () if made is None else (made,)
    for tensor in (*returned, *(written if made is None else ())):
        assert tensor.isfinite().all()


FREE = {("predict", "stack"): (1, 2, 3), ("cosine_argmin", "candidates"): (0,)}
"""Axes that may have any length, of other arguments than ``rows``."""


def _spoiled(op: str, name: str, tensor: Tensor, draw: st.DrawFn) -> Any:
    """Something that is wrong for whatever asked for ``tensor``."""
    free = (0,) if name == "rows" else FREE.get((op, name), ())
    fixed = [axis for axis in range(tensor.dim()) if axis not in free]
    kinds = ["axis more", "axis less", "dtype", "meta", "no tensor"]
    if tensor.numel():
        kinds += ["longer"]
    if tensor.dim() > 1 and tensor.shape[-1] > 1 and tensor.shape[-2] > 1:
        kinds += ["strides"]
    match draw(st.sampled_from(kinds)):
        case "axis more":
            return tensor[..., None]
        case "axis less":
            return tensor.flatten(-2) if tensor.dim() > 1 else tensor.sum()
        case "dtype":
            return tensor.to(draw(st.sampled_from([torch.float64, torch.int64, torch.bool])))
        case "meta":
            return tensor.to("meta")
        case "longer":
            axis = draw(st.sampled_from(fixed))
            return torch.cat([tensor, tensor], axis)
        case "strides":
            return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        case _:
            return draw(st.sampled_from(["text", 3, [tensor], object()]))


@pytest.mark.parametrize("name", OPS)
@given(data=st.data())
def test_one_bad_argument_is_refused_by_name(name: str, data: st.DataObject) -> None:
    sizes = data.draw(st.builds(Sizes, *map(st.integers, (1, 1, 2, 2, 2), (3, 4, 9, 4, 5))))
    given = arguments(name, sizes)
    tensors = [key for key, value in given.items() if isinstance(value, Tensor)]
    spoiled = data.draw(st.sampled_from(tensors))
    bad = _spoiled(name, spoiled, given[spoiled], data.draw)
    before = {key: given[key].clone() for key in tensors}
    with pytest.raises((RuntimeError, TypeError)) as caught:
        getattr(ops, name)(**given | {spoiled: bad})
    message = str(caught.value)
    if isinstance(bad, Tensor):
        # Where two arguments do not agree, either may be the one that is named.
        named = re.match(r"tap_ext::(\w+): (\w+) must .*, got ", message)
        assert named and named[2] in tensors, message
        assert spoiled in message or spoiled == "rows" or "S=" in message, message
    else:
        assert spoiled in message, message
    for key, value in before.items():
        assert torch.equal(given[key], value), key
