"""Predictors against closed forms, exact fractions and literal simulations of published code."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tap_ext.predictors import (
    MAX_HISTORY,
    AdamsBashforth,
    Chebyshev,
    FoCa,
    Function,
    Hermite,
    HiCache,
    Newton,
    Reuse,
    Taylor,
    TaylorSeer,
    as_predictor,
    candidates,
    gaps,
    rows,
    to_difference,
    to_raw,
    usable,
)

PROPERTY = settings(deadline=None, max_examples=40)

# Weights are sums of at most MAX_HISTORY products of ratios of gaps; the histories below keep these
# ratios under 50, so errors stay far below this part of the gain.
TOLERANCE = 1e-11

LINES = (
    Taylor(1),
    Taylor(2),
    TaylorSeer(2),
    TaylorSeer(3),
    Newton(1),
    Newton(3),
    Hermite(1, 4),
    Hermite(2, 5),
    AdamsBashforth(1),
    AdamsBashforth(3),
    FoCa(),
    HiCache(2, math.sqrt(0.5)),
    Chebyshev(2, ridge=0.0, points=5),
    Chebyshev(2, ridge=0.0, points=5, blend=0.5),
)
CONSTANTS = (
    *LINES,
    Reuse(),
    Taylor(2, 1.5),
    Taylor(3, -0.5),
    TaylorSeer(2, first_enhance=3),
    HiCache(3, 0.3),
)
QUADRATICS = (Newton(2), Newton(4), Hermite(2, 3), Hermite(2, 6), Hermite(3, 5))


def quarters(low: int, high: int) -> st.SearchStrategy[float]:
    """Multiples of 1/4, which float64 and its sums hold exactly."""
    return st.integers(4 * low, 4 * high).map(lambda n: n / 4)


@st.composite
def histories(draw: st.DrawFn, least: int = 1, most: int = 6) -> tuple[list[float], float]:
    """Strictly monotone positions, newest first, in either direction, and a target ahead."""
    steps = draw(st.lists(quarters(1, 12), min_size=least, max_size=most))
    direction = draw(st.sampled_from([1, -1]))
    past = [draw(quarters(-20, 20))]
    for step in steps[1:]:
        past.append(past[-1] - direction * step)
    return past, past[0] + direction * draw(quarters(0, 12))


def divided(past: list[float], values: list[Fraction]) -> list[Fraction]:
    """f[x_0], f[x_0, x_1], ... by the recursive definition, in exact arithmetic."""
    at = [Fraction(x) for x in past]
    table, first = list(values), [values[0]]
    for width in range(1, len(at)):
        table = [(table[i] - table[i + 1]) / (at[i] - at[i + width]) for i in range(len(table) - 1)]
        first.append(table[0])
    return first


def unit(index: int, count: int) -> list[Fraction]:
    return [Fraction(int(i == index)) for i in range(count)]


def forecast(predictor: object, past: list[float], target: float, f: Callable) -> float:
    weights = predictor.weights(past, target)
    return float(weights @ [f(x) for x in past])


def slack(predictor: object, past: list[float], target: float, f: Callable) -> float:
    weights = np.abs(predictor.weights(past, target))
    return TOLERANCE * float(1 + weights @ [abs(f(x)) for x in past])


def assert_exact(predictor: object, past: list[float], target: float, f: Callable) -> None:
    error = forecast(predictor, past, target, f) - f(target)
    assert abs(error) <= slack(predictor, past, target, f), predictor


# Exactness


@PROPERTY
@given(histories())
def test_rows_sum_to_one(history):
    past, target = history
    for predictor in CONSTANTS:
        weights = predictor.weights(past, target)
        assert weights.shape == (len(past),)
        assert abs(weights.sum() - 1) <= TOLERANCE * np.abs(weights).sum(), predictor


@PROPERTY
@given(histories(least=2))
def test_exact_on_lines(history):
    for predictor in LINES:
        assert_exact(predictor, *history, lambda x: 3 - 2 * x)


@PROPERTY
@given(histories(least=3))
def test_exact_on_quadratics(history):
    for predictor in QUADRATICS:
        assert_exact(predictor, *history, lambda x: 1 - 2 * x + 0.5 * x * x)


@PROPERTY
@given(st.data(), st.integers(0, MAX_HISTORY - 1))
def test_newton_is_exact_on_polynomials_of_its_degree(data, degree):
    past, target = data.draw(histories(degree + 1, MAX_HISTORY))
    # Centred on the target, so that the powers stay of the size of the history.
    assert_exact(Newton(degree), past, target, lambda x: 2.0 + ((x - target) / 40) ** degree)


@pytest.mark.parametrize("gap", [1, 6, 8])
@pytest.mark.parametrize("ahead", [1, 5])
def test_the_errors_of_slopes_on_a_quadratic(gap, ahead):
    """No slope of backward differences is the curve's own: each lag has a closed form."""
    past = [40, 40 - gap, 40 - 2 * gap]
    target, square = 40 + ahead, lambda x: x * x

    def error(predictor):
        return forecast(predictor, past, target, square) - square(target)

    assert error(Taylor(2)) == pytest.approx(-ahead * gap)
    assert error(TaylorSeer(2)) == pytest.approx(-ahead * gap)
    assert error(FoCa()) == pytest.approx(-2 * ahead * gap - ahead**2)
    assert error(HiCache(2, math.sqrt(0.5))) == pytest.approx(-ahead * gap - 1)
    assert error(AdamsBashforth(2)) == pytest.approx(-(ahead**2))
    assert error(Newton(2)) == pytest.approx(0, abs=1e-9)


