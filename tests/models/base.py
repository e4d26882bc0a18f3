"""What a tiny random model of a real class is made of, and a sampler that drives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import diffusers
import diffusers.models.transformers as transformers
import torch
from torch import Tensor, nn

from tests.versions import DIFFUSERS_VERSION, OLDEST

Arguments = dict[str, Any]


def _thousandths(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1000 * sigma)}


@dataclass(frozen=True)
class Tiny:
    """A model class with a tiny configuration.

    Attributes:
        name: the class, and after a ``+`` what is particular in this configuration or call.
        make: builds the model from the global random state.
        inputs: (generator, batch) -> the call's keyword arguments without those of time.
        time: (sigma, batch) -> its arguments of time at noise level ``sigma``, 1 at first, near 0
            at last.
        latents: the argument that the first output moves; for several outputs, one name each.
        batches: the batch sizes that the class takes.
        dtypes: those that the untouched model runs in.
        since: the first diffusers whose class can be made and called so.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], Arguments]
    time: Callable[[float, int], Arguments] = _thousandths
    latents: tuple[str, ...] = ("hidden_states",)
    batches: tuple[int, ...] = (1, 2)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    since: tuple[int, ...] = OLDEST

    def __str__(self) -> str:
        return self.name


def build(tiny: Tiny, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model whose every parameter is random, zero-initialised ones included."""
    torch.manual_seed(seed)
    model = tiny.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    keep = getattr(model, "_keep_in_fp32_modules", None) or ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not set(keep) & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return model


def cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with every tensor of floating point in ``dtype``, inside lists and dicts too."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: cast(item, dtype) for key, item in value.items()}
    return value


def inputs(
    tiny: Tiny, seed: int = 1, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Arguments:
    """Arguments of one call, without those of time."""
    generator = torch.Generator().manual_seed(seed)
    return cast(tiny.inputs(generator, batch), dtype)


def call(
    tiny: Tiny, batch: int = 1, dtype: torch.dtype = torch.float32, sigma: float = 0.6
) -> Arguments:
    """All arguments of one call."""
    return inputs(tiny, batch=batch, dtype=dtype) | cast(tiny.time(sigma, batch), dtype)


def tensors(output: Any) -> list[Tensor]:
    """Every tensor in what a model returns, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in tensors(item)]
    return []


@torch.no_grad()
def sample(
    tiny: Tiny, model: nn.Module, arguments: Arguments, steps: int, stop: int | None = None
) -> list[Tensor]:
    """Euler steps of rectified flow from noise level 1 to 0; ``stop`` gives up before that step."""
    arguments = dict(arguments)
    batch = len(arguments[tiny.latents[0]])
    dtype = tensors(arguments[tiny.latents[0]])[0].dtype
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    for step, (now, after) in enumerate(pairwise(sigmas)):
        if step == stop:
            break
        velocity = model(**arguments, **cast(tiny.time(now, batch), dtype), return_dict=False)
        velocity = velocity if isinstance(velocity, tuple) else (velocity,)
        for name, moved in zip(tiny.latents, velocity, strict=False):
            arguments[name] = _move(arguments[name], moved, after - now)
    return tensors([arguments[name] for name in tiny.latents])


def _move(latents: Any, velocity: Any, delta: float) -> Any:
    """One Euler step; where the model takes more than it gives, the rest stays."""
    if isinstance(latents, (list, tuple)) and isinstance(velocity, Tensor):
        return [*latents[:-1], _move(latents[-1], velocity, delta)]  # the others are given
    if isinstance(latents, (list, tuple)):
        return [_move(a, b, delta) for a, b in zip(latents, velocity, strict=True)]
    latents = latents.clone()
    part = tuple(slice(min(a, b)) for a, b in zip(latents.shape, velocity.shape, strict=True))
    latents[part] += delta * velocity[part]
    return latents


def diffusers_class(name: str) -> type[nn.Module]:
    """A model class by name, wherever the installed diffusers keeps it."""
    found: type[nn.Module] = getattr(diffusers, name, None) or getattr(transformers, name)
    return found


def exists(name: str) -> bool:
    """Whether the installed diffusers has a model class of this name."""
    return hasattr(diffusers, name) or hasattr(transformers, name)


def available(*models: Tiny) -> tuple[Tiny, ...]:
    """Those whose class the installed diffusers has, able to do what the model wants of it."""
    return tuple(
        model
        for model in models
        if exists(model.name.partition("+")[0]) and model.since <= DIFFUSERS_VERSION
    )
