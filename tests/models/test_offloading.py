"""Weights that are at hand only while the module is called that they belong to.

As on a device with its weights on the host, without a device: elsewhere they have no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

import tap_ext
from tap_ext.backbones import find_spec
from tests.models import MODELS
from tests.models.base import Tiny, build
from tests.models.offloaded import assert_same_steps

pytestmark = pytest.mark.filterwarnings("error:tap_ext")

STEPS = 5
"""The last two are skipped."""


class _Fetch(ModelHook):
    """What diffusers' group offloading does, from a device where nothing has values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.group = self
        self.modules, self.parameters, self.buffers = [module], [], []
        self.stream, self.offload_device = None, torch.device("meta")
        self._own = [
            (part, name, parameter)
            for part in module.modules()
            for name, parameter in part._parameters.items()
            if parameter is not None
        ]
        self.offload_()

    def onload_(self) -> None:
        for part, name, parameter in self._own:
            part._parameters[name] = parameter

    def offload_(self) -> None:
        for part, name, parameter in self._own:
            part._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.onload_()
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.offload_()
        return output


def by_blocks(model: nn.Module) -> None:
    """diffusers' ``enable_group_offload(offload_type="block_level")``."""
    spec = find_spec(model)
    assert spec is not None
    for blocks in (*spec.blocks, *spec.bypassed):
        for block in model.get_submodule(blocks.path).children():
            registry = HookRegistry.check_if_exists_or_initialize(block)
            registry.register_hook(_Fetch(block), "group_offloading")


def by_modules(model: nn.Module) -> None:
    """diffusers' ``enable_sequential_cpu_offload()``."""
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def _away(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.is_meta}


@pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
@pytest.mark.parametrize("offload", [by_blocks, by_modules], ids=lambda function: function.__name__)
def test_offloaded_models_skip_the_same_steps(
    tiny: Tiny, offload: Callable[[nn.Module], None]
) -> None:
    model, away = tap_ext.accelerate(build(tiny), window=3), set()

    def noting(module: nn.Module) -> None:
        offload(module)
        away.update(_away(module))

    assert_same_steps(tiny, STEPS, model, noting, tried=1)
    assert _away(model) == away != set()
