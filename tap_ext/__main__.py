"""``python -m tap_ext``."""

from __future__ import annotations

import sys

from tap_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
