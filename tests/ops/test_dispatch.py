"""The ops as citizens of torch: schemas, opcheck, compile, modes, threads."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext import _library, ops
from tests.ops.data import OPS, Sizes, arguments, history

SIZES = Sizes(B=2, N=5, D=33, S=3, M=4)

SCHEMAS = {
    "stack_update_": "stack_update_(Tensor(a!) stack, Tensor feature, Tensor gaps,"
    " Tensor? minus=None) -> ()",
    "predict": "predict(Tensor stack, Tensor rows) -> Tensor",
    "cosine_argmin": 'cosine_argmin(Tensor candidates, Tensor target, str metric="cosine")'
    " -> (Tensor index, Tensor distance)",
    "gather_rows": "gather_rows(Tensor stack, Tensor rows, Tensor index, Tensor? base) -> Tensor",
    "select": 'select(Tensor stack, Tensor target, Tensor rows, str metric="cosine")'
    " -> (Tensor index, Tensor distance)",
    "select_out": 'select.out(Tensor stack, Tensor target, Tensor rows, str metric="cosine", *,'
    " Tensor(a!) index, Tensor(b!) distance) -> ()",
    "skip_step_": "skip_step_(Tensor(a!) out, Tensor(b!) index, Tensor probe_stack, Tensor probe,"
    ' Tensor residual_stack, Tensor? hidden, Tensor rows, str metric="cosine") -> ()',
    "modulated_skip_step_": "modulated_skip_step_(Tensor(a!) out, Tensor(b!) index,"
    " Tensor probe_stack, Tensor hidden, Tensor shift, Tensor scale, Tensor residual_stack,"
    ' Tensor rows, float eps=9.9999999999999995e-07, str metric="cosine", bool add=True) -> ()',
}


def overload(name: str) -> Any:
    """The torch op behind a typed function."""
    if name == "select_out":
        return torch.ops.tap_ext.select.out
    return getattr(torch.ops.tap_ext, name).default


@pytest.mark.parametrize("name", OPS)
def test_schema(name: str) -> None:
    assert str(overload(name)._schema) == f"tap_ext::{SCHEMAS[name]}"


def on(device: str, given: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(device) for k, v in given.items()}


def split(name: str, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, as the schema has them."""
    keyword = {"index", "distance"} if name == "select_out" else set()
    args = tuple(v for k, v in given.items() if k not in keyword)
    return args, {k: v for k, v in given.items() if k in keyword}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_opcheck(device: str, name: str, dtype: torch.dtype) -> None:
    given = on(device, arguments(name, SIZES, dtype))
    args, kwargs = split(name, given)
    torch.library.opcheck(overload(name), args, kwargs)


def test_opcheck_without_optional_arguments(device: str) -> None:
    optionals = {"stack_update_": "minus", "gather_rows": "base", "skip_step_": "hidden"}
    for name, optional in optionals.items():
        given = on(device, arguments(name, SIZES))
        torch.library.opcheck(overload(name), *split(name, given | {optional: None}))


def called(name: str, given: dict[str, Any]) -> list[Any]:
    """The arguments after the op, written or not, and what it returns."""
    result = getattr(ops, name)(**given)
    return [*given.values(), *(result if isinstance(result, tuple) else [result])]


def results(name: str, given: dict[str, Any]) -> list[Any]:
    """The same of copies; the arguments stay as they are."""
    return called(name, {k: v.clone() for k, v in given.items()})


def assert_same(actual: list[Any], expected: list[Any]) -> None:
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize("name", OPS)
def test_compiles_as_one_graph(name: str) -> None:
    given = arguments(name, SIZES)
    torch._dynamo.reset()
    compiled = torch.compile(results, fullgraph=True, backend="aot_eager")
    assert_same(compiled(name, given), results(name, given))


