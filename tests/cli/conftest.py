"""Fixtures of the command line's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

# Test folders are no packages, so a module that several tests share is loaded by its path.
for _path in (
    Path(__file__).parents[1] / "registry" / "plugin_site.py",
    Path(__file__).parent / "reports.py",
):
    if _path.stem not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_path.stem, _path)
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_path.stem] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_path.stem])

site = sys.modules["plugin_site"].site
