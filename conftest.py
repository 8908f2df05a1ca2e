"""Fixtures for all test folders: strict event loops, networks in memory and in the lab."""

import gc
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# pytest names test modules by their folders, and would take neatpy/ for the package of that name.
import neatpy  # noqa: F401  # it is the package from now on
import taps_core as taps
from taps_core.testing import leaks

pytest_plugins = ["taps_core.testing.fixtures", "tests.lab.plugin", "tests.lab.network"]

# Nor on the policy of the machine that it runs on.
os.environ["TAPS_POLICY"] = ""

# No test depends on speed.
settings.register_profile("taps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("taps")


@pytest.fixture(autouse=True, scope="module")
def older_objects_aside() -> Iterator[bool]:
    """To look for garbage costs no more than what the module's own tests made.

    Otherwise it costs 100 ms each time, most of them for what pytest knows of all tests.
    """
    with leaks.older_objects_aside():
        yield True


@pytest.fixture(autouse=True)
def _tests_do_not_meet(older_objects_aside: bool) -> Iterator[None]:
    """Nothing of one test is there in the next."""
    # What failed at an address that others use, too, is no reason for them.
    taps.System.current().cached.forget()
    yield
    if older_objects_aside:
        # What was dropped without being closed is found by pytest now, and blamed on this test.
        gc.collect()
        gc.freeze()  # what stays is no concern of the module's other tests


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Tests that are collected stay; to look for garbage among them takes a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
