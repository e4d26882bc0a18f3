"""Other methods on the same machinery, each rows, a schedule, or both; and what follows a run.

What they forecast is the residual of all blocks, as TAP does; where the original caches every
block, that costs it memory and gains it little (0.01 ImageReward in arXiv 2603.03792).
"""

from __future__ import annotations

from tap_ext.peers.adaptive import Adaptive
from tap_ext.peers.methods import METHODS, Method, families, fitted_window
from tap_ext.peers.speca import SpeCa
from tap_ext.peers.teacache import COEFFICIENTS, TeaCache, fit_teacache
from tap_ext.peers.threshold import threshold_for

__all__ = [
    "COEFFICIENTS",
    "METHODS",
    "Adaptive",
    "Method",
    "SpeCa",
    "TeaCache",
    "families",
    "fit_teacache",
    "fitted_window",
    "threshold_for",
]
