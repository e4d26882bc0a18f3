"""Which diffusers is installed, for tests of what older ones lack."""

from __future__ import annotations

import diffusers

OLDEST = (0, 36)
"""The oldest that tap_ext supports."""

DIFFUSERS_VERSION = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
"""The one installed: major and minor version."""
