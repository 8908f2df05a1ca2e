"""TCP keeps what every transport with a byte stream promises."""

from __future__ import annotations

from taps_core.plugin import LocalEndpoint
from taps_core.testing.conformance import ByteStreamConformance
from taps_tcp import taps_transports

(TCP,) = taps_transports()


class TestTCP(ByteStreamConformance):
    transport = TCP


class TestTCPOverIPv6(ByteStreamConformance):
    transport = TCP
    local = LocalEndpoint(ip_address="::1", port=0)
