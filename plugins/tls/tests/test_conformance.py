"""TLS and DTLS keep what every security layer promises; over TLS a byte stream is still one."""

from __future__ import annotations

from taps_core.plugin import LocalEndpoint
from taps_core.testing import MemoryNetwork, MemoryStream, random_chunks
from taps_core.testing.conformance import ByteStreamConformance, SecurityLayerConformance
from taps_tcp import taps_transports
from taps_tls import taps_security_layers

from .secured import Secured

TLS, DTLS = taps_security_layers()
(TCP,) = taps_transports()


class TestTLS(SecurityLayerConformance):
    layer = TLS


class TestDTLS(SecurityLayerConformance):
    layer = DTLS


class TestTLSOverMemory(ByteStreamConformance):
    transport = Secured(TLS, MemoryStream(MemoryNetwork()))


class TestTLSOverMemoryInChunks(ByteStreamConformance):
    transport = Secured(TLS, MemoryStream(MemoryNetwork(), chunk=random_chunks(1)))


class TestTLSOverTCP(ByteStreamConformance):
    transport = Secured(TLS, TCP)


class TestTLSOverTCPAndIPv6(ByteStreamConformance):
    transport = Secured(TLS, TCP)
    local = LocalEndpoint(ip_address="::1", port=0)
