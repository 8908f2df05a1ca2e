"""The virtual transports keep what the suites ask for, on paths of all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.model.endpoints import LocalEndpoint
from taps_core.model.layers import Transport
from taps_core.testing import Host, VirtualDatagram, VirtualNetwork, VirtualStream
from taps_core.testing.conformance import ByteStreamConformance, DatagramConformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from taps_core.model.flow import Flow
    from taps_core.model.layers import ConnectRequest, ListeningFlow, ListenRequest
    from taps_core.testing.virtual_paths import ConditionKeywords

NETWORKS: list[VirtualNetwork] = []


class Between(Transport):
    """Connects on one host and listens on another."""

    def __init__(
        self, make: Callable[[Host], Transport], **conditions: Unpack[ConditionKeywords]
    ) -> None:
        network = VirtualNetwork(seed=7, log_limit=0)
        NETWORKS.append(network)
        network.path(**conditions)
        self.server = network.host("server.example")
        self._here, self._there = make(network.client), make(self.server)
        self.name = self._here.name
        self.capabilities = self._here.capabilities

    def loopback(self) -> LocalEndpoint:
        return LocalEndpoint(ip_address=self.server.addresses[0], port=0)

    async def connect(self, request: ConnectRequest) -> Flow:
        return await self._here.connect(request)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        return await self._there.listen(request)


class TestStreamOnOneHost(ByteStreamConformance):
    loops = ("virtual",)
    transport = VirtualStream(VirtualNetwork().client)


class TestStreamOnRealTime(ByteStreamConformance):
    transport = VirtualStream(VirtualNetwork().client)


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
    transport = VirtualDatagram(VirtualNetwork().client)


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
    for network in NETWORKS:
        assert network.open_flows == 0, network.flows
        assert network.open_listeners == 0