def test_fewer_points_lower_the_order():
    past = [9.0, 7.0, 2.0]
    for full, lower in [
        (Taylor(5), Taylor(2)),
        (TaylorSeer(5), TaylorSeer(2)),
        (Newton(5), Newton(2)),
        (Hermite(5, 7), Newton(2)),
        (HiCache(5), HiCache(2)),
        (AdamsBashforth(5), AdamsBashforth(2)),
        (Chebyshev(5, 0.1, 7), Chebyshev(2, 0.1, 3)),
    ]:
        np.testing.assert_allclose(
            full.weights(past, 12), lower.weights(past, 12), atol=1e-12, err_msg=str(full)
        )
    line = Taylor(1).weights(past[:2], 12)
    np.testing.assert_allclose(FoCa().weights(past[:2], 12), line, rtol=1e-12)
    for predictor in (*CONSTANTS, *QUADRATICS, Chebyshev()):
        np.testing.assert_array_equal(predictor.weights([9.0], 12), [1.0])


def test_more_points_than_a_predictor_uses_weigh_nothing():
    past = [9.0, 7.0, 2.0, 1.0, 0.0]
    for predictor in (Reuse(), Taylor(2), TaylorSeer(1), Newton(1), Hermite(), FoCa(), HiCache(1)):
        weights = predictor.weights(past, 12)
        np.testing.assert_array_equal(weights[predictor.history :], 0)
        np.testing.assert_array_equal(
            weights[: predictor.history], predictor.weights(past[: predictor.history], 12)
        )


# The two bases


@PROPERTY
@given(histories(most=MAX_HISTORY))
def test_conversions_against_fractions(history):
    past, _ = history
    count = len(past)
    # Column j of the exact table: what each divided difference takes from F_j.
    exact = np.array([divided(past, unit(j, count)) for j in range(count)], dtype=float).T
    to_values = to_raw(np.eye(count), past)
    np.testing.assert_allclose(to_values, exact, rtol=1e-12)
    np.testing.assert_array_equal(np.triu(to_values, 1), 0)

    for j in range(count):
        newton = [
            math.prod((Fraction(past[j]) - Fraction(x) for x in past[:i]), start=Fraction(1))
            for i in range(count)
        ]
        np.testing.assert_allclose(
            to_difference([float(v) for v in unit(j, count)], past),
            np.array(newton, dtype=float),
            rtol=1e-12,
        )


@PROPERTY
@given(histories(most=5), st.integers(0, 3))
def test_conversions_undo_each_other(history, seed):
    past, _ = history
    weights = np.random.default_rng(seed).standard_normal((2, 3, len(past)))
    there = to_raw(to_difference(weights, past), past)
    np.testing.assert_allclose(there, weights, atol=1e-9)


@pytest.mark.parametrize("convert", [to_difference, to_raw])
def test_conversions_refuse_what_they_cannot_convert(convert):
    with pytest.raises(ValueError, match=r"past must be finite and strictly monotone, got \[3. 3."):
        convert([1.0, 0.0], [3.0, 3.0])
    with pytest.raises(ValueError, match="past must be finite"):
        convert([], [])
    with pytest.raises(ValueError, match=r"must have shape \(..., 2\), got \(3,\)"):
        convert([1.0, 0.0, 0.0], [3.0, 2.0])
    with pytest.raises(ValueError, match=r"past must have shape \(K,\), got \(1, 2\)"):
        convert([1.0, 0.0], [[3.0, 2.0]])
    with pytest.raises(TypeError, match="past must hold numbers"):
        convert([1.0], ["3"])


