"""select and cosine_argmin: the nearest candidate of every token, by regret."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.shapes import FLUX_1024
from tests.ops import oracle
from tests.ops.data import DTYPES, LAYOUTS, SIZES, Sizes, history, series, strided
from tests.tolerances import AGREEMENT, SMALL_DISTANCE

INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_select_has_no_regret(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, metric: str
) -> None:
    h = history(sizes, dtype, device)
    index, distance = op.select(h["stack"], h["target"], h["rows"], metric)
    assert distance.dtype == torch.float32
    exact = oracle.row_distances(h["stack"], h["target"], h["rows"], metric)
    exact.assert_chosen(index, distance)


@pytest.mark.parametrize("metric", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_cosine_argmin_has_no_regret(
    op: ModuleType, device: str, sizes: Sizes, dtype: torch.dtype, metric: str
) -> None:
    h = history(sizes, dtype, device)
    candidates = oracle.predict(h["stack"], h["rows"]).value
    stored = h["stack"].new_empty(candidates.shape).copy_(torch.from_numpy(candidates))
    index, distance = op.cosine_argmin(stored, h["target"], metric)
    assert distance.dtype == torch.float32
    oracle.distances(stored, h["target"], metric).assert_chosen(index, distance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target_layout", LAYOUTS)
def test_any_strides(op: ModuleType, device: str, layout: str, target_layout: str) -> None:
    h = history(Sizes(3, 7, 33, 3, 11), torch.bfloat16, device, layout=layout)
    target = strided(h["target"], target_layout)
    rows = h["rows"].repeat(1, 2)[:, :3]  # a slice: rows need not be next to one another
    index, distance = op.select(h["stack"], target, rows)
    oracle.row_distances(h["stack"], target, rows, "cosine").assert_chosen(index, distance)
    index, distance = op.cosine_argmin(h["stack"], target)  # the planes as candidates
    oracle.distances(h["stack"], target, "cosine").assert_chosen(index, distance)
    assert index.is_contiguous() and distance.is_contiguous()


def test_metric_defaults_to_cosine(op: ModuleType) -> None:
    h = history(Sizes(1, 7, 64, 3, 11))
    index, distance = op.select(h["stack"], h["target"], h["rows"])
    same_index, same_distance = op.select(h["stack"], h["target"], h["rows"], "cosine")
    assert torch.equal(index, same_index) and torch.equal(distance, same_distance)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_select_out_is_select(op: ModuleType, device: str, metric: str) -> None:
    h = history(Sizes(3, 7, 64, 3, 11), device=device)
    index = torch.full((3, 7), -1, dtype=torch.int32, device=device)
    distance = torch.full((3, 7), NAN, device=device)
    op.select_out(h["stack"], h["target"], h["rows"], metric, index=index, distance=distance)
    expected = op.select(h["stack"], h["target"], h["rows"], metric)
    assert torch.equal(index, expected[0]) and torch.equal(distance, expected[1])


def taylor(tokens: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stack over a smooth series, the series half a window later, rows of orders 0 to 2."""
    oldest, older, newest, target = series(tokens, channels, (0.0, 6.0, 12.0, 15.0))
    stack = torch.stack([newest, newest - older, newest - 2 * older + oldest])
    horizons = [u / 6 for u in (3.0, 2.0, 1.0, 4.0, 5.0)]  # the nominal one first
    rows = [[1.0, u, u * (u + 1) / 2] for u in horizons] + [[1.0, u, 0.0] for u in horizons]
    return stack, target, torch.tensor([*rows, [1.0, 0.0, 0.0]])


@pytest.fixture(scope="module", params=["cosine", "l2"])
def smooth(request: pytest.FixtureRequest) -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    """A metric, a series of the size of a real model, and its choices in float64."""
    stack, target, rows = taylor(FLUX_1024.N, FLUX_1024.D)
    nearest = [
        oracle.row_distances(planes, part, rows, request.param).value.argmin(-1)
        for planes, part in zip(stack.split(64, dim=2), target.split(64, dim=1), strict=True)
    ]
    return request.param, stack, target, rows, torch.from_numpy(np.concatenate(nearest, axis=1))


