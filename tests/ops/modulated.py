"""Arguments of ``modulated_skip_step_``, and what its results must be."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from tests.ops import oracle
from tests.ops.data import Sizes, history, strided

EPS = 1e-6


def step(
    sizes: Sizes,
    dtype: torch.dtype,
    device: str = "cpu",
    layout: str = "contiguous",
    seed: int = 0,
) -> dict[str, Tensor]:
    """A skip step whose newest probe plane is near the probe of its hidden state.

    Shift and scale are parts of one tensor, as a model's modulation hands them out.
    """
    generator = torch.Generator().manual_seed(seed + 2)
    shape = (sizes.B, sizes.N, sizes.D)
    hidden = strided((3 + 2 * torch.randn(shape, generator=generator)).to(dtype), layout)
    shift, _, scale = (
        (0.5 * torch.randn(sizes.B, 3 * sizes.D, generator=generator))
        .to(device, dtype)
        .chunk(3, dim=1)
    )
    probe = torch.from_numpy(oracle.modulated(hidden, shift, scale, EPS)).float()
    near = history(sizes, torch.float32, seed=seed)
    stack = near["stack"].clone()
    stack[0] = probe + 0.3 * (near["target"] - near["stack"][0])
    residual = history(sizes, dtype, device, seed=seed + 1, layout=layout)
    return {
        "probe_stack": strided(stack.to(device, dtype), layout),
        "hidden": hidden.to(device),
        "shift": shift,
        "scale": scale,
        "residual_stack": residual["stack"],
        "rows": near["rows"].to(device),
    }


def run(
    op: ModuleType,
    arguments: dict[str, Tensor],
    metric: str = "cosine",
    eps: float = EPS,
    *,
    add: bool = True,
) -> tuple[Tensor, Tensor]:
    """(out, index) of the op."""
    hidden = arguments["hidden"]
    shape, device = hidden.shape, hidden.device
    out = torch.full(shape, torch.nan, dtype=hidden.dtype, device=device)
    index = torch.full(shape[:2], -1, dtype=torch.int32, device=device)
    assert op.modulated_skip_step_(out, index, **arguments, eps=eps, metric=metric, add=add) is None
    return out, index


def verify(
    arguments: dict[str, Tensor],
    out: Tensor,
    index: Tensor,
    metric: str = "cosine",
    eps: float = EPS,
    *,
    add: bool = True,
) -> None:
    """The choice is right by regret, and the result that of the choice."""
    hidden, rows = arguments["hidden"], arguments["rows"]
    probe = oracle.modulated(hidden, arguments["shift"], arguments["scale"], eps)
    exact = oracle.modulated_distances(arguments["probe_stack"], probe, rows, metric)
    taken = index.cpu().long()[..., None]
    exact.assert_chosen(index, torch.from_numpy(exact.value).gather(-1, taken).squeeze(-1))
    base = hidden if add else None
    oracle.gather_rows(arguments["residual_stack"], rows, index, base).assert_rounded(out)