@PROPERTY
@given(histories(most=MAX_HISTORY), st.integers(1, 6), st.integers(0, 9))
def test_rows_predict_from_exact_divided_differences(history, planes, seed):
    past, target = history
    values = [Fraction(int(v), 7) for v in np.random.default_rng(seed).integers(-99, 99, len(past))]
    known = min(planes, len(past))
    exact = [*divided(past, values)[:known], *[Fraction(0)] * (planes - known)]
    family = (*CONSTANTS, *QUADRATICS, Chebyshev())
    table = rows(family, past, target, planes)
    for row, source in enumerate(table.source):
        raw = family[source].weights(past[:known], target)
        expected = sum(Fraction(w) * v for w, v in zip(raw, values[:known], strict=True))
        got = sum(Fraction(w) * d for w, d in zip(table.difference[row], exact, strict=True))
        assert table.gain[row] == pytest.approx(np.abs(raw).sum(), rel=1e-12)
        # Differences cancel among themselves: bound by the terms, not by the result.
        size = sum(abs(w * float(d)) for w, d in zip(table.difference[row], exact, strict=True))
        assert abs(float(expected - got)) <= TOLERANCE * (size + table.gain[row] * 20)
    np.testing.assert_array_equal(table.difference[:, known:], 0)


def push(stack: np.ndarray, value: float, step_gaps: np.ndarray) -> np.ndarray:
    """The op ``stack_update_`` in float64; an infinite gap leaves a zero plane."""
    new = [value]
    for old, gap in zip(stack[:-1], step_gaps, strict=True):
        new.append(0.0 if math.isinf(gap) else (new[-1] - old) / gap)
    return np.array(new)


@PROPERTY
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_a_stack_updated_by_gaps_holds_what_the_rows_weigh(positions, planes, seed):
    """Over any positions: repeated and turning ones lower the order, garbage is never read."""
    series = np.random.default_rng(seed).standard_normal(len(positions))
    stack, past, values = np.full(planes, np.nan), [], []
    for position, value in zip(positions, series, strict=True):
        past, values = [float(position), *past], [value, *values]
        stack = push(stack, value, gaps(past, planes))
        known = len(usable(past)[:planes])
        family = (Newton(4), Taylor(2), TaylorSeer(3), Chebyshev(), Reuse())
        table = rows(family, past, 13.0, planes)
        for row, source in enumerate(table.source):
            raw = family[source].weights(past[:known], 13.0)
            assert np.isfinite(table.difference[row]).all()
            np.testing.assert_allclose(
                table.difference[row] @ stack, raw @ values[:known], atol=1e-8 * table.gain[row]
            )


# Published closed forms


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("gap", [1, 2, 5, 8])
def test_taylor_is_equation_4_on_uniform_spacing(order, gap):
    values = np.random.default_rng(order).standard_normal(order + 1)
    past = [50.0 - gap * i for i in range(order + 1)]
    for ahead in (1, 3, 7):
        backward = values.copy()
        expected = 0.0
        for i in range(order + 1):
            expected += backward[0] * ahead**i / (math.factorial(i) * gap**i)
            backward = backward[:-1] - backward[1:]
        weights = Taylor(order).weights(past, 50 + ahead)
        assert weights @ values == pytest.approx(expected)
        # Counting down, as the paper's timesteps do, changes nothing.
        np.testing.assert_allclose(Taylor(order).weights([-x for x in past], -50 - ahead), weights)


def test_the_shift_shortens_the_distance_along_the_run():
    rising, falling = [10.0, 8.0, 5.0], [0.3, 0.5, 0.8]
    np.testing.assert_allclose(
        Taylor(2, shift=3).weights(rising, 14), Taylor(2).weights(rising, 11), rtol=1e-12
    )
    np.testing.assert_allclose(
        Taylor(2, shift=0.1).weights(falling, 0.1), Taylor(2).weights(falling, 0.2), rtol=1e-12
    )
    # Past the newest full step the distance is negative: Taylor polynomials at t < x_0.
    back = to_difference(Taylor(2, shift=4).weights(rising, 12), rising)
    np.testing.assert_allclose(back, [1, -2, 4], rtol=1e-12)


@PROPERTY
@given(
    st.lists(st.integers(1, 8), min_size=0, max_size=7),
    st.integers(0, 3),
    st.sampled_from([None, 1, 2, 3, 4]),
    st.integers(0, 99),
)
def test_taylorseer_is_the_recursion_of_its_code(step_gaps, order, first_enhance, seed):
    """The published caching loop, literally, on a random series."""
    full_steps = np.cumsum([0, *step_gaps]).tolist()
    series = np.random.default_rng(seed).standard_normal(100)
    cache: dict[int, float] = {}
    activated: list[int] = []
    for step in range(full_steps[-1] + 6):
        if step in full_steps:
            activated.append(step)
            factors = {0: series[step]}
            for i in range(order):
                guarded = first_enhance is not None and not step > first_enhance - 2
                if i not in cache or guarded:
                    break
                factors[i + 1] = (factors[i] - cache[i]) / (activated[-1] - activated[-2])
            cache = factors
        x = step - activated[-1]
        expected = sum(f * x**i / math.factorial(i) for i, f in cache.items())
        past = [float(s) for s in reversed(activated)]
        weights = TaylorSeer(order, first_enhance).weights(past, step)
        got = weights @ series[activated[::-1]]
        assert abs(got - expected) <= 1e-12 * (1 + np.abs(weights).sum())


