"""Two hosts of a virtual network as one transport: what suites and rigs can work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taps_core.model.endpoints import LocalEndpoint
from taps_core.model.layers import Transport
from taps_core.testing import Host, VirtualNetwork

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from taps_core.model.flow import Flow
    from taps_core.model.layers import ConnectRequest, ListeningFlow, ListenRequest
    from taps_core.testing.virtual_conditions import ConditionKeywords

__all__ = ["Between"]


class Between(Transport):
    """Connects on one host and listens on another.

    Attributes:
        network: On which both are.
        client: The host that connects.
        server: The host that listens.
        path: From the client to the server.
    """

    def __init__(
        self, make: Callable[[Host], Transport], **conditions: Unpack[ConditionKeywords]
    ) -> None:
        self.network = VirtualNetwork(seed=7)
        self.client = self.network.client
        self.server = self.network.host("server.example")
        self.path = self.network.path(self.client, self.server, **conditions)
        self._here, self._there = make(self.client), make(self.server)
        self.name = self._here.name
        self.capabilities = self._here.capabilities

    def loopback(self) -> LocalEndpoint:
        return LocalEndpoint(ip_address=self.server.addresses[0], port=0)

    async def connect(self, request: ConnectRequest) -> Flow:
        return await self._here.connect(request)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        return await self._there.listen(request)
