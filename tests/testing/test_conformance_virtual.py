"""The virtual transports keep what the suites ask for, on paths of all kinds."""

from __future__ import annotations

import pytest

from taps_core.testing import VirtualDatagram, VirtualNetwork, VirtualStream
from taps_core.testing.conformance import ByteStreamConformance, DatagramConformance
from tests.testing.between import Between

# Every combination there is, which takes its time.
pytestmark = pytest.mark.slow

HOSTS = [VirtualNetwork().client for _ in range(3)]


class TestStreamOnOneHost(ByteStreamConformance):
    loops = ("virtual",)
    transport = VirtualStream(HOSTS[0])


class TestStreamOnRealTime(ByteStreamConformance):
    transport = VirtualStream(HOSTS[1])


class TestStreamFarAway(ByteStreamConformance):
    loops = ("virtual",)
    transport = Between(VirtualStream, latency=0.05, bandwidth=10_000_000, queue=200_000, mtu=9000)


class TestStreamOnABadPath(ByteStreamConformance):
    loops = ("virtual",)
    patience = 300.0
    transport = Between(
        VirtualStream,
        latency=0.01,
        jitter=0.02,
        loss=0.05,
        reorder=0.1,
        duplicate=0.05,
    )


class TestDatagramOnOneHost(DatagramConformance):
    loops = ("virtual",)
    transport = VirtualDatagram(HOSTS[2])


class TestDatagramFarAway(DatagramConformance):
    loops = ("virtual",)
    settling = 1.0
    transport = Between(VirtualDatagram, latency=0.02, bandwidth=1_000_000)


class TestDatagramOnABadPath(DatagramConformance):
    loops = ("virtual",)
    settling = 1.0
    transport = Between(
        VirtualDatagram, latency=0.005, jitter=0.01, loss=0.2, reorder=0.2, duplicate=0.1
    )


def test_the_networks_are_empty_when_all_suites_are_done() -> None:
    far = (TestStreamFarAway, TestStreamOnABadPath, TestDatagramFarAway, TestDatagramOnABadPath)
    for network in [host.network for host in HOSTS] + [suite.transport.network for suite in far]:
        assert network.open_flows == 0, network.flows
        assert network.open_listeners == 0