@PROPERTY
@given(histories(least=3, most=3))
def test_taylorseer_and_foca_weights_on_three_points(history):
    past, target = history
    x, n1, n2 = target - past[0], past[0] - past[1], past[1] - past[2]
    seer = [
        1 + x / n1 + x**2 / (2 * n1**2),
        -x / n1 - x**2 / 2 * (1 / n1**2 + 1 / (n1 * n2)),
        x**2 / (2 * n1 * n2),
    ]
    np.testing.assert_allclose(TaylorSeer(2).weights(past, target), seer, rtol=1e-9, atol=1e-12)
    foca = [1 + x / (2 * n1), -x / (2 * n1) + x / (2 * n2), -x / (2 * n2)]
    np.testing.assert_allclose(FoCa().weights(past, target), foca, rtol=1e-9, atol=1e-12)
    newton = np.array([1, x, x * (x + n1)]) @ to_raw(np.eye(3), past)
    np.testing.assert_allclose(Newton(2).weights(past, target), newton, rtol=1e-9, atol=1e-12)


def test_foca_is_its_predictor_and_corrector():
    older, old, new = 0.3, -1.1, 2.0
    for h, gap in [(1, 4), (3, 5)]:
        slope, slope_before = (new - old) / gap, (old - older) / gap
        # BDF2 with the known slope, then Heun with the slope that the forecast has.
        predicted = 4 / 3 * new - 1 / 3 * old + 2 * h / 3 * slope
        slope_ahead = (3 * predicted - 4 * new + old) / (2 * h)
        corrected = new + h / 2 * (slope_before + slope_ahead)
        weights = FoCa().weights([20, 20 - gap, 20 - 2 * gap], 20 + h)
        assert weights @ [new, old, older] == pytest.approx(corrected)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 0.7])
def test_hicache_is_its_hermite_series(sigma):
    values = np.array([2.0, -1.0, 0.5, 3.0])
    past, x = [20.0, 14.0, 12.0, 9.0], 4.0
    differences = [TaylorSeer(k).weights(past, 21.0) @ values for k in range(4)]
    # TaylorSeer at distance 1 sums f_i / i!, so neighbours differ by one term.
    terms = [
        differences[0],
        *(math.factorial(k) * (differences[k] - differences[k - 1]) for k in (1, 2, 3)),
    ]
    z = sigma * x
    hermite = [1, 2 * z, 4 * z**2 - 2, 8 * z**3 - 12 * z]
    for order in range(4):
        expected = sum(
            hermite[k] * sigma**k / math.factorial(k) * terms[k] for k in range(order + 1)
        )
        assert HiCache(order, sigma).weights(past, 24.0) @ values == pytest.approx(expected)


def test_hicache_weights_on_uniform_spacing():
    s, x = 0.6, 5.0
    difference = to_difference(HiCache(2, s).weights([16, 8, 0], 16 + x), [16, 8, 0])
    # A divided difference of order 2 is half of TaylorSeer's.
    np.testing.assert_allclose(difference, [1, 2 * s**2 * x, 4 * s**4 * x**2 - 2 * s**2])


@pytest.mark.parametrize(
    "coefficients",
    [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]],
)
def test_adams_bashforth_has_the_methods_coefficients_on_uniform_spacing(coefficients):
    order = len(coefficients)
    values = np.random.default_rng(order).standard_normal(order + 1)
    for gap in (1, 7, -0.05):
        past = [3 - gap * i for i in range(order + 1)]
        slopes = -np.diff(values) / gap
        expected = values[0] + 0.6 * gap * np.dot(coefficients, slopes)
        got = AdamsBashforth(order).weights(past, 3 + 0.6 * gap) @ values
        assert got == pytest.approx(expected)


@PROPERTY
@given(histories(least=3))
def test_adams_bashforth_2_is_the_tangent_of_a_quadratic(history):
    past, target = history

    def curve(x):
        return 1 - 2 * x + 0.5 * x * x

    tangent = curve(past[0]) + (target - past[0]) * (past[0] - 2)
    got = forecast(AdamsBashforth(2), past, target, curve)
    assert abs(got - tangent) <= slack(AdamsBashforth(2), past, target, curve)


@PROPERTY
@given(histories(least=3))
def test_hermite_on_three_points_is_newton(history):
    past, target = history
    newton = Newton(2).weights(past, target)
    np.testing.assert_allclose(
        Hermite(2, 3).weights(past, target), newton, atol=TOLERANCE * np.abs(newton).sum()
    )
    # So one of the two is enough.
    assert rows([Newton(2), Hermite(2, 3)], past, target, 4).source == (0,)


