"""What a run of a model computes, counted from what torch really dispatches.

A model of the real configuration is built on the meta device, so nothing is allocated, and one full
and one skip step are run under torch's ``FlopCounterMode``: matrix products, convolutions and
attention, two operations for each multiply-add. Elementwise work, the predictors' own among it, is
not counted; it is below 0.1 % of a full step.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tap_ext.backbones import BackboneSpec, find_spec
from tap_ext.config import Config
from tap_ext.views import Call, Views, run_view

__all__ = ["WORKLOADS", "Cost", "Size", "Workload", "build", "count", "looked_back"]


@dataclass(frozen=True)
class Size:
    """What one call generates.

    Attributes:
        height: in pixels.
        width: in pixels.
        frames: of a video; 1 for a picture.
        text: tokens of a prompt.
    """

    height: int
    width: int
    frames: int = 1
    text: int = 512


@dataclass(frozen=True)
class Workload:
    """A published model and how its pipeline calls it.

    Attributes:
        model: class name in diffusers.
        config: what differs from the class's defaults.
        inputs: size -> keyword arguments of one call, on the meta device.
        size: the one that the paper used.
        steps: denoising steps.
        branches: calls per step.
    """

    model: str
    config: dict[str, Any]
    inputs: Callable[[Size], dict[str, Any]]
    size: Size
    steps: int = 50
    branches: int = 1


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of one run.

    Attributes:
        model: class name.
        steps: denoising steps.
        branches: calls per step.
        full_steps: how many of the steps are full.
        full: operations of one call of the model.
        probe: of the probe, which a full step computes besides.
        skip: of a skip step of one branch, with what is constant over a run remembered.
        skip_rerun: of a skip step that runs all of that again, as the paper's count does.
        looked_back: how many full steps are forecast first, at the cost of a skip step, so that
            they can make up for the skip steps before them.
    """

    model: str
    steps: int
    branches: int
    full_steps: int
    full: int
    probe: int
    skip: int
    skip_rerun: int
    looked_back: int = 0

    @property
    def untouched(self) -> int:
        """Operations of a run without any skip step."""
        return self.branches * self.steps * self.full

    @property
    def accelerated(self) -> int:
        """Operations of a run."""
        return self._run(self.skip)

    @property
    def accelerated_rerun(self) -> int:
        """The same with ``skip_rerun``."""
        return self._run(self.skip_rerun)

    def _run(self, skip: int) -> int:
        skips = self.steps - self.full_steps + self.looked_back
        return self.branches * (self.full_steps * (self.full + self.probe) + skips * skip)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {
            "untouched": self.untouched,
            "accelerated": self.accelerated,
            "accelerated_rerun": self.accelerated_rerun,
            "ratio": self.untouched / self.accelerated,
        }


def count(
    workload: Workload,
    size: Size | None = None,
    steps: int | None = None,
    config: Config | None = None,
) -> Cost:
    """Count one run.

    Args:
        workload: one of ``WORKLOADS``, or another.
        size: default: the workload's own.
        steps: default: the workload's own.
        config: how it is accelerated; default ``Config()``.

    Raises:
        ImportError: diffusers is not installed, or has no such class.
        ValueError: the size does not divide into tokens.
    """
    size, steps = size or workload.size, steps or workload.steps
    model = build(workload)
    spec = find_spec(model)
    assert spec is not None, workload.model
    with torch.device("meta"):
        arguments = workload.inputs(size) | {"return_dict": False}
    if "txt_seq_lens" not in inspect.signature(type(model).forward).parameters:
        arguments.pop("txt_seq_lens", None)  # diffusers 0.36 needs it, newer ones have none
    full, _ = _full(model, spec, arguments, probe=False)
    with_probe, call = _full(model, spec, arguments, probe=True)
    config = config or Config()
    full_steps = config.plan(steps).full_steps(steps)
    return Cost(
        model=workload.model,
        steps=steps,
        branches=workload.branches,
        full_steps=len(full_steps),
        full=full,
        probe=with_probe - full,
        skip=_skip(model, spec, call, arguments),
        skip_rerun=_skip(model, replace(spec, idle=()), call, arguments),
        looked_back=looked_back(full_steps, steps) if config.looks_back else 0,
    )


def looked_back(full_steps: Sequence[int], num_steps: int) -> int:
    """How many full steps follow a skip step and are not the run's last, which corrects nothing.

    Args:
        full_steps: of one branch, rising.
        num_steps: of the run.
    """
    pairs = pairwise(full_steps)
    return sum(after - before > 1 and after < num_steps - 1 for before, after in pairs)


