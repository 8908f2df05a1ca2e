"""Fixtures of the command line's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Test folders are no packages, so a module that two of them share is loaded by its path.
_PATH = Path(__file__).parents[1] / "registry" / "plugin_site.py"
if "plugin_site" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("plugin_site", _PATH)
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["plugin_site"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["plugin_site"])

site = sys.modules["plugin_site"].site