@PROPERTY
@given(histories(least=5), st.integers(1, 3), st.integers(0, 9))
def test_hermite_is_least_squares_in_any_basis(history, degree, seed):
    past, target = history
    values = np.random.default_rng(seed).standard_normal(5)
    time = (np.array(past[:5]) - past[2]) / 10
    fit = np.polyval(np.polyfit(time, values, degree), (target - past[2]) / 10)
    weights = Hermite(degree, 5).weights(past, target)
    assert abs(weights[:5] @ values - fit) <= 1e-7 * (1 + np.abs(weights).sum())


@pytest.mark.parametrize("blend", [1.0, 0.5])
def test_chebyshev_is_spectrums_ridge_regression(blend):
    past, target = np.array([20.0, 15, 11, 8, 6, 4, 3, 2]), 23.0

    def basis(step):
        angle = np.arccos((np.atleast_1d(step) - 25) / 25)
        return np.cos(np.arange(5) * angle[:, None])

    phi = basis(past)
    fit = basis(target)[0] @ np.linalg.inv(phi.T @ phi + 0.1 * np.eye(5)) @ phi.T
    line = np.array([1 + 3 / 5, -3 / 5, 0, 0, 0, 0, 0, 0])
    chebyshev = Chebyshev(4, 0.1, 8, blend, span=(0.0, 50.0))
    weights = chebyshev.weights(past, target)
    np.testing.assert_allclose(weights, blend * fit + (1 - blend) * line, rtol=1e-9)
    # The ridge shrinks the constant too.
    assert 0.5 < weights.sum() < 0.99


def test_chebyshev_without_span_takes_points_and_target():
    past = [20.0, 15.0, 11.0, 8.0]
    np.testing.assert_allclose(
        Chebyshev(3, 0.1, 4).weights(past, 23.0),
        Chebyshev(3, 0.1, 4, span=(8.0, 23.0)).weights(past, 23.0),
    )


# Invariance


@PROPERTY
@given(
    histories(),
    st.sampled_from([Taylor(2), TaylorSeer(3), Newton(3), Hermite(2, 4), AdamsBashforth(3), FoCa()])
    | st.just(Chebyshev()),
    st.sampled_from([4.0, -0.5, 0.003]),
    st.sampled_from([0.0, -7.0, 100.0]),
)
def test_affine_maps_of_the_positions_change_nothing(history, predictor, scale, offset):
    past, target = history
    weights = predictor.weights(past, target)
    moved = predictor.weights([scale * x + offset for x in past], scale * target + offset)
    np.testing.assert_allclose(moved, weights, atol=1e-8 * np.abs(weights).sum())


@PROPERTY
@given(histories(), quarters(0, 5), st.sampled_from([4.0, -0.5]))
def test_a_shift_scales_with_the_positions(history, shift, scale):
    past, target = history
    weights = Taylor(2, shift).weights(past, target)
    scaled = Taylor(2, abs(scale) * shift).weights([scale * x for x in past], scale * target)
    np.testing.assert_allclose(scaled, weights, atol=1e-10 * np.abs(weights).sum())


# The paper's family


def test_candidates():
    family = candidates()
    assert family[0] == Taylor(2, 0.0)
    assert len(family) == len(set(family)) == 11
    assert set(family) == {Reuse(), *(Taylor(m, float(s)) for m in (1, 2) for s in range(5))}
    assert candidates(order=0) == (Reuse(),)
    assert candidates(order=1, lookback=0) == (Taylor(1, 0.0), Reuse())
    assert len(candidates(step=0.1)) == 2 * 41 + 1
    assert len(candidates(order=1, lookback=0.3, step=0.1)) == 4 + 1
    assert candidates(lookback=4, step=3)[:2] == (Taylor(2, 0.0), Taylor(2, 3.0))


@pytest.mark.parametrize("past", [[2.0, 1.0, 0.0], [10.0, 2.0, 1.0], [18.0, 10.0, 2.0]])
@pytest.mark.parametrize("ahead", range(1, 10))
def test_distinct_rows_of_the_family(past, ahead):
    table = rows(candidates(), past, past[0] + ahead, 3)
    assert len(table) == (9 if ahead <= 4 else 11)
    assert table.source[0] == 0
    np.testing.assert_allclose(table.difference[0], [1, ahead, ahead**2], rtol=1e-12)
    np.testing.assert_allclose(table.difference[:, 0], 1, rtol=1e-12)
    # Against the paper's own list: orders 0..2 at distances k-4..k, as sets of polynomials.
    paper = {
        (1.0, *(float(u**i) if i <= m else 0.0 for i in (1, 2)))
        for m in range(3)
        for u in range(ahead - 4, ahead + 1)
    }
    assert {tuple(np.round(row, 9) + 0.0) for row in table.difference} == paper


