"""The ops as citizens of torch: schemas, opcheck, compile, modes, threads."""

from __future__ import annotations

import warnings
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


def split(name: str, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, as the schema has them."""
    keyword = {"index", "distance"} if name == "select_out" else set()
    args = tuple(v for k, v in given.items() if k not in keyword)
    return args, {k: v for k, v in given.items() if k in keyword}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_opcheck(device: str, name: str, dtype: torch.dtype) -> None:
    given = {k: v.to(device) for k, v in arguments(name, SIZES, dtype).items()}
    args, kwargs = split(name, given)
    torch.library.opcheck(overload(name), args, kwargs)


def test_opcheck_without_optional_arguments(device: str) -> None:
    optionals = {"stack_update_": "minus", "gather_rows": "base", "skip_step_": "hidden"}
    for name, optional in optionals.items():
        given = {k: v.to(device) for k, v in arguments(name, SIZES).items()}
        torch.library.opcheck(overload(name), *split(name, given | {optional: None}))


def results(name: str, given: dict[str, Any]) -> list[Any]:
    """All that the op returns or writes; its arguments stay as they are."""
    copies = {k: v.clone() for k, v in given.items()}
    result = getattr(ops, name)(**copies)
    return [*copies.values(), *(result if isinstance(result, tuple) else [result])]


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
    fake = getattr(ops, name)(**{k: v.to("meta") for k, v in given.items()})
    real, fake = (x if isinstance(x, tuple) else (x,) for x in (real, fake))
    for r, f in zip(real, fake, strict=True):
        if r is not None:
            assert (f.shape, f.dtype, f.stride()) == (r.shape, r.dtype, r.stride())
            assert f.is_meta


def long_arguments(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Enough tokens for more than one thread to be worth it."""
    return arguments(name, Sizes(B=2, N=300, D=333, S=3, M=4), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_the_number_of_threads_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    given = long_arguments(name, dtype)
    expected = results(name, given)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(results(name, given), expected)
        assert_same(results(name, given), expected)  # nor does running it twice
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPS)
def test_a_batch_row_does_not_depend_on_its_neighbours(name: str, dtype: torch.dtype) -> None:
    given = long_arguments(name, dtype)
    together = results(name, given)

    def alone(key: str, value: Tensor, row: int) -> Tensor:
        if key in ("rows", "gaps"):
            return value
        return value[:, row : row + 1] if value.dim() == 4 else value[row : row + 1]

    for row in range(2):
        expected = results(name, {k: alone(k, v, row) for k, v in given.items()})
        names = [*given, *("result" for _ in expected[len(given) :])]
        actual = [
            None if value is None else alone(key, value, row)
            for key, value in zip(names, together, strict=True)
        ]
        assert_same(actual, expected)


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


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["skip_step_", "modulated_skip_step_"])
def test_a_skip_step_is_captured_and_replayed(name: str) -> None:
    """In a CUDA graph, on its own stream: no allocation, no synchronisation, no host memory."""
    given = {k: v.cuda() for k, v in arguments(name, SIZES).items()}
    op = getattr(ops, name)
    op(**given)
    expected = given["out"].clone(), given["index"].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        op(**given)
    given["out"].fill_(torch.nan)
    given["index"].fill_(-1)
    graph.replay()
    torch.cuda.synchronize()
    assert_same([given["out"], given["index"]], list(expected))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["skip_step_", "modulated_skip_step_"])
def test_runs_on_the_current_stream(name: str) -> None:
    given = {k: v.cuda() for k, v in arguments(name, SIZES).items()}
    op = getattr(ops, name)
    expected = torch.empty_like(given["out"])
    op(**given | {"out": expected})
    stream = torch.cuda.Stream()
    hidden = given["hidden"].clone()
    given["hidden"].zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        given["hidden"].copy_(hidden)
        op(**given)
    stream.synchronize()
    assert torch.equal(given["out"], expected)