def test_agrees_with_float64_on_a_smooth_series(
    op: ModuleType, device: str, smooth: tuple[str, Tensor, Tensor, Tensor, Tensor]
) -> None:
    """Index by index at the size of a real model: what the difference form is for."""
    metric, stack, target, rows, nearest = smooth
    index, _ = op.select(stack.to(device), target.to(device), rows.to(device), metric)
    assert (index.cpu() == nearest).double().mean() >= AGREEMENT
    assert nearest.unique().numel() >= 4  # else agreement would prove little


@pytest.mark.parametrize("closeness", [1e-2, 1e-3, 1e-4])
def test_small_distances_keep_their_digits(op: ModuleType, device: str, closeness: float) -> None:
    """Where 1 - <u, v> / (|u| |v|) in float32 has none left: it is of order closeness squared."""
    h = history(Sizes(1, 111, 3072, 1, 1), device=device)
    target = h["stack"][0] * (1 + closeness * h["base"])
    for index, distance in (
        op.select(h["stack"], target, h["rows"]),
        op.cosine_argmin(h["stack"], target),
    ):
        exact = oracle.distances(h["stack"], target, "cosine")
        exact.assert_chosen(index, distance)
        relative = oracle.numbers(distance) / exact.value[..., 0] - 1
        assert np.abs(relative).max() < SMALL_DISTANCE


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_near_ties(op: ModuleType, device: str, dtype: torch.dtype, metric: str) -> None:
    """Rows that differ in their last bits: any of them may win, a far one may not."""
    h = history(Sizes(1, 111, 333, 3, 1), dtype, device)
    good = torch.tensor([[1.0, 0.1, 0.1]], device=device)
    bits = torch.arange(8.0, device=device).reshape(-1, 1) * 2.0**-22
    rows = torch.cat([good + 3, good * (1 + bits), good - 5])
    index, distance = op.select(h["stack"], h["target"], rows, metric)
    assert ((index >= 1) & (index <= 8)).all()
    oracle.row_distances(h["stack"], h["target"], rows, metric).assert_chosen(index, distance)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_ties_take_the_lowest_row(op: ModuleType, device: str, metric: str) -> None:
    h = history(Sizes(2, 7, 64, 3, 1), device=device)
    far, near = [1.0, 9.0, 9.0], [1.0, 0.2, 0.1]
    rows = torch.tensor([far, near, far, near, near], device=device)
    index, _ = op.select(h["stack"], h["target"], rows, metric)
    assert (index == 1).all()
    candidates = op.predict(h["stack"], rows)
    assert (op.cosine_argmin(candidates, h["target"], metric)[0] == 1).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_prediction_has_distance_zero(op: ModuleType, device: str, metric: str) -> None:
    h = history(Sizes(1, 7, 3072, 1, 1), device=device)
    rows = torch.tensor([[1.0], [0.5]], device=device)
    index, distance = op.select(h["stack"], h["stack"][0], rows, metric)
    assert (index == 0).all() and (distance == 0).all()
    index, distance = op.cosine_argmin(h["stack"], h["stack"][0], metric)
    assert (index == 0).all() and (distance == 0).all()


