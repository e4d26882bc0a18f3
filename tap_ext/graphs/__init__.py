"""Work on the device recorded once and replayed: CUDA graphs.

``Graphs`` holds what was recorded of one branch of calls, a ``Recorder`` does the recording, and
``Parts`` and ``hooked`` look at a model for what a replay would miss.
"""

from tap_ext.graphs.guard import Parts, hooked
from tap_ext.graphs.inputs import Uncapturable, flatten, join, layout, strangers, unpack
from tap_ext.graphs.recorded import Graphs
from tap_ext.graphs.recorder import CudaRecorder, Recorder, recorder_for

__all__ = [
    "CudaRecorder",
    "Graphs",
    "Parts",
    "Recorder",
    "Uncapturable",
    "flatten",
    "hooked",
    "join",
    "layout",
    "recorder_for",
    "strangers",
    "unpack",
]
