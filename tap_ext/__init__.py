"""Training-free acceleration of diffusion transformers by token-adaptive prediction.

``tap_ext.accelerate(pipe)`` on a stock diffusers pipeline is all there is to it; ``State`` and
``Plan`` serve those who drive a model of their own, ``BackboneSpec`` those whose transformer has
to be described.
"""

from __future__ import annotations

from tap_ext.accelerate import accelerate, explain, restore, stats
from tap_ext.backbones import BackboneSpec, Blocks, Stream
from tap_ext.config import Config
from tap_ext.plan import Plan
from tap_ext.runtime import run
from tap_ext.state import State, Step
from tap_ext.views import AdapterError

__all__ = [
    "AdapterError",
    "BackboneSpec",
    "Blocks",
    "Config",
    "Plan",
    "State",
    "Step",
    "Stream",
    "accelerate",
    "explain",
    "restore",
    "run",
    "stats",
]
__version__ = "0.1.0"
