"""UDP keeps what every transport with datagrams promises."""

from __future__ import annotations

from taps_core.plugin import LocalEndpoint
from taps_core.testing.conformance import DatagramConformance
from taps_udp import taps_transports

(UDP,) = taps_transports()


class TestUDP(DatagramConformance):
    transport = UDP


class TestUDPOverIPv6(DatagramConformance):
    transport = UDP
    local = LocalEndpoint(ip_address="::1", port=0)