def test_the_family_at_a_short_history():
    assert len(rows(candidates(), [0.0], 3, 3)) == 1
    assert len(rows(candidates(), [1.0, 0.0], 7, 3)) == 6
    assert len(rows(candidates(), [1.0, 0.0], 3, 3)) == 5
    # A stack of one plane knows no slope, however long the past.
    one = rows(candidates(), [2.0, 1.0, 0.0], 7, 1)
    np.testing.assert_array_equal(one.difference, [[1.0]])


def test_the_first_of_equal_rows_is_kept():
    family = [Newton(1), Taylor(1), Reuse(), Taylor(0), Taylor(1, shift=1.0)]
    table = rows(family, [4.0, 2.0], 5, 2)
    assert table.source == (0, 2)
    assert table.names == ("Newton(degree=1)", "Reuse()")
    close = [lambda p, t: [1.0, 0.0], lambda p, t: [1.0 + 1e-10, 0.0], lambda p, t: [1, 1e-13]]
    assert rows(close, [4.0, 2.0], 5, 2).source == (0, 1)


def test_rows_print_themselves():
    text = repr(rows([Taylor(), Reuse()], [18.0, 10.0, 2.0], 23, 4)).splitlines()
    assert text[0].split() == ["row", "predictor", "D_0", "D_1", "D_2", "D_3", "gain"]
    assert " ".join(text[1].split()) == "0 Taylor(order=2, shift=0.0) 1 5 25 0 3.0312"
    assert " ".join(text[2].split()) == "1 Reuse() 1 0 0 0 1"


def test_rows_cannot_be_written_to():
    table = rows(candidates(), [2.0, 1.0, 0.0], 7, 3)
    with pytest.raises(ValueError, match="read-only"):
        table.difference[0, 0] = 2
    with pytest.raises(ValueError, match="read-only"):
        table.gain[0] = 2


# Positions


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ([], 0),
        ([math.nan, 1], 0),
        ([5], 1),
        ([5, 5, 3], 1),
        ([5, 3, 3, 1], 2),
        ([5, 3, 4, 1], 2),
        ([3, 5, 4], 2),
        ([5, 3, 1], 3),
        ([0.1, 0.3, 0.8], 3),
        ([5, 3, math.nan, 1], 2),
        ([5, 3, -math.inf], 2),
    ],
)
def test_usable_is_the_longest_good_prefix(past, expected):
    assert usable(past).tolist() == past[:expected]
    known = usable(past)
    step_gaps = gaps(past, 4)
    assert step_gaps.shape == (3,) and step_gaps.dtype == np.float64
    finite = min(max(expected - 1, 0), 3)
    np.testing.assert_array_equal(step_gaps[:finite], known[:1] - known[1 : 1 + finite])
    np.testing.assert_array_equal(step_gaps[finite:], np.inf)


@PROPERTY
@given(st.lists(st.sampled_from([0.0, 1, 2, 3, 4, math.nan, math.inf]), max_size=6))
def test_usable_against_brute_force(past):
    def good(prefix):
        rising = all(a < b for a, b in pairwise(prefix))
        falling = all(a > b for a, b in pairwise(prefix))
        return all(map(math.isfinite, prefix)) and (rising or falling)

    longest = max(n for n in range(len(past) + 1) if good(past[:n]))
    assert usable(past).tolist() == past[:longest]


def test_gaps_of_a_single_plane():
    assert gaps([4, 2], 1).shape == (0,)
    np.testing.assert_array_equal(gaps([10, 2, 1, 0], 3), [8, 9])


@PROPERTY
@given(
    st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6),
    st.sampled_from((*CONSTANTS, *QUADRATICS, Chebyshev())),
)
def test_repeated_and_turning_positions_lower_the_order(past, predictor):
    known = usable(past)
    weights = predictor.weights(past, 6.0)
    np.testing.assert_array_equal(weights[: known.size], predictor.weights(known, 6.0))
    np.testing.assert_array_equal(weights[known.size :], 0)


@PROPERTY
@given(histories(), st.sampled_from([Taylor(2), TaylorSeer(2), Newton(4), FoCa(), Hermite(2, 3)]))
def test_a_target_on_the_newest_position_returns_its_value(history, predictor):
    past, _ = history
    weights = predictor.weights(past, past[0])
    np.testing.assert_allclose(weights, np.eye(len(past))[0], atol=1e-9)


# Users' predictors


def lagrange(past, target):
    """A user's function: the polynomial through all it is shown."""
    return [math.prod((target - x) / (at - x) for x in past if x != at) for at in past]


class Halfway:
    """A user's object."""

    history = 2

    def weights(self, past, target):
        return [0.5, 0.5] if len(past) == 2 else [1.0]


