"""The methods by name: what each one sets of a configuration, and its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from tap_ext.peers.speca import SpeCa
from tap_ext.peers.teacache import TeaCache
from tap_ext.plan import Windowed
from tap_ext.predictors import Predictor, Reuse, TaylorSeer, candidates

__all__ = ["METHODS", "Method", "families", "fitted_window"]

Method = Literal["tap", "fora", "taylorseer", "teacache", "speca", "steps"]

_RESIDUAL = {
    "forecast": "residual",
    "corrector": False,
    "blend": False,
    "position": "step",
    "predictors": None,
    "schedule": None,
}

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tap": {},
        "fora": {**_RESIDUAL, "warmup": 1},
        "taylorseer": {**_RESIDUAL, "warmup": 3},
        "teacache": {**_RESIDUAL, "schedule": TeaCache()},
        "speca": {**_RESIDUAL, "warmup": 3, "schedule": SpeCa()},
        "steps": {"schedule": None, "corrector": False, "blend": False, "self_check": False},
    }
)
"""Field values by method, over those of the preset; a value that is given wins over both."""

assert set(METHODS) == set(get_args(Method))


def families(
    method: Method, order: int, warmup: int, lookback: float, step: float
) -> tuple[Predictor, ...]:
    """The candidates of a method.

    FORA (arXiv 2407.01425) and TeaCache (arXiv 2411.19108) reuse; TaylorSeer (arXiv 2503.06923)
    and SpeCa (arXiv 2509.11628) expand, with the guard of the start that their code has
    (``first_enhance``, here ``warmup``). One candidate leaves nothing to choose.
    """
    if method in ("fora", "teacache"):
        return (Reuse(),)
    if method in ("taylorseer", "speca"):
        return (TaylorSeer(order, first_enhance=warmup),)
    return candidates(order, lookback, step)


def fitted_window(count: int, warmup: int, num_steps: int) -> Windowed:
    """The method's own schedule with at most ``count`` full steps: its shortest window that fits.

    A warm-up longer than ``count`` is shortened to it.
    """
    start = min(warmup, count)
    others = max(num_steps - start, 0)  # Windowed has start + floor(others / window)
    return Windowed(others // (count - start + 1) + 1, start)
