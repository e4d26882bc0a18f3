"""Full and skip views of a model: the same modules, differently joined.

A view is a shallow copy of the modules along a few paths; every parameter, buffer and untouched
submodule is the model's own, and the model itself is never written to. What a view reads or puts
back during a call lives in a ``Call``, so one pair of views serves any number of threads.
"""

from tap_ext.views.call import Call, Passage, run_view, tensors
from tap_ext.views.check import verify
from tap_ext.views.discovery import discover
from tap_ext.views.graft import AdapterError, graft
from tap_ext.views.offloading import prefetch_refusal, tables_of
from tap_ext.views.pair import Views

__all__ = [
    "AdapterError",
    "Call",
    "Passage",
    "Views",
    "discover",
    "graft",
    "prefetch_refusal",
    "run_view",
    "tables_of",
    "tensors",
    "verify",
]
