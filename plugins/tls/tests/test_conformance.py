"""TLS keeps what every security layer promises, and over it a byte stream is still one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.plugin import LocalEndpoint
from taps_core.testing import MemoryNetwork, MemoryStream, random_chunks
from taps_core.testing.conformance import ByteStreamConformance, SecurityLayerConformance
from taps_tcp import taps_transports
from taps_tls import taps_security_layers

from .secured import Secured

if TYPE_CHECKING:
    from taps_core.plugin import SecurityLayer

LAYER: SecurityLayer
(LAYER,) = taps_security_layers()
(TCP,) = taps_transports()


class TestTLS(SecurityLayerConformance):
    layer = LAYER


class TestTLSOverMemory(ByteStreamConformance):
    transport = Secured(LAYER, MemoryStream(MemoryNetwork()))


class TestTLSOverMemoryInChunks(ByteStreamConformance):
    transport = Secured(LAYER, MemoryStream(MemoryNetwork(), chunk=random_chunks(1)))


class TestTLSOverTCP(ByteStreamConformance):
    transport = Secured(LAYER, TCP)


class TestTLSOverTCPAndIPv6(ByteStreamConformance):
    transport = Secured(LAYER, TCP)
    local = LocalEndpoint(ip_address="::1", port=0)
