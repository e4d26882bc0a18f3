"""What others wrap around a transformer, before and after it is accelerated."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accelerate.hooks
import diffusers.hooks
import pytest
import torch
from diffusers import FluxPipeline

import tap_ext
from tap_ext.integrations.diffusers import find_engine
from tests.pipelines.builders import (
    CLOSE,
    FULL,
    SKIP,
    STEPS,
    WINDOWED,
    accelerated,
    build,
    error,
    expected,
    generate,
    make_vae,
    marks,
    steps,
    untouched,
)
from tests.versions import DIFFUSERS_VERSION

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


class _AccelerateHook(accelerate.hooks.ModelHook):
    """Counts the calls it wraps."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class _DiffusersHook(diffusers.hooks.ModelHook):
    """Counts the calls it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class _ForwardHook(diffusers.hooks.ModelHook):
    """Counts the calls that it makes itself, in place of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.fn_ref.original_forward(*args, **kwargs)


def _add_accelerate(pipe: Any) -> Any:
    hook = _AccelerateHook()
    accelerate.hooks.add_hook_to_module(pipe.transformer, hook)
    return hook


def _remove_accelerate(pipe: Any) -> None:
    accelerate.hooks.remove_hook_from_module(pipe.transformer)


def _add_diffusers(kind: type[Any], name: str) -> Callable[[Any], Any]:
    def add(pipe: Any) -> Any:
        hook = kind()
        registry = diffusers.hooks.HookRegistry.check_if_exists_or_initialize(pipe.transformer)
        registry.register_hook(hook, name)
        return hook

    return add


def _remove_diffusers(name: str) -> Callable[[Any], None]:
    return lambda pipe: pipe.transformer._diffusers_hook.remove_hook(name)


@dataclass(frozen=True)
class Wrapper:
    """Something that is put around a transformer's forward and taken away again."""

    name: str
    add: Callable[[Any], Any]
    remove: Callable[[Any], None]


ACCELERATE = Wrapper("accelerate", _add_accelerate, _remove_accelerate)
DIFFUSERS = Wrapper("diffusers", _add_diffusers(_DiffusersHook, "one"), _remove_diffusers("one"))
FORWARD = Wrapper("forward", _add_diffusers(_ForwardHook, "two"), _remove_diffusers("two"))

wrappers = pytest.mark.parametrize(
    "wrapper", [ACCELERATE, DIFFUSERS, FORWARD], ids=lambda wrapper: wrapper.name
)


@pytest.fixture(params=["before", "after"])
def wrapped(request: pytest.FixtureRequest, wrapper: Wrapper) -> tuple[Any, Any]:
    """A pipeline wrapped before or after it was accelerated, and the hook."""
    if request.param == "before":
        pipe = build()
        hook = wrapper.add(pipe)
        return tap_ext.accelerate(pipe, **WINDOWED), hook
    pipe = accelerated()
    return pipe, wrapper.add(pipe)


@wrappers
class TestWrapper:
    def test_it_is_accelerated_and_the_wrapper_sees_every_step(
        self, wrapped: tuple[Any, Any]
    ) -> None:
        pipe, hook = wrapped
        assert torch.equal(generate(pipe), expected())
        assert steps(pipe) == [(FULL, SKIP)]
        assert hook.calls == STEPS

    def test_it_stays_accelerated_without_the_wrapper(
        self, wrapped: tuple[Any, Any], wrapper: Wrapper
    ) -> None:
        pipe, hook = wrapped
        wrapper.remove(pipe)
        assert torch.equal(generate(pipe), expected())
        assert steps(pipe) == [(FULL, SKIP)]
        assert hook.calls == 0

    def test_restore_leaves_the_wrapper(self, wrapped: tuple[Any, Any]) -> None:
        pipe, hook = wrapped
        tap_ext.restore(pipe)
        assert torch.equal(generate(pipe), untouched())
        assert hook.calls == STEPS

    def test_restored_and_unwrapped_nothing_is_left(
        self, wrapped: tuple[Any, Any], wrapper: Wrapper
    ) -> None:
        never, (pipe, _) = build(), wrapped
        wrapper.add(never)
        generate(never)
        generate(pipe)
        tap_ext.restore(pipe)
        assert marks(pipe) == marks(never)
        wrapper.remove(never)
        wrapper.remove(pipe)
        assert marks(pipe) == marks(never)
        assert torch.equal(generate(pipe), untouched())

    def test_unwrapped_and_restored_nothing_is_left(
        self, wrapped: tuple[Any, Any], wrapper: Wrapper
    ) -> None:
        pipe, _ = wrapped
        wrapper.remove(pipe)
        tap_ext.restore(pipe)
        assert torch.equal(generate(pipe), untouched())
        assert "forward" not in vars(pipe.transformer)

    def test_a_second_accelerate_adds_no_second_engine(self, wrapped: tuple[Any, Any]) -> None:
        pipe, _ = wrapped
        tap_ext.accelerate(pipe, **WINDOWED)
        assert torch.equal(generate(pipe), expected())
        assert tap_ext.stats(pipe).models[0].runs == 1
        tap_ext.restore(pipe)
        assert torch.equal(generate(pipe), untouched())

    def test_restore_frees_the_histories(self, wrapped: tuple[Any, Any]) -> None:
        pipe, _ = wrapped
        generate(pipe)
        engine = weakref.ref(find_engine(pipe.transformer))
        tap_ext.restore(pipe)
        gc.collect()
        assert engine() is None


