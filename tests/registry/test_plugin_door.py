"""The door for plugin authors: what is exported, and that it costs applications nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import taps_core
from taps_core import plugin
from taps_core.runtime import hookspecs
from taps_core.runtime.loading import HOOKS

SPECIFIED = sorted(name for name in vars(hookspecs) if name.startswith("taps_"))


def test_everything_exported_is_there_and_sorted() -> None:
    assert [name for name in plugin.__all__ if not hasattr(plugin, name)] == []
    assert len(set(plugin.__all__)) == len(plugin.__all__)


def test_every_public_name_of_the_door_is_exported() -> None:
    public = {
        name
        for name, value in vars(plugin).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"annotations"} == set(plugin.__all__)


def test_hooks_that_are_specified_are_the_ones_that_are_called() -> None:
    assert sorted(HOOKS) == SPECIFIED


@pytest.mark.parametrize("name", SPECIFIED)
def test_docstring_of_a_hook_is_its_reference_page(name: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, name)) or ""
    assert "@hookimpl" in text
    assert "Returns:" in text


def test_importing_the_library_imports_neither_pluggy_nor_plugins() -> None:
    program = (
        "import sys, taps_core\n"
        "taps_core.System().registry\n"
        "heavy = {'pluggy', 'importlib_metadata', 'rich', 'dns', 'pyroute2', 'taps_tcp'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    (package,) = taps_core.__path__
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(package).parent, capture_output=True, text=True
    )
    assert (finished.returncode, finished.stderr) == (0, "")
