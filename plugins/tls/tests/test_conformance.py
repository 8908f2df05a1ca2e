"""TLS and DTLS keep what every security layer promises; over them streams and
datagrams are what they were."""

from __future__ import annotations

from taps_core.plugin import LocalEndpoint, Transport
from taps_core.testing import (
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemoryStream,
    random_chunks,
)
from taps_core.testing.conformance import (
    ByteStreamConformance,
    DatagramConformance,
    SecurityLayerConformance,
)
from taps_tcp import taps_transports
from taps_tls import taps_security_layers
from taps_udp import taps_transports as taps_udp_transports

from .secured import Secured

TLS, DTLS = taps_security_layers()
(TCP,) = taps_transports()
UDP = next(each for each in taps_udp_transports() if each.name == "udp")


class TestTLS(SecurityLayerConformance):
    layer = TLS


class TestTLSOverMessages(SecurityLayerConformance):
    layer = TLS

    def transport(self, network: MemoryNetwork) -> Transport:
        """That of streams is the other class's."""
        return MemoryMessages(network)


class TestDTLSOverMessages(SecurityLayerConformance):
    layer = DTLS


class TestDTLSOverDatagrams(SecurityLayerConformance):
    layer = DTLS

    def transport(self, network: MemoryNetwork) -> Transport:
        """That of Messages is the other class's."""
        return MemoryDatagram(network)


class TestTLSOverMemory(ByteStreamConformance):
    transport = Secured(TLS, MemoryStream(MemoryNetwork()))


class TestTLSOverMemoryInChunks(ByteStreamConformance):
    transport = Secured(TLS, MemoryStream(MemoryNetwork(), chunk=random_chunks(1)))


class TestTLSOverTCP(ByteStreamConformance):
    transport = Secured(TLS, TCP)


class TestTLSOverTCPAndIPv6(ByteStreamConformance):
    transport = Secured(TLS, TCP)
    local = LocalEndpoint(ip_address="::1", port=0)


class TestDTLSOverUDP(DatagramConformance):
    transport = Secured(DTLS, UDP)