def test_distance_is_never_negative(op: ModuleType, device: str) -> None:
    """Parallel vectors, where both terms of the numerator are equal up to rounding."""
    target = history(Sizes(1, 111, 333, 1, 1), device=device)["target"]
    scales = torch.linspace(0.5, 2, 31, device=device).reshape(-1, 1)
    _, distance = op.select(target[None], target, scales)
    assert (distance >= 0).all() and (distance < 1e-6).all()
    for scale in scales:
        _, distance = op.select(target[None], target, scale[None])
        assert (distance >= 0).all() and (distance < 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_vectors(op: ModuleType, device: str, dtype: torch.dtype) -> None:
    """The cosine with a zero vector is 0; between two of them it is 1."""
    vector = history(Sizes(1, 1, 33, 1, 1), dtype, device)["target"]
    zero = torch.zeros_like(vector)
    rows = torch.ones(1, 1, device=device)
    for candidate, target, expected in [
        (zero, zero, 0.0),
        (zero, vector, 1.0),
        (vector, zero, 1.0),
        (vector, -vector, 2.0),
    ]:
        for _, distance in (
            op.select(candidate[None], target, rows),
            op.cosine_argmin(candidate[None], target),
        ):
            assert distance.item() == pytest.approx(expected, abs=1e-6)
    # A row of zeros is a zero candidate, whatever the planes.
    _, distance = op.select(vector[None], vector, 0 * rows)
    assert distance.item() == 1.0
    index, _ = op.select(vector[None], zero, torch.tensor([[1.0], [0.0]], device=device))
    assert index.item() == 1


@pytest.mark.parametrize("metric", ["cosine", "l2", "l1"])
def test_nan_never_wins(op: ModuleType, device: str, metric: str) -> None:
    """Not over infinity either; with NaN alone it is row 0 at distance NaN."""
    target = torch.ones(1, 4, 9, device=device)
    candidates = torch.ones(3, 1, 4, 9, device=device)
    candidates[0, 0, 0, 3] = NAN  # row 0 of token 0
    candidates[:2, 0, 1, 8] = NAN
    candidates[:, 0, 2, 0] = NAN
    index, distance = op.cosine_argmin(candidates, target, metric)
    assert index.tolist() == [[1, 2, 0, 0]]
    assert distance.isnan().tolist() == [[False, False, True, False]]

    big = torch.finfo(torch.float32).max
    candidates[0, 0, 3], candidates[1, 0, 3], candidates[2, 0, 3] = NAN, -big, NAN
    index, distance = op.cosine_argmin(candidates, target, "l2")
    assert index[0, 3] == 1 and distance[0, 3] == INF


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("where", ["stack", "target"])
def test_nan_stays_in_its_token(op: ModuleType, device: str, where: str, metric: str) -> None:
    h = history(Sizes(2, 5, 33, 3, 11), device=device)
    clean = op.select(h["stack"], h["target"], h["rows"], metric)
    h[where][..., 1, 2, 7] = NAN
    index, distance = op.select(h["stack"], h["target"], h["rows"], metric)
    touched = torch.zeros(2, 5, dtype=torch.bool, device=device)
    touched[1, 2] = True
    assert (index[touched] == 0).all() and distance[touched].isnan().all()
    assert torch.equal(index[~touched], clean[0][~touched])
    assert torch.equal(distance[~touched], clean[1][~touched])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_planes_of_weight_zero_do_not_score(op: ModuleType, device: str, metric: str) -> None:
    h = history(Sizes(1, 7, 33, 3, 1), device=device)
    h["stack"][1:] = NAN
    rows = torch.tensor([[1.0, 0.5, 0.1], [1.0, 0.0, 0.0], [0.8, 0.0, 0.0]], device=device)
    index, distance = op.select(h["stack"], h["target"], rows, metric)
    oracle.row_distances(h["stack"], h["target"], rows, metric).assert_chosen(index, distance)
    assert (index > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_storage_chooses_as_float32_does(
    op: ModuleType, device: str, dtype: torch.dtype
) -> None:
    """Storage is rounded, scores are not: same stored values, same choice."""
    stack, target, rows = (x.to(device) for x in taylor(111, 333))
    stack, target = stack.to(dtype), target.to(dtype)
    index, distance = op.select(stack, target, rows)
    same = op.select(stack.float(), target.float(), rows)
    assert torch.equal(index, same[0])
    torch.testing.assert_close(distance, same[1], rtol=1e-5, atol=1e-9)