@pytest.mark.parametrize(
    "before, after",
    [(ACCELERATE, DIFFUSERS), (DIFFUSERS, ACCELERATE), (DIFFUSERS, FORWARD), (FORWARD, DIFFUSERS)],
    ids=lambda wrapper: wrapper.name,
)
def test_one_wrapper_before_and_one_after(before: Wrapper, after: Wrapper) -> None:
    pipe = build()
    inner = before.add(pipe)
    tap_ext.accelerate(pipe, **WINDOWED)
    outer = after.add(pipe)
    assert torch.equal(generate(pipe), expected())
    assert (inner.calls, outer.calls) == (STEPS, STEPS)
    after.remove(pipe)
    before.remove(pipe)
    assert torch.equal(generate(pipe), expected())
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())


def test_the_inner_of_two_wrappers_can_go_first() -> None:
    other = Wrapper("other", _add_diffusers(_DiffusersHook, "two"), _remove_diffusers("two"))
    pipe = build()
    DIFFUSERS.add(pipe)
    tap_ext.accelerate(pipe, **WINDOWED)
    other.add(pipe)
    DIFFUSERS.remove(pipe)
    assert torch.equal(generate(pipe), expected())
    other.remove(pipe)
    assert torch.equal(generate(pipe), expected())
    assert steps(pipe) == [(FULL, SKIP)]


def test_restore_works_beneath_a_wrapper_that_nobody_knows() -> None:
    pipe = accelerated()
    inner = pipe.transformer.forward
    pipe.transformer.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert torch.equal(generate(pipe), expected())
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())


def test_a_forward_that_nobody_knows_is_refused_in_a_few_words() -> None:
    def other(model: Any, *args: Any, **kwargs: Any) -> Any:
        return type(model).forward(model, *args, **kwargs)

    pipe = build()
    pipe.transformer.forward = types.MethodType(other, pipe.transformer)
    with pytest.raises(ValueError, match="forward") as caught:
        tap_ext.accelerate(pipe)
    assert len(str(caught.value)) < 400
    assert type(pipe) is FluxPipeline


def test_torch_hooks_of_the_root_see_every_step() -> None:
    pipe, seen = accelerated(), []
    pipe.transformer.register_forward_pre_hook(lambda *_: seen.append("before"))
    pipe.transformer.register_forward_hook(lambda *_: seen.append("after"))
    assert torch.equal(generate(pipe), expected())
    assert seen == ["before", "after"] * STEPS


def offloaded(pipe: Any) -> Any:
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe


def in_groups(kind: str) -> Callable[[Any], Any]:
    def enable(pipe: Any) -> Any:
        cpu = torch.device("cpu")
        blocks = 1 if kind == "block_level" else None
        pipe.transformer.enable_group_offload(
            cpu, cpu, offload_type=kind, num_blocks_per_group=blocks
        )
        return pipe

    return enable


NO_GROUPS = pytest.mark.skipif(
    DIFFUSERS_VERSION < (0, 41) and not torch.accelerator.is_available(),
    reason="before diffusers 0.41, group offloading needs an accelerator",
)
OFFLOADS = pytest.mark.parametrize(
    "offload",
    [
        pytest.param(offloaded, id="model"),
        pytest.param(in_groups("leaf_level"), id="leaf groups", marks=NO_GROUPS),
        pytest.param(in_groups("block_level"), id="block groups", marks=NO_GROUPS),
    ],
)


@OFFLOADS
def test_offloading_before_acceleration(offload: Callable[[Any], Any]) -> None:
    pipe = tap_ext.accelerate(offload(build(vae=make_vae())), **WINDOWED)
    for _ in range(2):
        assert torch.equal(generate(pipe), expected())
    assert steps(pipe) == [(FULL, SKIP)]


@OFFLOADS
def test_offloading_after_acceleration(offload: Callable[[Any], Any]) -> None:
    pipe = offload(accelerated(vae=make_vae()))
    for _ in range(2):
        assert torch.equal(generate(pipe), expected())
    assert steps(pipe) == [(FULL, SKIP)]


@OFFLOADS
def test_restore_while_offloading(offload: Callable[[Any], Any]) -> None:
    pipe = offload(accelerated(vae=make_vae()))
    generate(pipe)
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())


def test_model_offloading_that_ends_leaves_the_pipeline_accelerated() -> None:
    pipe = offloaded(accelerated(vae=make_vae()))
    generate(pipe)
    pipe.remove_all_hooks()
    assert torch.equal(generate(pipe), expected())
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), untouched())


def cast(pipe: Any) -> Any:
    pipe.transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    return pipe


def test_layerwise_casting_before_and_after_acceleration_are_the_same() -> None:
    before = generate(tap_ext.accelerate(cast(build()), **WINDOWED))
    pipe = cast(accelerated())
    assert torch.equal(generate(pipe), before)
    assert steps(pipe) == [(FULL, SKIP)]
    assert 0 < error(before, generate(cast(build()))) < CLOSE


def test_layerwise_casting_leaves_full_steps_untouched() -> None:
    pipe = cast(tap_ext.accelerate(build(), warmup=STEPS))
    assert torch.equal(generate(pipe), generate(cast(build())))
