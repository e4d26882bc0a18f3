"""What the ops refuse, and that they say which argument, what they expected and what they got."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.data import OPS, Sizes, arguments

SIZES = Sizes(B=2, N=5, D=6, S=3, M=4)

FEATURES = {
    "stack_update_": ("feature", "minus"),
    "predict": (),
    "cosine_argmin": ("target",),
    "gather_rows": ("base",),
    "select": ("target",),
    "select_out": ("target",),
    "skip_step_": ("probe", "hidden", "out"),
    "modulated_skip_step_": ("hidden", "out"),
}
STACKS = {
    "cosine_argmin": ("candidates",),
    "skip_step_": ("probe_stack", "residual_stack"),
    "modulated_skip_step_": ("probe_stack",),
}
PER_TOKEN = {
    "gather_rows": ("index",),
    "select_out": ("index", "distance"),
    "skip_step_": ("index",),
    "modulated_skip_step_": ("index",),
}


def of(table: dict[str, tuple[str, ...]], default: tuple[str, ...] = ()) -> list[Any]:
    """(op, argument) pairs."""
    pairs = [(op, name) for op in OPS for name in table.get(op, default)]
    return [pytest.param(op, name, id=f"{op}-{name}") for op, name in pairs]


ALL_STACKS = of(STACKS, ("stack",))
WITH_ROWS = of({op: ("rows",) for op in OPS if op not in ("stack_update_", "cosine_argmin")})


def refuses(
    module: ModuleType,
    op: str,
    argument: str,
    bad: Any,
    sentence: str,
    error: type[Exception] = RuntimeError,
) -> None:
    """Calling ``op`` with a bad argument raises the sentence, and writes nothing."""
    given = arguments(op, SIZES)
    before = {k: v.clone() for k, v in given.items() if isinstance(v, Tensor)}
    name = "select" if op == "select_out" else op
    with pytest.raises(error, match=re.escape(f"tap_ext::{name}: {argument} must {sentence}")):
        getattr(module, op)(**given | {argument: bad})
    for key, value in before.items():
        assert torch.equal(given[key], value), key


@pytest.mark.parametrize("name", OPS)
def test_the_arguments_that_the_rest_of_this_file_spoils_are_valid(
    op: ModuleType, name: str
) -> None:
    getattr(op, name)(**arguments(name, SIZES))


@pytest.mark.parametrize(("name", "argument"), of(FEATURES))
def test_features(op: ModuleType, name: str, argument: str) -> None:
    stack = {"candidates", "stack", "residual_stack"} & arguments(name, SIZES).keys()
    of_probe = argument == "probe" or name == "modulated_skip_step_"
    like = "probe_stack" if of_probe else stack.pop()

    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, name, argument, bad, sentence)

    good = torch.zeros(2, 5, 6)
    for shape in [(5, 6), (1, 5, 6), (2, 4, 6), (2, 5, 7), (2, 5, 6, 1)]:
        refuse(torch.zeros(shape), f"have shape (2, 5, 6) to match {like}, got {shape}")
    refuse(good.half(), f"be float32 to match {like}, got float16")
    refuse(good.long(), f"be float32 to match {like}, got int64")
    transposed = torch.zeros(2, 6, 5).transpose(1, 2)
    refuse(transposed, "have a contiguous last axis, got strides (30, 1, 5)")
    refuse(good.to("meta"), f"be on cpu to match {like}, got meta")


@pytest.mark.parametrize(("name", "argument"), ALL_STACKS)
def test_stacks(op: ModuleType, name: str, argument: str) -> None:
    letter = "M" if argument == "candidates" else "S"
    expected = f"have shape ({letter}, B, N, D) with {letter} >= 1 and D >= 1"

    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, name, argument, bad, sentence)

    for shape in [(2, 5, 6), (0, 2, 5, 6), (3, 2, 5, 0), (3, 2, 5, 6, 1)]:
        refuse(torch.zeros(shape), f"{expected}, got {shape}")
    count = SIZES.M if argument == "candidates" else SIZES.S
    refuse(torch.zeros(count, 2, 5, 6).int(), "be float32, bfloat16 or float16, got int32")
    strided = torch.zeros(count, 2, 5, 12)[..., ::2]
    refuse(strided, "have a contiguous last axis, got strides (120, 60, 12, 2)")


@pytest.mark.parametrize(("name", "argument"), of(PER_TOKEN))
def test_values_per_token(op: ModuleType, name: str, argument: str) -> None:
    like = {"skip_step_": "residual_stack", "modulated_skip_step_": "probe_stack"}.get(
        name, "stack"
    )
    dtype, other = torch.int32, torch.int64
    if argument == "distance":
        dtype, other = torch.float32, torch.float64
    text = str(dtype).removeprefix("torch.")

    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, name, argument, bad, sentence)

    for shape in [(2,), (5, 2), (2, 5, 1)]:
        bad = torch.zeros(shape, dtype=dtype)
        refuse(bad, f"have shape (2, 5) to match {like}, got {shape}")
    got = str(other).removeprefix("torch.")
    refuse(torch.zeros(2, 5, dtype=other), f"be {text}, got {got}")
    refuse(torch.zeros(5, 2, dtype=dtype).t(), "be contiguous, got strides (1, 2)")


@pytest.mark.parametrize(("name", "argument"), WITH_ROWS)
def test_rows(op: ModuleType, name: str, argument: str) -> None:
    like = "probe_stack" if name.endswith("skip_step_") else "stack"

    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, name, argument, bad, sentence)

    for shape in [(4, 4), (0, 3), (12,), (4, 3, 1)]:
        refuse(torch.zeros(shape), f"have shape (M, 3) to match {like} with S=3, got {shape}")
    refuse(torch.zeros(4, 3).double(), "be float32, got float64")
    refuse(torch.zeros(3, 4).t(), "have a contiguous last axis, got strides (1, 4)")


def test_gaps(op: ModuleType) -> None:
    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, "stack_update_", "gaps", bad, sentence)

    for shape in [(3,), (1,), (2, 1), ()]:
        expected = f"have shape (2,) to match stack with S=3, got {shape}"
        refuse(torch.ones(shape), expected)
    refuse(torch.ones(2).double(), "be float32, got float64")
    refuse(torch.ones(4)[::2], "have a contiguous last axis, got strides (2,)")


def test_residual_stack_must_match_probe_stack(op: ModuleType) -> None:
    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, "skip_step_", "residual_stack", bad, sentence)

    for shape in [(2, 2, 5, 6), (3, 1, 5, 6), (3, 2, 4, 6)]:
        expected = f"have shape (3, 2, 5, 6) to match probe_stack, got {shape}"
        refuse(torch.zeros(shape), expected)
    refuse(torch.zeros(3, 2, 5, 6).half(), "be float32 to match probe_stack, got float16")


def test_residual_stack_must_be_as_probe_stack(op: ModuleType) -> None:
    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, "modulated_skip_step_", "residual_stack", bad, sentence)

    for shape in [(2, 2, 5, 6), (3, 2, 5, 7), (3, 2, 5)]:
        expected = f"have shape (3, 2, 5, 6) to match probe_stack, got {shape}"
        refuse(torch.zeros(shape), expected)
    refuse(torch.zeros(3, 2, 5, 6).half(), "be float32 to match probe_stack, got float16")
    strided = torch.zeros(3, 2, 5, 12)[..., ::2]
    refuse(strided, "have a contiguous last axis, got strides (120, 60, 12, 2)")


@pytest.mark.parametrize("argument", ["shift", "scale"])
def test_values_per_batch_row(op: ModuleType, argument: str) -> None:
    def refuse(bad: Tensor, sentence: str) -> None:
        refuses(op, "modulated_skip_step_", argument, bad, sentence)

    for shape in [(6,), (1, 6), (2, 5), (2, 1, 6)]:
        expected = f"have shape (2, 6) to match probe_stack, got {shape}"
        refuse(torch.zeros(shape), expected)
    refuse(torch.zeros(2, 6).half(), "be float32 to match probe_stack, got float16")
    refuse(torch.zeros(6, 2).t(), "have a contiguous last axis, got strides (1, 2)")
    refuse(torch.zeros(2, 6, device="meta"), "be on cpu to match probe_stack, got meta")


@pytest.mark.parametrize("eps", [-1e-3, float("inf"), float("-inf"), float("nan")])
def test_eps(op: ModuleType, eps: float) -> None:
    text = f"be finite and at least 0, got {eps:.6f}"
    refuses(op, "modulated_skip_step_", "eps", eps, text, ValueError)
    given = arguments("modulated_skip_step_", SIZES)
    with pytest.raises((ValueError, RuntimeError), match=re.escape(text)):
        torch.ops.tap_ext.modulated_skip_step_(**given, eps=eps)


def test_float64_is_for_the_reference_alone() -> None:
    from tap_ext import ops, reference

    given = {k: v.double() for k, v in arguments("select", SIZES).items()}
    given["rows"] = given["rows"].float()
    sentence = "tap_ext::select: stack must be float32, bfloat16 or float16, got float64"
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        ops.select(**given)
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        ops.select(**{k: v.to("meta") for k, v in given.items()})
    assert reference.select(**given)[1].dtype == torch.float64


@pytest.mark.parametrize("name", ["select", "select_out", "skip_step_", "modulated_skip_step_"])
def test_more_planes_than_can_be_scored(op: ModuleType, name: str) -> None:
    call = getattr(op, name)
    call(**arguments(name, Sizes(1, 2, 5, 16, 2)))
    with pytest.raises(RuntimeError, match=r"stack must have S <= 16 planes, got S=17"):
        call(**arguments(name, Sizes(1, 2, 5, 17, 2)))
    many = Sizes(1, 2, 5, 17, 2)
    op.predict(**arguments("predict", many))
    op.gather_rows(**arguments("gather_rows", many))
    op.stack_update_(**arguments("stack_update_", many))


@pytest.mark.parametrize("name", ["select", "select_out", "skip_step_", "modulated_skip_step_"])
def test_metrics_without_candidates(op: ModuleType, name: str) -> None:
    refuses(op, name, "metric", "Cosine", "be cosine or l2, got 'Cosine'", ValueError)
    remedy = "be cosine or l2, got 'l1'; use predict and cosine_argmin for l1"
    refuses(op, name, "metric", "l1", remedy, ValueError)


def test_metrics_of_candidates(op: ModuleType) -> None:
    sentence = "be cosine, l2 or l1, got 'cos'"
    refuses(op, "cosine_argmin", "metric", "cos", sentence, ValueError)


def test_metrics_below_the_typed_functions() -> None:
    given = arguments("select", SIZES)
    with pytest.raises((ValueError, RuntimeError), match=r"metric must be cosine or l2, got 'l1'"):
        torch.ops.tap_ext.select(**given, metric="l1")


@pytest.mark.parametrize("entry", [-1, 4, 2**31 - 1])
def test_index_out_of_range(op: ModuleType, entry: int) -> None:
    index = torch.zeros(2, 5, dtype=torch.int32)
    index[1, 3] = entry
    given = arguments("gather_rows", SIZES) | {"index": index}
    sentence = f"tap_ext::gather_rows: index must lie in [0, 4), got {entry} for token 8"
    with pytest.raises((IndexError, RuntimeError), match=re.escape(sentence)):
        op.gather_rows(**given)


@pytest.mark.parametrize("other", ["probe_stack", "probe", "residual_stack", "hidden"])
def test_out_must_not_share_memory(op: ModuleType, other: str) -> None:
    given = arguments("skip_step_", SIZES)
    source = given[other]
    given["out"] = source[1] if source.dim() == 4 else source
    sentence = f"tap_ext::skip_step_: out must not share memory with {other}, got overlapping"
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        op.skip_step_(**given)


@pytest.mark.parametrize("other", ["probe_stack", "hidden", "shift", "scale", "residual_stack"])
def test_out_must_not_share_memory_with_what_makes_the_probe(op: ModuleType, other: str) -> None:
    given = arguments("modulated_skip_step_", Sizes(B=1, N=1, D=6, S=3, M=4))
    given["out"] = given[other][:1].reshape(1, 1, 6)
    sentence = f"tap_ext::modulated_skip_step_: out must not share memory with {other}, got overl"
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        op.modulated_skip_step_(**given)


@pytest.mark.parametrize("other", ["feature", "minus"])
def test_stack_must_not_share_memory(op: ModuleType, other: str) -> None:
    given = arguments("stack_update_", SIZES)
    given[other] = given["stack"][1]
    sentence = f"tap_ext::stack_update_: stack must not share memory with {other}, got overlapping"
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        op.stack_update_(**given)


def test_what_is_written_must_not_overlap_itself(op: ModuleType) -> None:
    given = arguments("skip_step_", SIZES) | {"out": torch.zeros(1, 5, 6).expand(2, 5, 6)}
    with pytest.raises(RuntimeError, match=r"out must not overlap itself, got strides \(0, 6, 1\)"):
        op.skip_step_(**given)
    given = arguments("stack_update_", SIZES)
    given["stack"] = torch.zeros(3, 1, 5, 6).expand(3, 2, 5, 6)
    with pytest.raises(RuntimeError, match=r"stack must not overlap itself, got strides \(30, 0"):
        op.stack_update_(**given)


@pytest.mark.parametrize("name", OPS)
def test_empty_tensors_may_have_any_strides(op: ModuleType, name: str) -> None:
    """Of no elements none can overlap or lie apart, and torch itself makes strides of zero."""
    given = arguments(name, Sizes(B=2, N=0, D=6, S=3, M=4))
    per_batch = {k for k, v in given.items() if v.numel() == 0 and v.dim() > 2}
    empty = {k: torch.empty_strided(given[k].shape, [0] * given[k].dim()) for k in per_batch}
    getattr(op, name)(**given | empty)


@pytest.mark.parametrize("name", OPS)
def test_a_single_channel_is_contiguous_whatever_its_stride(op: ModuleType, name: str) -> None:
    given = arguments(name, Sizes(B=2, N=5, D=1, S=3, M=4))
    apart = {k: v.repeat_interleave(2, dim=-1)[..., ::2] for k, v in given.items() if v.dim() > 2}
    expected = {k: v.clone() for k, v in given.items()}
    result, wanted = getattr(op, name)(**given | apart), getattr(op, name)(**expected)
    torch.testing.assert_close(result, wanted, rtol=0, atol=0)
    for key, value in apart.items():
        assert value.stride(-1) == 2 and torch.equal(value, expected[key]), key


def test_neighbours_in_one_buffer_are_no_overlap(op: ModuleType) -> None:
    buffer = torch.zeros(2, 2, 5, 6)
    given = arguments("skip_step_", SIZES)
    expected = torch.zeros(2, 5, 6)
    op.skip_step_(**given | {"out": expected})
    buffer[1] = given["hidden"]
    op.skip_step_(**given | {"out": buffer[0], "hidden": buffer[1]})
    assert torch.equal(buffer[0], expected)


@pytest.mark.parametrize("name", OPS)
def test_meta_tensors_meet_the_same_checks(name: str) -> None:
    """Under torch.compile an error comes from the fake: one contract, one sentence."""
    from tap_ext import ops

    given = {k: v.to("meta") for k, v in arguments(name, SIZES).items()}
    getattr(ops, name)(**given)
    first = next(k for k in given if k not in ("out", "index"))
    bad = given | {first: torch.zeros(2, 5, 6, device="meta")}
    with pytest.raises(RuntimeError, match=rf"{first} must have shape \([SM], B, N, D\)"):
        getattr(ops, name)(**bad)


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "argument"), [*of(FEATURES), *WITH_ROWS, *of(PER_TOKEN)])
def test_tensors_on_another_device(name: str, argument: str) -> None:
    from tap_ext import ops

    given = {k: v.cuda() for k, v in arguments(name, SIZES).items()}
    given[argument] = given[argument].cpu()
    with pytest.raises(RuntimeError, match=rf"{argument} must be on cuda:0 .*, got cpu"):
        getattr(ops, name)(**given)
