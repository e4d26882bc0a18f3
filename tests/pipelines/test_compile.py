"""torch.compile around and inside an accelerated transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import tap_ext
from tests.pipelines.builders import (
    FULL,
    SKIP,
    WINDOWED,
    accelerated,
    build,
    error,
    expected,
    generate,
    steps,
)

CLOSE = 1e-5
"""Relative error, in norm, of a compiled run against the same run not compiled."""

KINDS = 2
"""Of the transformer's blocks: as many graphs are enough, however many blocks and steps there are.
One more would be a block compiled a second time."""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def _blocks(pipe: Any, backend: str) -> None:
    pipe.transformer.compile_repeated_blocks(backend=backend, fullgraph=True)


def _whole(pipe: Any, backend: Any, **settings: Any) -> None:
    pipe.transformer.compile(backend=backend, **settings)


def _wrapped(pipe: Any, backend: Any, **settings: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend=backend, **settings)


HOW = pytest.mark.parametrize("compile_it", [_blocks, _whole, _wrapped])


@HOW
@pytest.mark.parametrize("first", [True, False], ids=["compiled first", "accelerated first"])
def test_compiled_before_or_after(compile_it: Callable[[Any, str], None], first: bool) -> None:
    pipe = build()
    if first:
        compile_it(pipe, "eager")
    tap_ext.accelerate(pipe, **WINDOWED)
    if not first:
        compile_it(pipe, "eager")
    for _ in range(2):
        assert error(generate(pipe), expected()) <= CLOSE
    assert steps(pipe) == [(FULL, SKIP)]


@pytest.mark.parametrize("compile_it", [_whole, _wrapped])
@pytest.mark.parametrize("first", [True, False], ids=["compiled first", "accelerated first"])
def test_a_whole_without_breaks_becomes_its_blocks(
    compile_it: Callable[..., None], first: bool
) -> None:
    pipe = build()
    if first:
        compile_it(pipe, "eager", fullgraph=True)
    tap_ext.accelerate(pipe, **WINDOWED)
    if not first:
        compile_it(pipe, "eager", fullgraph=True)
    outside = pipe.transformer
    assert error(generate(pipe), expected()) <= CLOSE
    assert steps(pipe) == [(FULL, SKIP)]
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == KINDS
    (stats,) = tap_ext.stats(pipe).models
    assert stats.compiled_instead
    assert "its blocks are compiled instead" in tap_ext.explain(pipe)

    tap_ext.restore(pipe)
    assert pipe.transformer is outside
    counters.clear()
    assert error(generate(pipe), generate(build())) <= CLOSE
    assert counters["stats"]["unique_graphs"] == 1  # the whole again, in one


@pytest.mark.parametrize("compile_it", [_whole, _wrapped])
def test_blocks_are_compiled_as_the_whole_was(compile_it: Callable[..., None]) -> None:
    ran: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        ran.append(len(graph.graph.nodes))
        return graph.forward

    pipe = build()
    compile_it(pipe, backend)
    tap_ext.accelerate(pipe, compile=True, **WINDOWED)
    tap_ext.accelerate(pipe, compile=False, **WINDOWED)  # it is the user's own compilation
    generate(pipe)
    assert len(ran) == KINDS


def test_the_last_compilation_is_the_one_that_comes_back() -> None:
    pipe = tap_ext.accelerate(build(), **WINDOWED)
    for _ in range(2):
        _whole(pipe, "eager")
        last = pipe.transformer._compiled_call_impl
        generate(pipe)
        assert pipe.transformer._compiled_call_impl is None
    tap_ext.restore(pipe)
    assert pipe.transformer._compiled_call_impl is last


def test_what_must_not_be_compiled_is_left_alone() -> None:
    pipe = build()
    pipe.transformer = torch.compiler.disable(pipe.transformer)
    forward = pipe.transformer.forward
    tap_ext.accelerate(pipe, **WINDOWED)
    assert error(generate(pipe), expected()) == 0
    assert pipe.transformer.forward is forward
    assert not counters["stats"]


def test_a_bare_transformer_as_one_graph_says_what_to_do() -> None:
    """No pipeline's call comes before, to compile the blocks instead."""
    model = tap_ext.accelerate(build().transformer, **WINDOWED)
    model.compile(backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"compile=True\) or compile_repeated"):
        model(hidden_states=torch.zeros(1, 4, 16), timestep=torch.ones(1))
    tap_ext.accelerate(model, **WINDOWED)
    assert tap_ext.stats(model).models[0].compiled_instead


@pytest.mark.parametrize("make", [build, accelerated], ids=["untouched", "accelerated"])
def test_repeated_blocks_are_compiled_once_and_without_breaks(make: Callable[[], Any]) -> None:
    pipe = make()
    _blocks(pipe, "eager")
    generate(pipe, num_inference_steps=50)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == KINDS
    counters.clear()
    generate(pipe)
    assert not counters["stats"] and not counters["graph_break"]


def test_inductor_makes_the_same_picture() -> None:
    pipe = tap_ext.accelerate(build(), **WINDOWED)
    _blocks(pipe, "inductor")
    assert error(generate(pipe), expected()) <= CLOSE
    assert steps(pipe) == [(FULL, SKIP)]


def test_accelerate_compiles_the_blocks_and_restore_undoes_it() -> None:
    pipe = tap_ext.accelerate(build(), compile=True, **WINDOWED)
    generate(pipe, num_inference_steps=50)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == KINDS
    counters.clear()
    assert error(generate(pipe), expected()) <= CLOSE
    assert steps(pipe) == [(FULL, SKIP)]
    assert not counters["stats"] and not counters["graph_break"]
    tap_ext.restore(pipe)
    assert all(module._compiled_call_impl is None for module in pipe.transformer.modules())
    assert torch.equal(generate(pipe), generate(build()))


def test_what_the_user_compiled_stays_compiled() -> None:
    pipe = build()
    _blocks(pipe, "eager")
    tap_ext.accelerate(pipe, compile=True, **WINDOWED)
    generate(pipe)
    tap_ext.accelerate(pipe, compile=False, **WINDOWED)
    tap_ext.restore(pipe)
    blocks = (*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks)
    assert all(block._compiled_call_impl is not None for block in blocks)
