"""The fit of TeaCache's polynomial."""

from __future__ import annotations

import numpy as np
import pytest

from tap_ext.peers import COEFFICIENTS, TeaCache, fit_teacache


def test_a_polynomial_is_found_again() -> None:
    x = np.linspace(0.01, 0.3, 49).reshape(7, 7)
    polynomial = COEFFICIENTS["flux"]
    found, explained = fit_teacache(x, np.polyval(polynomial, x))
    np.testing.assert_allclose(found, polynomial, rtol=1e-6)
    assert explained == pytest.approx(1.0)


def test_noise_lowers_the_variance_explained() -> None:
    draw = np.random.default_rng(0)
    x = draw.uniform(0.0, 1.0, 400)
    _, explained = fit_teacache(x, x + draw.normal(0, np.sqrt(1 / 12), 400), degree=1)
    assert 0.4 < explained < 0.6  # as much noise as signal


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(9), np.ones(8), r"output_changes must have shape \(9,\), got \(8,\)"),
        (np.ones(4), np.ones(4), "probe_changes must hold more than 4 numbers, got 4"),
        (np.full(9, np.nan), np.ones(9), "must be finite"),
    ],
)
def test_bad_measurements_are_refused(x: object, y: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_teacache(x, y)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"threshold": -1.0}, ValueError),
        ({"threshold": "1"}, TypeError),
        ({"coefficients": ()}, ValueError),
        ({"coefficients": 3.0}, TypeError),
        ({"coefficients": (1.0, float("inf"))}, ValueError),
    ],
)
def test_fields_are_checked(fields: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(fields))}"):
        TeaCache(**fields)  # type: ignore[arg-type]


def test_published_polynomials_have_degree_four() -> None:
    assert all(len(polynomial) == 5 for polynomial in COEFFICIENTS.values())