def test_compiles_for_any_number_of_tokens() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.select, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (7, 111, 5):
        h = history(Sizes(1, tokens, 33, 3, 4))
        inputs = h["stack"], h["target"], h["rows"]
        assert_same(list(compiled(*inputs)), list(ops.select(*inputs)))


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    """A full and a skip step together, generated code around the ops."""

    def steps(stack: Tensor, feature: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        stack = stack * 1.0
        ops.stack_update_(stack, feature * 2, torch.ones(2), feature)
        out = torch.empty_like(feature)
        index = torch.empty(feature.shape[:2], dtype=torch.int32)
        ops.skip_step_(out, index, stack, feature + 1, stack, feature, rows)
        return out * 2, index

    h = history(SIZES)
    inputs = h["stack"], h["target"], h["rows"]
    torch._dynamo.reset()
    out, index = torch.compile(steps, fullgraph=True)(*inputs)
    expected_out, expected_index = steps(*inputs)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(out, expected_out, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_in_every_mode(name: str, mode: Any) -> None:
    given = arguments(name, SIZES)
    expected = results(name, given)
    with mode():
        assert_same(results(name, given), expected)


def test_a_stack_born_in_inference_mode_may_be_used_outside(device: str) -> None:
    with torch.inference_mode():
        stack = torch.zeros(3, 1, 2, 4, device=device)
    feature = torch.ones(1, 2, 4, device=device)
    ops.stack_update_(stack, feature, torch.ones(2, device=device))
    assert (stack == 1).all()


def test_nothing_is_recorded_for_autograd() -> None:
    h = history(SIZES)
    ops.stack_update_(h["stack"], h["target"].requires_grad_(), torch.ones(2))
    assert not h["stack"].requires_grad


@pytest.mark.parametrize("name", OPS)
def test_meta_results_are_like_real_ones(name: str) -> None:
    given = arguments(name, SIZES, torch.bfloat16)
    real = getattr(ops, name)(**given)
    fake = getattr(ops, name)(**on("meta", given))
    real, fake = (x if isinstance(x, tuple) else (x,) for x in (real, fake))
    for r, f in zip(real, fake, strict=True):
        if r is not None:
            assert (f.shape, f.dtype, f.stride()) == (r.shape, r.dtype, r.stride())
            assert f.is_meta


def long_arguments(name: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Enough tokens for more than one thread to be worth it."""
    return on(device, arguments(name, Sizes(B=2, N=300, D=333, S=3, M=4), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_neither_repetition_nor_the_number_of_threads_changes_a_bit(
    device: str, name: str, dtype: torch.dtype
) -> None:
    given = long_arguments(name, dtype, device)
    expected = results(name, given)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(2):
            assert_same(results(name, given), expected)
    finally:
        torch.set_num_threads(threads)


def picked(
    given: dict[str, Any], values: list[Any], pick: Callable[[str, Tensor], Tensor]
) -> list[Any]:
    """``pick(key, value)`` of each of ``called(name, given)``."""
    names = [*given, *("result" for _ in values[len(given) :])]
    return [None if v is None else pick(k, v) for k, v in zip(names, values, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_a_batch_row_does_not_depend_on_its_neighbours(
    device: str, name: str, dtype: torch.dtype
) -> None:
    given = long_arguments(name, dtype, device)
    together = results(name, given)

    def alone(key: str, value: Tensor, row: int) -> Tensor:
        if key in ("rows", "gaps"):
            return value
        return value[:, row : row + 1] if value.dim() == 4 else value[row : row + 1]

    for row in range(2):
        pick = functools.partial(alone, row=row)
        expected = results(name, {k: pick(k, v) for k, v in given.items()})
        assert_same(picked(given, together, pick), expected)


TOKENS = 2**21 + 1
"""Of 1024 channels each: the last one lies beyond 2^31 elements, in every plane."""


@pytest.mark.cuda
@pytest.mark.xdist_group("memory")  # one at a time: a skip step takes 30 GB
@pytest.mark.parametrize("name", OPS)
def test_more_elements_than_an_int_counts(name: str) -> None:
    """After many tokens of zeros a token comes to what it does alone."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 2**35:
        pytest.skip("less than 32 GiB of the device's memory are free")
    given = on("cuda", arguments(name, Sizes(B=1, N=1, D=1024, S=2, M=2), torch.float16))
    expected = results(name, given)

    def axis(key: str, value: Tensor) -> int | None:
        """That of the tokens."""
        shared = key in ("rows", "gaps", "shift", "scale")
        return None if shared else 2 if value.dim() == 4 else 1

    def many(key: str, value: Tensor) -> Tensor:
        if (at := axis(key, value)) is None:
            return value
        longer = value.new_zeros((*value.shape[:at], TOKENS, *value.shape[at + 1 :]))
        longer.narrow(at, -1, 1).copy_(value)
        return longer

    def last(key: str, value: Tensor) -> Tensor:
        return value if (at := axis(key, value)) is None else value.narrow(at, -1, 1)

    made = called(name, {k: many(k, v) for k, v in given.items()})
    assert_same(picked(given, made, last), expected)


def test_kernels_of_devices_that_the_library_lacks() -> None:
    """They are the reference, announced once; on the CPU here, for want of such a device."""
    kernel = _library._fallback(
        next(op for op in _library.OPS if op.name == "select"), compiled=True
    )
    h = history(SIZES)
    _library._warn_no_kernels.cache_clear()
    with pytest.warns(UserWarning, match="has no cpu kernels"):
        actual = kernel(h["stack"], h["target"], h["rows"])
    assert_same(list(actual), list(_library.reference.select(h["stack"], h["target"], h["rows"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel(h["stack"], h["target"], h["rows"])


def unwritten(given: dict[str, Any]) -> dict[str, Any]:
    """What no right result comes of: an op that runs before it is filled shows."""
    return {
        k: torch.full_like(v, torch.nan if v.is_floating_point() else 0) for k, v in given.items()
    }


def fill(arguments: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        arguments[key].copy_(value)


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPS)
def test_runs_on_the_current_stream(name: str) -> None:
    given = on("cuda", arguments(name, SIZES))
    expected = results(name, given)
    late = unwritten(given)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        fill(late, given)
        made = called(name, late)
    stream.synchronize()
    assert_same(made, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPS)
def test_is_captured_and_replayed(name: str) -> None:
    """In a CUDA graph, on its own stream: no synchronisation, no memory of the host."""
    given = on("cuda", arguments(name, SIZES))
    expected = results(name, given)  # loads its kernels, which a capture may not
    late = unwritten(given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = called(name, late)
    for _ in range(2):
        fill(late, given)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(made, expected)