def build(workload: Workload, device: str = "meta") -> nn.Module:
    """A model of a workload's configuration, randomly initialised in torch's default dtype.

    Raises:
        ImportError: diffusers is not installed, or has no such class.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    diffusers = importlib.import_module("diffusers")
    try:
        cls: type[nn.Module] = getattr(diffusers, workload.model)
    except AttributeError:
        raise ImportError(
            f"diffusers {diffusers.__version__} has no {workload.model}", name="diffusers"
        ) from None
    with torch.device(device):
        return cls(**workload.config).eval()


@torch.no_grad()
def _full(
    model: nn.Module, spec: BackboneSpec, arguments: dict[str, Any], *, probe: bool
) -> tuple[int, Call]:
    call = Call.full(spec, want_probe=probe)
    with FlopCounterMode(display=False) as counter:
        run_view(Views(model, spec).full, call, (), arguments)
    return int(counter.get_total_flops()), call


@torch.no_grad()
def _skip(model: nn.Module, spec: BackboneSpec, full: Call, arguments: dict[str, Any]) -> int:
    def forecast(stream: int, hidden: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(hidden)

    with FlopCounterMode(display=False) as counter:
        run_view(Views(model, spec).skip, full.skip(forecast), (), arguments)
    return int(counter.get_total_flops())


def _tokens(name: str, pixels: int, per_token: int) -> int:
    count, rest = divmod(pixels, per_token)
    if rest or count < 1:
        raise ValueError(f"{name} must be a multiple of {per_token}, got {pixels}")
    return count


def _flux_dev(size: Size) -> dict[str, Any]:
    return _flux(size) | {"guidance": torch.empty(1)}


def _flux(size: Size) -> dict[str, Any]:
    tokens = _tokens("height", size.height, 16) * _tokens("width", size.width, 16)
    return {
        "hidden_states": torch.empty(1, tokens, 64),
        "encoder_hidden_states": torch.empty(1, size.text, 4096),
        "pooled_projections": torch.empty(1, 768),
        "timestep": torch.empty(1),
        "img_ids": torch.empty(tokens, 3),
        "txt_ids": torch.empty(size.text, 3),
    }


def _qwen(size: Size) -> dict[str, Any]:
    rows, columns = _tokens("height", size.height, 16), _tokens("width", size.width, 16)
    return {
        "hidden_states": torch.empty(1, rows * columns, 64),
        "encoder_hidden_states": torch.empty(1, size.text, 3584),
        "encoder_hidden_states_mask": torch.empty(1, size.text, dtype=torch.long),
        "timestep": torch.empty(1),
        "img_shapes": [[(1, rows, columns)]],
        "txt_seq_lens": [size.text],
    }


def _hunyuan(size: Size) -> dict[str, Any]:
    rows, columns = _tokens("height", size.height, 16), _tokens("width", size.width, 16)
    frames, rest = divmod(size.frames - 1, 4)
    if rest:
        raise ValueError(f"frames must be 4 k + 1, got {size.frames}")
    return {
        "hidden_states": torch.empty(1, 16, frames + 1, 2 * rows, 2 * columns),
        "encoder_hidden_states": torch.empty(1, size.text, 4096),
        "encoder_attention_mask": torch.empty(1, size.text, dtype=torch.bool),
        "pooled_projections": torch.empty(1, 768),
        "timestep": torch.empty(1),
        "guidance": torch.empty(1),
    }


_FLUX = "FluxTransformer2DModel"
_QWEN = "QwenImageTransformer2DModel"

WORKLOADS: dict[str, Workload] = {
    "flux.1-dev": Workload(_FLUX, {"guidance_embeds": True}, _flux_dev, Size(1024, 1024)),
    "flux.1-schnell": Workload(_FLUX, {}, _flux, Size(1024, 1024, text=256), steps=4),
    "qwen-image": Workload(_QWEN, {}, _qwen, Size(1328, 1328, text=23), branches=2),
    "qwen-image-lightning": Workload(_QWEN, {}, _qwen, Size(1024, 1024, text=23), steps=8),
    "hunyuan-video": Workload(
        "HunyuanVideoTransformer3DModel", {}, _hunyuan, Size(480, 640, frames=17, text=64)
    ),
}
"""The paper's models, at the paper's sizes. It does not tell the lengths of its prompts: those of
Qwen-Image and HunyuanVideo are the ones with which its counts come out."""
