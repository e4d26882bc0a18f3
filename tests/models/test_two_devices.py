"""Models shared out over two devices, as by ``device_map``; neither is there, and they differ."""

from __future__ import annotations

from typing import Any

import accelerate.hooks
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

import tap_ext
from bench.clock import Clock
from tap_ext import runtime
from tap_ext.backbones import find_spec
from tap_ext.integrations.diffusers import engines_of
from tests.graphs.nowhere import DEVICE, Nowhere, nowhere
from tests.models import MODELS
from tests.models.base import build, inputs

OTHER = torch.device(DEVICE.type, 1)
STEPS = 6
NAMES = (
    "FluxTransformer2DModel",
    "QwenImageTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "WanTransformer3DModel",
    "SD3Transformer2DModel",
)


class _Move(accelerate.hooks.ModelHook):
    """What comes in is moved to where the weights are."""

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tree_map(self._moved, (args, kwargs))

    def _moved(self, value: Any) -> Any:
        return value.to(self.execution_device) if isinstance(value, Tensor) else value


def _share_out(where: Nowhere, model: nn.Module) -> None:
    """The second half of the blocks, and what follows them, lies on the other device."""
    spec = find_spec(model)
    assert spec is not None
    blocks = [b for each in spec.blocks for b in model.get_submodule(each.path).children()]
    parts: list[nn.Module] = []
    for child in model.children():
        parts += child.children() if isinstance(child, nn.ModuleList) else (child,)
    cut = next(i for i, part in enumerate(parts) if part is blocks[len(blocks) // 2])
    for number, part in enumerate(parts):
        device = DEVICE if number < cut else OTHER
        for module in part.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        like = torch.empty_like(tensor, device="meta")
                        moved = FakeTensor(where.mode, like, device)
                        kept = isinstance(tensor, nn.Parameter)
                        tensors[name] = nn.Parameter(moved, False) if kept else moved
        accelerate.hooks.add_hook_to_module(part, _Move(device))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_model_on_two_devices_skips_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = MODELS[name]
    with nowhere(monkeypatch) as where:
        model = build(tiny)
        where.move(model)
        with where.mode:
            _share_out(where, model)
        tap_ext.accelerate(model, window=3, self_check=False)
        clock = Clock([1 - step / STEPS for step in range(STEPS + 1)])
        given = where.put(inputs(tiny))
        with where.mode, runtime.run(clock):
            for clock.step in range(STEPS):
                time = where.put(tiny.time(1 - clock.step / STEPS, 1))
                output = model(**given, **time, return_dict=False)[0]
                assert output.device == OTHER
    (engine,) = engines_of(model)
    assert engine.skipped > 0 and not engine.fallbacks
