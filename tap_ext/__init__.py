"""Training-free acceleration of diffusion transformers by token-adaptive prediction.

``tap_ext.accelerate(pipe)`` on a stock diffusers pipeline is all there is to it; ``State`` and
``Plan`` serve those who drive a model of their own, ``BackboneSpec`` those whose transformer has
to be described.
"""

from __future__ import annotations

import logging

from tap_ext._version import __version__ as __version__
from tap_ext.accelerate import accelerate, explain, restore, stats
from tap_ext.backbones import BackboneSpec, Blocks, Stream
from tap_ext.batch import Batch
from tap_ext.calibrate import Calibration, calibrate
from tap_ext.choose import Chosen, choose
from tap_ext.config import Config
from tap_ext.history import History
from tap_ext.plan import Plan
from tap_ext.plots import plot
from tap_ext.report import RunRecord
from tap_ext.runtime import on_run, run
from tap_ext.state import State, Step
from tap_ext.views import AdapterError

__all__ = [
    "AdapterError",
    "BackboneSpec",
    "Batch",
    "Blocks",
    "Calibration",
    "Chosen",
    "Config",
    "History",
    "Plan",
    "RunRecord",
    "State",
    "Step",
    "Stream",
    "accelerate",
    "calibrate",
    "choose",
    "explain",
    "on_run",
    "plot",
    "restore",
    "run",
    "stats",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
