"""modulated_skip_step_: a skip step whose probe is made of the hidden state on the way."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from tap_ext import ops, reference
from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, SIZES, Sizes, series
from tests.ops.modulated import EPS, run, step, verify


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_float64(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, metric: str
) -> None:
    arguments = step(sizes, dtype, device)
    verify(arguments, *run(op, arguments, metric), metric)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(op: ModuleType, device: str, dtype: torch.dtype, layout: str) -> None:
    arguments = step(Sizes(3, 7, 33, 3, 11), dtype, device, layout)
    verify(arguments, *run(op, arguments))


def test_one_modulation_for_a_whole_batch(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(3, 7, 64, 3, 11), torch.bfloat16, device)
    for name in ("shift", "scale"):
        arguments[name] = arguments[name][:1].expand(3, -1)
    verify(arguments, *run(op, arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_prediction_alone(op: ModuleType, device: str, dtype: torch.dtype) -> None:
    arguments = step(Sizes(2, 7, 64, 3, 11), dtype, device)
    out, index = run(op, arguments, add=False)
    verify(arguments, out, index, add=False)
    gathered = op.gather_rows(arguments["residual_stack"], arguments["rows"], index, None)
    assert torch.equal(out, gathered)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_chooses_as_a_skip_step_on_the_written_probe(
    op: ModuleType, device: str, metric: str
) -> None:
    """In float32, where writing the probe costs next to nothing."""
    a = step(Sizes(3, 37, 333, 3, 11), torch.float32, device)
    out, index = run(op, a, metric)
    probe = reference.modulate(a["hidden"], a["shift"], a["scale"], EPS)
    other, chosen = torch.empty_like(out), torch.empty_like(index)
    planes, residual, rows = a["probe_stack"], a["residual_stack"], a["rows"]
    op.skip_step_(other, chosen, planes, probe, residual, a["hidden"], rows, metric)
    assert torch.equal(index, chosen)
    assert torch.equal(out, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_agrees_with_the_probe_as_a_model_rounds_it(
    op: ModuleType, device: str, dtype: torch.dtype
) -> None:
    """A model in half precision rounds after the norm, 1 + scale, the product and the sum.

    The planes hold such probes of earlier steps. Whichever of the two probes of this step is
    asked, the other's choice is as good up to those roundings: e of the probe's length costs at
    most 2 |d| e + e^2 of |d|^2 on either side.
    """
    times = (0.0, 4.0, 8.0, 11.0)
    hidden = (2 * series(300, 512, times) + 1).to(device, dtype)
    shift, scale = (0.3 * torch.randn(2, 1, 512, generator=torch.Generator().manual_seed(3))).to(
        device, dtype
    )
    probes = [
        layer_norm(x, (512,), eps=EPS) * (1 + scale[:, None]) + shift[:, None] for x in hidden
    ]
    stack = torch.full((3, 1, 300, 512), torch.nan, dtype=dtype, device=device)
    for k in range(3):
        gaps = torch.tensor([4.0, 8.0][:k] + [torch.inf] * (2 - k), device=device)
        ops.stack_update_(stack, probes[k], gaps)
    rows = torch.tensor([[1.0, k, k * (k + 4)] for k in (3.0, 2, 2.5, 3.5, 4)], device=device)
    a = {"probe_stack": stack, "hidden": hidden[3], "shift": shift, "scale": scale}
    _, index = run(op, a | {"residual_stack": stack.clone(), "rows": rows}, "l2")
    written = oracle.row_distances(stack, probes[3], rows, "l2").value
    taken = index.cpu().numpy()[..., None]
    best = written.argmin(-1)[..., None]
    least, chosen = (
        torch.from_numpy(written).gather(-1, torch.as_tensor(i).long()) for i in (best, taken)
    )
    unit = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    length = probes[3].double().norm(dim=-1).cpu()[..., None]
    e = 2 * unit * length  # four roundings of at most unit, each at random
    assert (chosen - least <= 2 * (2 * chosen.sqrt() * e + e**2)).all()
    assert (best == taken).mean() > 0.97


def test_a_large_mean_costs_no_digits(op: ModuleType, device: str) -> None:
    """A variance from mean squares would be all rounding here."""
    arguments = step(Sizes(1, 5, 512, 3, 11), torch.float32, device)
    hidden = arguments["hidden"]
    arguments["hidden"] = shifted = (hidden - 3) / 16 + 4096  # exact to 2^-11
    probe = oracle.modulated(shifted, arguments["shift"], arguments["scale"], EPS)
    arguments["probe_stack"][0] = torch.from_numpy(probe).to(shifted)
    arguments["rows"] = torch.tensor([[1.0, 0.05, 0], [1, 0, 0], [1, -0.05, 0]], device=device)
    out, index = run(op, arguments)
    assert (index == 1).all()
    verify(arguments, out, index)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 4.0])
def test_eps(op: ModuleType, device: str, eps: float) -> None:
    """Rows a quarter apart in length: only the right eps makes the right one exact."""
    sizes = Sizes(1, 7, 256, 2, 3)
    arguments = step(sizes, torch.float32, device)
    probe = oracle.modulated(arguments["hidden"], arguments["shift"], arguments["scale"], eps)
    arguments["probe_stack"] = torch.from_numpy(probe).float().to(device).repeat(2, 1, 1, 1)
    arguments["rows"] = torch.tensor([[0.75, 0.0], [1, 0], [1.25, 0]], device=device)
    out, index = run(op, arguments, "l2", eps)
    assert (index == 1).all()
    verify(arguments, out, index, "l2", eps)


def test_without_variance_the_probe_is_the_shift(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(1, 4, 64, 2, 2), torch.bfloat16, device)
    arguments["hidden"].fill_(3)
    arguments["probe_stack"][0] = -arguments["shift"]
    arguments["probe_stack"][1] = arguments["shift"]
    arguments["rows"] = torch.tensor([[1.0, 0.0], [0.0, 1.0]], device=device)
    _, index = run(op, arguments)
    assert (index == 1).all()


def test_leaves_its_inputs_alone(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(2, 7, 64, 3, 11), torch.float16, device)
    before = {name: value.clone() for name, value in arguments.items()}
    run(op, arguments)
    for name, value in before.items():
        assert torch.equal(arguments[name], value), name


def test_nan_of_a_token_stays_there(op: ModuleType, device: str) -> None:
    arguments = step(Sizes(2, 5, 33, 3, 11), torch.float32, device)
    out, index = run(op, arguments, add=False)
    arguments["hidden"][1, 2, 7] = torch.nan
    other_out, other_index = run(op, arguments, add=False)
    touched = torch.zeros(2, 5, dtype=torch.bool, device=device)
    touched[1, 2] = True
    assert other_index[1, 2] == 0 and not other_out.isnan().any()
    assert torch.equal(other_index[~touched], index[~touched])
    assert torch.equal(other_out[~touched], out[~touched])


def test_the_reference_takes_float64() -> None:
    def wide(value: Tensor) -> Tensor:
        return value.double()

    a = {k: wide(v) for k, v in step(Sizes(2, 5, 33, 3, 11), torch.float32).items()}
    a["rows"] = a["rows"].float()
    verify(a, *run(reference, a))
