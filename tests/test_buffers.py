"""Buffers keep their addresses while shapes stay, and forget when they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tap_ext import reference
from tap_ext.buffers import NOTHING, Candidates, Remembered, Stack, alike
from tap_ext.history import Log
from tap_ext.predictors import Newton, Reuse, Rows, Taylor, gaps, rows

SHAPE = (2, 5, 8)
FAMILY = (Newton(1), Reuse())


def _feature(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def _push(stack: Stack, feature: Tensor, position: float, minus: Tensor | None = None) -> None:
    stack.fit(feature)
    stack.aim(position)
    stack.update(feature, minus)


def _filled(*positions: float) -> Stack:
    stack = Stack(3)
    for seed, position in enumerate(positions):
        _push(stack, _feature(seed), position)
    return stack


def test_a_stack_holds_divided_differences_of_what_was_pushed() -> None:
    stack, expected, past = Stack(3), torch.empty(3, *SHAPE), ()
    for seed, position in enumerate((0.0, 1.0, 3.0, 3.5)):
        minus = _feature(seed + 10) if seed % 2 else None
        _push(stack, _feature(seed), position, minus)
        past = (position, *past)[:3]
        distances = torch.tensor(gaps(past, 3), dtype=torch.float32)
        reference.stack_update_(expected, _feature(seed), distances, minus)
    torch.testing.assert_close(stack.planes, expected)
    assert stack.past == (3.5, 3.0, 1.0)


def test_a_feature_of_another_shape_begins_a_history_anew() -> None:
    stack = _filled(0.0, 1.0)
    address = stack.planes.data_ptr()
    stack.fit(_feature(0))
    assert (stack.past, stack.planes.data_ptr()) == ((1.0, 0.0), address)
    stack.fit(_feature(0, 2, 6, 8))
    assert stack.past == () and stack.planes.shape == (3, 2, 6, 8)
    stack.fit(_feature(0, 2, 6, 8).half())
    assert stack.planes.dtype == torch.float16


def test_what_is_cleared_has_nothing_to_hand_over() -> None:
    stack = _filled(0.0, 1.0)
    stack.clear()
    assert stack.past == () and stack.planes is not None
    for device in (None, "cpu"):
        assert stack.detach(device) == Remembered(None, ())
    assert stack.planes is not None  # for the next run


@pytest.mark.parametrize("place", [None, "cpu"])
def test_what_is_handed_over_is_not_kept(place: str | None) -> None:
    stack = _filled(0.0, 1.0)
    planes = stack.planes.clone()
    kept = stack.detach(place)
    assert torch.equal(kept.planes, planes) and kept.past == (1.0, 0.0)
    assert stack.past == () and stack.detach(None).planes is None


@pytest.mark.parametrize("place", [None, "cpu", torch.device("cpu")])
@pytest.mark.parametrize("other", ["same", "shape", "dtype", "empty"])
def test_a_history_is_copied_into_the_buffer_that_fits(place: Any, other: str) -> None:
    kept = _filled(0.0, 1.0).detach(None)
    stack = Stack(3)
    if other != "empty":
        feature = _feature(5, 2, 6, 8) if other == "shape" else _feature(5)
        _push(stack, feature.half() if other == "dtype" else feature, 7.0)
    address = None if stack.planes is None else stack.planes.data_ptr()
    stack.attach(kept, place)
    assert torch.equal(stack.planes, kept.planes) and stack.planes.dtype == torch.float32
    assert stack.past == (1.0, 0.0)
    assert stack.planes.data_ptr() != kept.planes.data_ptr()
    assert (stack.planes.data_ptr() == address) is (other == "same")


def test_a_history_can_be_put_elsewhere_than_the_buffer_at_hand() -> None:
    kept = _filled(0.0, 1.0).detach(None)
    stack = _filled(4.0)
    stack.attach(kept, "meta")
    assert stack.planes.device.type == "meta" and stack.past == (1.0, 0.0)


def test_what_is_remembered_moves_where_there_is_something() -> None:
    empty = Remembered(None, (1.0,))
    assert empty.to("meta") is empty
    moved = _filled(0.0).detach(None).to("meta")
    assert moved.planes.device.type == "meta" and moved.past == (0.0,)


def _aim(
    candidates: Candidates, table: Rows, unit: float = 1.0, device: str = "cpu", **more: Any
) -> None:
    where = table.difference.tobytes(), unit
    given = candidates.aim(where, lambda: (table, unit), torch.device(device), **more)
    assert given is table or np.array_equal(given.difference, table.difference)


def _aimed() -> Candidates:
    candidates = Candidates(FAMILY, 3)
    _aim(candidates, rows(FAMILY, (1.0, 0.0), 2.0, 3))
    return candidates


def test_choices_are_counted_by_predictor() -> None:
    candidates = _aimed()
    index = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.int32)
    table = rows(FAMILY, (1.0, 0.0), 2.0, 3)
    for times in (1, 2):
        candidates.count(index)
        expected = np.zeros(2, dtype=int)
        np.add.at(expected, np.array(table.source)[index.numpy().ravel()], times)
        assert candidates.counts.tolist() == expected.tolist()
    assert candidates.clear().tolist() == expected.tolist()
    assert candidates.counts.tolist() == [0, 0]


def test_rows_that_coincide_are_filled_up_by_the_first() -> None:
    candidates = Candidates(FAMILY, 3)
    assert candidates.clear() is None
    _aim(candidates, rows(FAMILY, (1.0,), 2.0, 3))
    assert candidates.weights.tolist() == [[1, 0, 0], [1, 0, 0]]
    candidates.count(torch.ones(1, 3, dtype=torch.int32))
    assert candidates.counts.sum() == 3 and candidates.counts.count_nonzero() == 1


@pytest.mark.parametrize("unit", [0.5, 2.0])
def test_weights_are_brought_to_the_unit_of_the_positions(unit: float) -> None:
    candidates, table = Candidates(FAMILY, 3), rows(FAMILY, (1.0, 0.0), 2.0, 3)
    _aim(candidates, table, unit)
    expected = table.difference * [1, unit, unit**2]
    np.testing.assert_allclose(candidates.weights.numpy(), expected)


def test_a_count_goes_on_in_the_buffer_at_hand() -> None:
    candidates, counts = _aimed(), torch.tensor([3, 4])
    address = candidates.counts.data_ptr()
    assert candidates.resume(counts, torch.device("cpu")).tolist() == [3, 4]
    assert candidates.counts.data_ptr() == address != counts.data_ptr()
    fresh = Candidates(FAMILY, 3)
    assert fresh.resume(counts, torch.device("cpu")).tolist() == [3, 4]
    assert fresh.weights.shape == (2, 3)
    moved = candidates.resume(counts, torch.device("meta"))
    assert moved.device.type == "meta"


def test_rows_move_with_their_device() -> None:
    candidates = _aimed()
    address = candidates.weights.data_ptr()
    _aim(candidates, rows(FAMILY, (2.0, 1.0), 3.0, 3))
    assert candidates.weights.data_ptr() == address
    _aim(candidates, rows(FAMILY, (2.0, 1.0), 3.0, 3), device="meta")
    assert candidates.weights.device.type == "meta"


def test_buffers_can_be_written_to_outside_inference_mode() -> None:
    stack, candidates = Stack(3), Candidates(FAMILY, 3)
    with torch.inference_mode():
        _push(stack, _feature(0), 0.0)
        _aim(candidates, rows(FAMILY, (1.0, 0.0), 2.0, 3))
    for buffer in (stack.planes, candidates.weights, candidates.counts):
        assert not buffer.is_inference()


def test_alike() -> None:
    assert alike(_feature(0), _feature(1))
    for other in (_feature(0, 2, 5, 9), _feature(0).half(), _feature(0).to("meta")):
        assert not alike(_feature(0), other)


def test_a_log_without_skip_steps_chose_nothing() -> None:
    assert Log(FAMILY).chosen() == {}
    counted = Log(FAMILY, counts=torch.tensor([0, 5]))
    assert counted.chosen() == {str(Reuse()): 5}
    with pytest.raises(ValueError, match="shorter"):
        Log(FAMILY, counts=torch.tensor([1])).chosen()


def test_rows_are_sent_once_and_not_without_end() -> None:
    family = (Taylor(1), Reuse())
    candidates = Candidates(family, 2)
    tables = [rows(family, (1.0, 0.0), 2.0 + step, 2) for step in range(300)]
    sizes = []
    for table in tables:
        _aim(candidates, table)
        assert candidates.weights is not None
        torch.testing.assert_close(
            candidates.weights, torch.from_numpy(table.difference).float(), rtol=0, atol=0
        )
        sizes.append(len(candidates._uploads))
    assert sizes[:3] == [1, 2, 3]
    assert max(sizes) == 256
    sent = [kept[1] for kept in candidates._uploads._kept.values()]
    _aim(candidates, tables[-1])
    assert all(a is b[1] for a, b in zip(sent, candidates._uploads._kept.values(), strict=True))
    _aim(candidates, tables[-1], 0.5)  # another unit is another matter
    _aim(candidates, tables[-1], counted=False)
    assert len(candidates._uploads) == len(sent) + 2
    _aim(candidates, tables[-1], device="meta")
    assert [kept[1].device.type for kept in candidates._uploads._kept.values()] == ["meta"]


def test_what_lies_beside_is_sent_with_the_rows() -> None:
    candidates, table = Candidates(FAMILY, 3), rows(FAMILY, (1.0, 0.0), 2.0, 3)
    _aim(candidates, table)
    assert candidates.beside.tolist() == list(NOTHING)
    address = candidates.beside.data_ptr()
    for beside in ((1.0, 0.1, -7.5), (0.0, 0.1, -7.5)):
        _aim(candidates, table, beside=beside)
        assert torch.equal(candidates.beside, torch.tensor(beside))
        assert candidates.beside.data_ptr() == address
        np.testing.assert_array_equal(candidates.weights.numpy(), table.difference)
    candidates.count(torch.ones(1, 4, dtype=torch.int32))
    assert candidates.counts.sum() == 4
