"""SCTP over UDP keeps what every transport of Messages promises, over loopback."""

from __future__ import annotations

from taps_sctp import SCTPOverUDP

from taps_core.testing.conformance import MessageConformance

from .udp_paths import needed

needed()


class TestSCTPOverUDP(MessageConformance):
    transport = SCTPOverUDP()
