"""skip_step_: select on the probe, gather_rows on the residual, in one op."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, SIZES, Sizes, history, strided


def step(
    sizes: Sizes, channels: int, dtype: torch.dtype, device: str, layout: str = "contiguous"
) -> dict[str, Tensor]:
    """Arguments of a skip step whose residual has ``channels`` of its own."""
    probe = history(sizes, dtype, device, layout=layout)
    wide = Sizes(sizes.B, sizes.N, channels, sizes.S, sizes.M)
    residual = history(wide, dtype, device, seed=1, layout=layout)
    return {
        "probe_stack": probe["stack"],
        "probe": probe["target"],
        "residual_stack": residual["stack"],
        "hidden": residual["base"],
        "rows": probe["rows"],
    }


def run(op: ModuleType, arguments: dict[str, Tensor], metric: str) -> tuple[Tensor, Tensor]:
    stack = arguments["residual_stack"]
    out = torch.full(stack.shape[1:], torch.nan, dtype=stack.dtype, device=stack.device)
    index = torch.full(stack.shape[1:3], -1, dtype=torch.int32, device=stack.device)
    assert op.skip_step_(out, index, **arguments, metric=metric) is None
    return out, index


def verify(arguments: dict[str, Tensor], out: Tensor, index: Tensor, metric: str) -> None:
    stack, rows = arguments["probe_stack"], arguments["rows"]
    exact = oracle.row_distances(stack, arguments["probe"], rows, metric)
    taken = index.cpu().long()[..., None]
    distance = torch.from_numpy(exact.value).gather(-1, taken).squeeze(-1)
    exact.assert_chosen(index, distance)
    oracle.gather_rows(
        arguments["residual_stack"], rows, index, arguments.get("hidden")
    ).assert_rounded(out)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_float64(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, metric: str
) -> None:
    arguments = step(sizes, sizes.D, dtype, device)
    verify(arguments, *run(op, arguments, metric), metric)


@pytest.mark.parametrize("channels", [1, 17, 640])
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_may_differ_in_channels(
    op: ModuleType, device: str, dtype: torch.dtype, channels: int
) -> None:
    arguments = step(Sizes(2, 7, 64, 3, 11), channels, dtype, device)
    verify(arguments, *run(op, arguments, "cosine"), "cosine")


def test_without_hidden(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(2, 7, 64, 3, 11), 64, torch.bfloat16, device)
    arguments["hidden"] = None  # type: ignore[assignment]
    verify(arguments, *run(op, arguments, "cosine"), "cosine")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out_layout", ["contiguous", "transposed", "sliced"])
def test_any_strides(op: ModuleType, device: str, layout: str, out_layout: str) -> None:
    arguments = step(Sizes(3, 7, 33, 3, 11), 40, torch.bfloat16, device, layout)
    blank = torch.full((3, 7, 40), torch.nan, dtype=torch.bfloat16, device=device)
    out = strided(blank, out_layout)
    index = torch.empty(3, 7, dtype=torch.int32, device=device)
    op.skip_step_(out, index, **arguments)
    verify(arguments, out, index, "cosine")


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_select_then_gather_rows(op: ModuleType, device: str, dtype: torch.dtype) -> None:
    a = step(Sizes(3, 7, 333, 3, 11), 64, dtype, device)
    out, index = run(op, a, "cosine")
    chosen, _ = op.select(a["probe_stack"], a["probe"], a["rows"])
    assert torch.equal(index, chosen)
    gathered = op.gather_rows(a["residual_stack"], a["rows"], chosen, a["hidden"])
    assert torch.equal(out, gathered)


def test_leaves_its_inputs_alone(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(2, 7, 64, 3, 11), 40, torch.float16, device)
    before = {name: value.clone() for name, value in arguments.items()}
    run(op, arguments, "cosine")
    for name, value in before.items():
        assert torch.equal(arguments[name], value), name


def test_nan_of_a_probe_takes_row_zero_of_that_token_only(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(2, 5, 33, 3, 11), 40, torch.float32, device)
    out, index = run(op, arguments, "cosine")
    arguments["probe"][1, 2] = torch.nan
    other_out, other_index = run(op, arguments, "cosine")
    touched = torch.zeros(2, 5, dtype=torch.bool, device=device)
    touched[1, 2] = True
    assert other_index[1, 2] == 0 and not other_out.isnan().any()
    assert torch.equal(other_index[~touched], index[~touched])
    assert torch.equal(other_out[~touched], out[~touched])
