"""UDP and UDP-Lite keep what every transport with datagrams promises."""

from __future__ import annotations

import pytest

from taps_core.plugin import LocalEndpoint
from taps_core.testing.conformance import DatagramConformance
from taps_udp import taps_transports

UDP, UDP_LITE = taps_transports()
IPV6 = LocalEndpoint(ip_address="::1", port=0)
LITE = pytest.mark.skipif(
    not UDP_LITE.availability().available, reason=UDP_LITE.availability().reason
)


class TestUDP(DatagramConformance):
    transport = UDP


class TestUDPOverIPv6(DatagramConformance):
    transport = UDP
    local = IPV6


@LITE
class TestUDPLite(DatagramConformance):
    transport = UDP_LITE


@LITE
class TestUDPLiteOverIPv6(DatagramConformance):
    transport = UDP_LITE
    local = IPV6
