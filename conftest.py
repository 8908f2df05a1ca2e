"""Fixtures for all test folders: strict event loops and in-memory networks."""

from hypothesis import settings

pytest_plugins = ["taps_core.testing.fixtures"]

# No test depends on speed.
settings.register_profile("taps", deadline=None)
settings.load_profile("taps")
