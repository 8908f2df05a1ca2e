"""The security layers in memory keep what the suite asks for."""

from __future__ import annotations

from taps_core.testing import MemoryCookies, MemoryTLS
from taps_core.testing.conformance import SecurityLayerConformance


class TestMemoryTLS(SecurityLayerConformance):
    layer = MemoryTLS()


class TestMemoryCookies(SecurityLayerConformance):
    layer = MemoryCookies()