def test_users_predictors():
    past = [18.0, 10.0, 2.0, 1.0, 0.0]
    table = rows([Taylor(), lagrange, Function(lagrange, history=4), Halfway()], past, 21, 5)
    assert table.source == (0, 1, 2, 3)
    for row, reference in ((1, Newton(2)), (2, Newton(3))):
        expected = to_difference(reference.weights(past, 21), past)
        np.testing.assert_allclose(table.difference[row], expected, atol=1e-9)
    np.testing.assert_array_equal(table.difference[3], [1, -4, 0, 0, 0])
    assert table.gain[3] == 1
    assert "Halfway" in table.names[3] and "lagrange" in table.names[1]


def test_a_predictor_is_shown_its_history_and_no_more():
    seen = []

    def spy(past, target):
        seen.append(past.tolist())
        with pytest.raises(ValueError, match="read-only"):
            past[0] = 0
        return np.eye(len(past))[0]

    rows([Function(spy, 2)], [9.0, 5.0, 1.0], 10, 3)
    rows([Function(spy, 5)], [9.0, 5.0, 1.0], 10, 2)
    rows([Function(spy, 5)], [9.0, 5.0, 5.0], 10, 3)
    assert seen == [[9, 5], [9, 5], [9, 5]]


def test_users_mistakes_are_named():
    past = [3.0, 2.0, 1.0]

    def short(past, target):
        return [1.0]

    def broken(past, target):
        return [math.nan, 1.0, 0.0]

    with pytest.raises(ValueError, match=r"short.*must return weights of shape \(3,\), got \(1,\)"):
        rows([Reuse(), short], past, 5, 3)
    with pytest.raises(ValueError, match=r"broken.*must return finite weights, got \[nan"):
        rows([broken], past, 5, 3)
    with pytest.raises(TypeError, match="must be an instance, got the class Taylor"):
        rows([Taylor], past, 5, 3)
    with pytest.raises(TypeError, match="or be a function, got 3"):
        rows([3], past, 5, 3)
    with pytest.raises(ValueError, match="at least one predictor, got none"):
        rows([], past, 5, 3)
    with pytest.raises(ValueError, match="past must begin with a finite position"):
        rows([Reuse()], [math.nan, 3.0], 5, 3)
    with pytest.raises(ValueError, match="past must begin with a finite position"):
        Taylor().weights([], 5)
    with pytest.raises(ValueError, match="target must be finite, got nan"):
        rows([Reuse()], past, math.nan, 3)
    with pytest.raises(ValueError, match=f"planes must be between 1 and {MAX_HISTORY}, got 0"):
        rows([Reuse()], past, 5, 0)
    bad = Halfway()
    bad.history = 0
    with pytest.raises(ValueError, match=r"history of .*Halfway.* must be between 1 and"):
        as_predictor(bad)
    with pytest.raises(TypeError, match="function must be callable, got 3"):
        Function(3)


# Values


@pytest.mark.parametrize("predictor", [*CONSTANTS, *QUADRATICS, Function(lagrange)], ids=str)
def test_predictors_are_values(predictor):
    copy = pickle.loads(pickle.dumps(predictor))
    assert copy == predictor and hash(copy) == hash(predictor)
    assert as_predictor(predictor) is predictor
    with pytest.raises(AttributeError):
        predictor.order = 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Taylor(-1), ValueError, "order must be between 0 and 7, got -1"),
        (lambda: Taylor(100), ValueError, "order must be between 0 and 7, got 100"),
        (lambda: Taylor(True), TypeError, r"order must be an int, got True \(bool\)"),
        (lambda: Taylor("2"), TypeError, r"order must be an int, got '2' \(str\)"),
        (lambda: Taylor(2.0), TypeError, r"order must be an int, got 2.0 \(float\)"),
        (lambda: Taylor(2, math.nan), ValueError, "shift must be finite, got nan"),
        (lambda: Taylor(2, "1"), TypeError, r"shift must be a number, got '1' \(str\)"),
        (lambda: TaylorSeer(2, -1), ValueError, "first_enhance must be between 0 and"),
        (
            lambda: TaylorSeer(2, 10**6 + 1),
            ValueError,
            "first_enhance must be between 0 and 1000000",
        ),
        (lambda: candidates(step="1"), TypeError, "step must be a number, got '1'"),
        (lambda: candidates(step=math.nan), ValueError, "step must be finite"),
        (lambda: candidates(1, 257, 1.0), ValueError, "lookback / step must be at most 256"),
        (lambda: TaylorSeer(8), ValueError, "order must be between 0 and 7, got 8"),
        (lambda: HiCache(9), ValueError, "order must be between 0 and 7, got 9"),
        (lambda: HiCache(2, -0.5), ValueError, "sigma must be between 0.0 and 10.0, got -0.5"),
        (lambda: Newton(8), ValueError, "degree must be between 0 and 7, got 8"),
        (lambda: Hermite(8), ValueError, "degree must be between 0 and 7, got 8"),
        (lambda: Hermite(2, 2), ValueError, "points must be between 3 and 8, got 2"),
        (lambda: AdamsBashforth(0), ValueError, "order must be between 1 and 7, got 0"),
        (lambda: Chebyshev(-1), ValueError, "degree must be between 0 and 7, got -1"),
        (lambda: Chebyshev(points=4), ValueError, "points must be between 5 and 8, got 4"),
        (lambda: Chebyshev(ridge=-1), ValueError, "ridge must be between 0.0 and inf, got -1"),
        (lambda: Chebyshev(blend=1.5), ValueError, "blend must be between 0.0 and 1.0, got 1.5"),
        (lambda: Chebyshev(span=(1, 1)), ValueError, "span must have two different ends"),
        (lambda: Chebyshev(span=(0, math.inf)), ValueError, "span must be finite, got inf"),
        (lambda: Chebyshev(span=5), TypeError, "span must be a pair of numbers or None, got 5"),
        (lambda: Function(lagrange, 9), ValueError, "history must be between 1 and 8, got 9"),
        (lambda: candidates(-1), ValueError, "order must be between 0 and 7, got -1"),
        (lambda: candidates(lookback=-1), ValueError, "lookback must be between 0.0 and inf"),
        (lambda: candidates(step=0), ValueError, "step must be above 0, got 0"),
        (lambda: candidates(step=-1.0), ValueError, "step must be above 0, got -1.0"),
        (lambda: candidates(step=1e-9), ValueError, "lookback / step must be at most 256"),
    ],
)
def test_fields_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


