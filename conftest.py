"""Fixtures for all test folders: strict event loops and in-memory networks."""

pytest_plugins = ["taps_core.testing.fixtures"]
