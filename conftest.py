"""Fixtures for all test folders: strict event loops, networks in memory and in the lab."""

from hypothesis import settings

pytest_plugins = ["taps_core.testing.fixtures", "tests.lab.plugin", "tests.lab.network"]

# No test depends on speed.
settings.register_profile("taps", deadline=None)
settings.load_profile("taps")
