"""Programs written for NEATPy put this folder on ``sys.path`` and import its modules one by one.

``connection`` is then a module that Python does not know to be ``neatpy.connection``, and would
make classes of its own in it. So each module says first of all what it is.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["one_module"]


def one_module(name: str) -> None:
    """Let a module that was found without its package be the package's own.

    Whoever imports it gets what is in :data:`sys.modules` afterwards. What the calling file goes on
    to define is then nobody's.
    """
    package, dot, _ = name.rpartition(".")
    if not dot or not package:
        sys.modules[name] = importlib.import_module(f"neatpy.{name}")
