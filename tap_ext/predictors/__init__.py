"""Predictors: rows of weights over the history of a feature, from step positions alone.

Pure numpy in float64 on the host. A position is a step index, or any other coordinate that is
strictly monotone along a run, such as a noise level.
"""

from __future__ import annotations

from tap_ext.predictors.base import Function, Predictor, WeightFunction, as_predictor
from tap_ext.predictors.matrix import Rows, rows
from tap_ext.predictors.multistep import AdamsBashforth, FoCa
from tap_ext.predictors.polynomial import Chebyshev, Hermite, Newton
from tap_ext.predictors.positions import MAX_HISTORY, gaps, to_difference, to_raw, usable
from tap_ext.predictors.taylor import HiCache, Reuse, Taylor, TaylorSeer, candidates

__all__ = [
    "MAX_HISTORY",
    "AdamsBashforth",
    "Chebyshev",
    "FoCa",
    "Function",
    "Hermite",
    "HiCache",
    "Newton",
    "Predictor",
    "Reuse",
    "Rows",
    "Taylor",
    "TaylorSeer",
    "WeightFunction",
    "as_predictor",
    "candidates",
    "gaps",
    "rows",
    "to_difference",
    "to_raw",
    "usable",
]
