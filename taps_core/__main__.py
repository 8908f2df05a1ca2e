"""``python -m taps_core``: the same as ``taps-plugins``."""

from __future__ import annotations

import sys

from taps_core.cli import main

sys.exit(main())