@PROPERTY
@given(histories(least=2), st.floats(-1e3, 1e3))
def test_newton_at_any_target_is_the_interpolant(history, target):
    """Behind the newest full step too, where a scheduler turned back."""
    past, _ = history
    assume(len(past) <= 4)
    values = [Fraction(i * i + 1, 3) for i in range(len(past))]
    at, exact, product = Fraction(target), Fraction(0), Fraction(1)
    for x, difference in zip(past, divided(past, values), strict=True):
        exact, product = exact + difference * product, product * (at - Fraction(x))
    weights = Newton(5).weights(past, target)
    got = sum(Fraction(w) * v for w, v in zip(weights, values, strict=True))
    assert abs(float(got - exact)) <= TOLERANCE * 10 * np.abs(weights).sum()


def test_defaults_are_those_of_the_docstrings():
    assert Taylor() == Taylor(2, 0.0) and TaylorSeer() == TaylorSeer(2, None)
    assert HiCache() == HiCache(2, 0.5) and Newton() == Newton(2) and Hermite() == Hermite(2, 3)
    assert AdamsBashforth() == AdamsBashforth(2)
    assert Chebyshev() == Chebyshev(4, 0.1, 6, 1.0, None)
    assert Function(lagrange) == Function(lagrange, 3)
    assert candidates() == candidates(2, 4.0, 1.0)


@pytest.mark.parametrize(
    ("predictor", "history"),
    [
        (Reuse(), 1),
        (Taylor(2), 3),
        (TaylorSeer(1), 2),
        (HiCache(3), 4),
        (Newton(2), 3),
        (Hermite(1, 5), 5),
        (AdamsBashforth(2), 3),
        (FoCa(), 3),
        (Chebyshev(2, points=4), 4),
    ],
    ids=str,
)
def test_how_many_full_steps_a_predictor_uses(predictor, history):
    past = [13.0, 12.0, 10.0, 9.0, 5.0, 2.0, 0.0]
    assert predictor.history == history
    weights = predictor.weights(past, 16)
    assert np.abs(weights[:history]).min() > 0 and (weights[history:] == 0).all()


def test_rows_are_the_same_where_they_differ_by_rounding_of_their_size():
    def large(past, target):
        return [1e6, 1.0 - 1e6]

    def rounded(past, target):
        return [1e6 + 1e-8, 1.0 - 1e6]

    def other(past, target):
        return [1e6 + 1e-3, 1.0 - 1e6]

    assert rows([large, rounded, other], [1.0, 0.0], 2, 3).source == (0, 2)


def test_rows_of_nothing_are_the_same():
    def nothing(past, target):
        return np.zeros(len(past))

    def again(past, target):
        return np.zeros(len(past))

    assert rows([nothing, again], [1.0, 0.0], 2, 3).source == (0,)


def test_a_history_of_nothing_is_refused_before_a_user_is_asked():
    with pytest.raises(ValueError, match="past must begin with a finite position"):
        rows([lambda past, target: []], [math.nan, 3.0], 5, 3)


def test_weights_without_a_history_are_no_predictor():
    class Weighing:
        def weights(self, past, target):
            return [1.0]

    with pytest.raises(TypeError, match="must have weights"):
        as_predictor(Weighing())


def test_what_is_just_within_the_bounds() -> None:
    assert TaylorSeer(2, 10**6).first_enhance == 10**6
    assert len(candidates(1, 256, 1.0)) == 258
