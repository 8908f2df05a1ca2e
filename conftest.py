"""Fixtures for all test folders: strict event loops, networks in memory and in the lab."""

import gc
import os

import pytest
from hypothesis import settings

# pytest names test modules by their folders, and would take neatpy/ for the package of that name.
import neatpy  # noqa: F401  # it is the package from now on
import taps_core as taps

pytest_plugins = ["taps_core.testing.fixtures", "tests.lab.plugin", "tests.lab.network"]

# Nor on the policy of the machine that it runs on.
os.environ["TAPS_POLICY"] = ""

# No test depends on speed.
settings.register_profile("taps", deadline=None)
settings.load_profile("taps")


@pytest.fixture(autouse=True)
def _nothing_is_known_of_earlier_tests() -> None:
    """What failed in one test, at an address that others use, too, is no reason in the next."""
    taps.System.current().cached.forget()


def pytest_collection_finish() -> None:
    """Tests collect garbage to find leaks: what is there before the first need not be looked at."""
    gc.collect()
    gc.freeze()
