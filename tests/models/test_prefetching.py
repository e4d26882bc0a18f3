"""diffusers' group offloading with a stream, without one: what is away is empty, and what a stream
fetches is there when it has been waited for."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import diffusers
import diffusers.hooks.group_offloading as groups
import pytest
import torch
from torch import Tensor, nn

import tap_ext
from tests.models import MODELS
from tests.models.base import Tiny, build, inputs, sample
from tests.models.offloaded import assert_same_steps
from tests.versions import DIFFUSERS_VERSION

STEPS = 6
CPU = torch.device("cpu")


class _Stream:
    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, Tensor]] = []

    def fetch(self, tensor: Tensor, value: Tensor) -> None:
        self._pending.append((tensor, value.clone()))

    def synchronize(self) -> None:
        for tensor, value in self._pending:
            tensor.data = value
        self._pending.clear()


def _tensors(group: Any) -> list[Tensor]:
    inside = [t for module in group.modules for t in (*module.parameters(), *module.buffers())]
    return [*inside, *group.parameters, *group.buffers]


def _pre_forward(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """As in diffusers 0.42, where a device tells what is away."""
    group, following = hook.group, hook.next_group
    if group.onload_leader is None:
        group.onload_leader = module
    if group.onload_leader == module:
        weights = [p for m in group.modules for p in m.parameters()] + list(group.parameters)
        if group.onload_self:
            group.onload_()
        elif weights and not weights[0].numel():
            group.onload_()
            group.stream.synchronize()
        if following is not None and not following.onload_self:
            following.onload_()
        elif not group.onload_self and group.stream is not None:
            group.stream.synchronize()
    return args, kwargs


@pytest.fixture
def offload(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def onload(group: Any) -> None:
        if group.stream is not None:
            group.stream.synchronize()
        for tensor in _tensors(group):
            value = kept[id(tensor)][1]
            if group.stream is not None and group.non_blocking:  # after the first step
                group.stream.fetch(tensor, value)
            else:
                tensor.data = value.clone()

    def put_away(group: Any) -> None:
        for tensor in _tensors(group):
            kept.setdefault(id(tensor), (tensor, tensor.data.clone()))
            tensor.data = tensor.data.new_empty(0)

    monkeypatch.setattr(groups.ModuleGroup, "onload_", onload)
    monkeypatch.setattr(groups.ModuleGroup, "offload_", put_away)
    monkeypatch.setattr(groups.ModuleGroup, "_init_cpu_param_dict", lambda group: {})
    monkeypatch.setattr(groups.GroupOffloadingHook, "pre_forward", _pre_forward)

    def offload(model: Any, how: str) -> None:
        config = groups.GroupOffloadingConfig(
            onload_device=CPU,
            offload_device=CPU,
            offload_type=groups.GroupOffloadingType(how),
            non_blocking=False,
            record_stream=False,
            low_cpu_mem_usage=True,
            num_blocks_per_group=1,
            stream=_Stream(),
            block_modules=getattr(model, "_group_offload_block_modules", None),
            exclude_kwargs=getattr(model, "_skip_keys", None),
        )
        groups._apply_group_offloading(model, config)

    yield offload


@pytest.mark.skipif(DIFFUSERS_VERSION < (0, 37), reason="diffusers before 0.37 is refused")
@pytest.mark.filterwarnings("error:tap_ext")
@pytest.mark.parametrize("tiny", MODELS.values(), ids=str)
@pytest.mark.parametrize("how", ["leaf_level", "block_level"])
def test_prefetched_models_skip_the_same_steps(tiny: Tiny, how: str, offload: Any) -> None:
    model = tap_ext.accelerate(build(tiny), window=3)
    assert_same_steps(tiny, STEPS, model, functools.partial(offload, how=how), tried=2)


@pytest.mark.skipif(DIFFUSERS_VERSION < (0, 37), reason="diffusers before 0.37 is refused")
def test_a_model_that_was_prefetched_can_go(offload: Any) -> None:
    tiny = MODELS["FluxTransformer2DModel"]
    model = tap_ext.accelerate(build(tiny), window=3)
    offload(model, "leaf_level")
    sample(tiny, model, inputs(tiny), STEPS)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_what_cannot_fetch_out_of_order_is_refused(
    offload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = MODELS["FluxTransformer2DModel"]
    monkeypatch.setattr(diffusers, "__version__", "0.36.2")
    truth = sample(tiny, build(tiny), inputs(tiny), STEPS)
    model = tap_ext.accelerate(build(tiny), window=3)
    offload(model, "block_level")
    with pytest.warns(UserWarning, match="prefetches weights in the order of the first step alone"):
        found = sample(tiny, model, inputs(tiny), STEPS)
    assert all(map(torch.equal, found, truth)) and tap_ext.stats(model).skip == 0
