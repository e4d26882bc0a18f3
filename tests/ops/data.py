"""Inputs for the ops: awkward sizes, awkward strides, series like those of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sizes:
    """B batch, N tokens, D channels, S planes, M candidates."""

    B: int
    N: int
    D: int
    S: int
    M: int

    def __str__(self) -> str:
        return f"B{self.B}-N{self.N}-D{self.D}-S{self.S}-M{self.M}"


# Every size that is empty, odd, one off a vector or larger than any fixed buffer, a few at a time.
SIZES = (
    Sizes(1, 1, 1, 1, 1),
    Sizes(0, 7, 64, 3, 2),
    Sizes(3, 0, 64, 3, 11),
    Sizes(1, 7, 64, 3, 11),
    Sizes(3, 7, 333, 2, 2),
    Sizes(1, 111, 7, 4, 64),
    Sizes(3, 111, 333, 3, 11),
    Sizes(1, 7, 3072, 3, 11),
    Sizes(3, 1, 3073, 7, 64),
    Sizes(1, 111, 64, 6, 1),
    Sizes(3, 7, 1, 5, 2),
    Sizes(1, 1, 3072, 1, 2),
)

LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")


def strided(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape and dtype in another layout, its last axis contiguous.

    "expanded" repeats the first entry along the batch axis, so values change there.
    """
    if layout == "transposed":  # the first axis stored next to the channels
        return tensor.movedim(0, -2).contiguous().movedim(-2, 0)
    if layout == "sliced":  # neither aligned nor of even strides
        *outer, channels = tensor.shape
        wide = tensor.new_full((*outer, channels + 3), torch.nan)
        view = wide[..., 1 : 1 + channels]
        return view.copy_(tensor)
    if layout == "expanded" and tensor.shape[-3] > 0:
        return tensor[..., :1, :, :].clone().expand(tensor.shape)
    return tensor.clone()


def history(
    sizes: Sizes,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    layout: str = "contiguous",
) -> dict[str, Tensor]:
    """A stack with its target, base and rows, planes shrinking with their order.

    The target is near the first plane, as a probe is near the last one recorded. Rows are of the
    Taylor kind but for the last, whose first weight is not 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    feature = (sizes.B, sizes.N, sizes.D)
    scale = 0.4 ** torch.arange(sizes.S).reshape(-1, 1, 1, 1)
    stack = normal(sizes.S, *feature) * scale
    target = stack[0] + 0.3 * normal(*feature)
    rows = normal(sizes.M, sizes.S)
    rows[:, 0] = 1
    if sizes.M > 1:
        rows[-1, 0] = 0.7
    values = {"stack": stack, "target": target, "base": normal(*feature)}
    tensors = {k: strided(v.to(device, dtype), layout) for k, v in values.items()}
    index = torch.randint(sizes.M, feature[:2], generator=generator, dtype=torch.int32)
    return tensors | {"rows": rows.to(device), "index": index.to(device)}


def arguments(op: str, sizes: Sizes, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Valid keyword arguments of an op, on the CPU."""
    h = history(sizes, dtype)
    stack, target, rows = h["stack"], h["target"], h["rows"]
    index = torch.zeros(sizes.B, sizes.N, dtype=torch.int32)
    match op:
        case "stack_update_":
            gaps = torch.arange(1.0, sizes.S)
            return {"stack": stack, "feature": target, "gaps": gaps, "minus": h["base"]}
        case "predict":
            return {"stack": stack, "rows": rows}
        case "cosine_argmin":
            errors = [h["base"].roll(m, -1) for m in range(sizes.M)]  # so that any may be nearest
            candidates = torch.stack([target + error for error in errors])
            return {"candidates": candidates, "target": target}
        case "gather_rows":
            return {"stack": stack, "rows": rows, "index": h["index"], "base": h["base"]}
        case "select":
            return {"stack": stack, "target": target, "rows": rows}
        case "select_out":
            distance = torch.zeros(sizes.B, sizes.N)
            outputs = {"index": index, "distance": distance}
            return {"stack": stack, "target": target, "rows": rows, **outputs}
        case "skip_step_":
            return {
                "out": torch.zeros_like(target),
                "index": index,
                "probe_stack": stack,
                "probe": target,
                "residual_stack": stack.flip(0).contiguous(),
                "hidden": h["base"],
                "rows": rows,
            }
        case "modulated_skip_step_":
            generator = torch.Generator().manual_seed(1)
            parts = torch.randn(sizes.B, 3, sizes.D, generator=generator).to(dtype)
            return {
                "out": torch.zeros_like(target),
                "index": index,
                "probe_stack": stack,
                "hidden": target,
                "shift": parts[:, 0],
                "scale": parts[:, 1],
                "residual_stack": stack.flip(0).contiguous(),
                "rows": rows,
            }
    raise AssertionError(op)


OPS = (
    "stack_update_",
    "predict",
    "cosine_argmin",
    "gather_rows",
    "select",
    "select_out",
    "skip_step_",
    "modulated_skip_step_",
)


def series(tokens: int, channels: int, times: tuple[float, ...], seed: int = 0) -> Tensor:
    """A smooth feature at the given times, (len(times), 1, N, D) float32.

    Every token swings about a resting value at a pace and by an amplitude of its own, as the
    tokens of an image do over the steps of a sampler.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(tokens, channels, generator=generator)

    rest, cosine, sine = normal(), normal(), normal()
    pace = 0.02 + 0.5 * torch.rand(tokens, 1, generator=generator)
    swing = 0.1 + 0.5 * torch.rand(tokens, 1, generator=generator)
    at = [rest + swing * (cosine * (pace * t).cos() + sine * (pace * t).sin()) for t in times]
    return torch.stack(at)[:, None]
