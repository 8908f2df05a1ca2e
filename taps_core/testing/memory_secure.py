"""A transport in memory with security of its own and early data: what QUIC is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import Capabilities, Protection, Support
from taps_core.model.messages import MessageContext
from taps_core.testing.memory import refused
from taps_core.testing.memory_connected import WINDOW
from taps_core.testing.memory_flow import joined
from taps_core.testing.memory_stream import MemoryStream, MemoryStreamFlow
from taps_core.testing.memory_wire import Item

if TYPE_CHECKING:
    from taps_core.model.layers import ConnectRequest
    from taps_core.testing.memory import MemoryNetwork
    from taps_core.testing.memory_connected import Chunk

__all__ = ["PROTOCOL", "MemorySecure", "MemorySecureFlow", "scrambling"]

#: What ``allowedSecurityProtocols`` calls it.
PROTOCOL: Final = "memory-tls"


def scrambling(key: int) -> bytes:
    """A table for ``bytes.translate`` that leaves no byte as it is; its own inverse.

    Nothing to protect anything with, but enough to see what is protected.

    Args:
        key: From 1 to 255.
    """
    return bytes(byte ^ key for byte in range(256))


_ON_THE_WIRE = scrambling(0xA5)


class MemorySecureFlow(MemoryStreamFlow):
    """One end of a byte stream that a wiretap does not understand."""

    network: MemoryNetwork

    def take_early(self, data: bytes) -> None:
        """Let ``data`` be the first that comes up here, marked as early data."""
        if self.network.wiretap is not None:
            self.network.wiretap(self.on_the_wire(data))
        context = MessageContext.received({"earlyData": True})
        self.held += len(data)
        self.arrived(Item(data, False, cost=len(data), context=context))

    def on_the_wire(self, data: bytes) -> bytes:
        """Scrambled."""
        return data.translate(_ON_THE_WIRE)


class MemorySecure(MemoryStream):
    """Transport ``memory-secure``: as ``memory-stream``, protected, with early data.

    The handshake takes one more round trip. The first one with a server leaves
    a ticket on the network; with that, ``ConnectRequest.early`` travels beside
    the next handshake, and the server has the flow half a round trip earlier.

    Args:
        network: As for :class:`~taps_core.testing.MemoryStream`.
        window: Likewise.
        chunk: Likewise.
        backlog: Likewise.
        accepts_early: Whether listeners take early data at all.
        most_early: Largest early data, in bytes, that listeners take.
    """

    name = "memory-secure"
    capabilities = Capabilities.byte_stream(zeroRttMsg=Support.OPTIONAL).but(
        effects={"final": Support.ALWAYS},
        early_data=True,
        protection=Protection(protocols=(PROTOCOL,)),
    )
    _flow = MemorySecureFlow

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        window: int = WINDOW,
        chunk: Chunk | None = None,
        backlog: int = 128,
        accepts_early: bool = True,
        most_early: int = 16 * 1024,
    ) -> None:
        super().__init__(network, window=window, chunk=chunk, backlog=backlog)
        self._accepts_early = accepts_early
        self._most_early = most_early

    async def connect(self, request: ConnectRequest) -> MemorySecureFlow:
        """A flow to the listener at ``request.remote``, two round trips later."""
        network = self._network
        here, there = network.ends(self.name, request)
        listener = await network.reach(self.name, here, there)
        flow, peer = self._pair(request, here, there, listener)
        assert isinstance(flow, MemorySecureFlow)  # by _flow
        assert isinstance(peer, MemorySecureFlow)  # by _flow
        early = request.early
        accepted = False
        one_way = network.round_trip(here[0], there[0]) / 2
        try:
            await asyncio.sleep(one_way)
            if early is not None and there in network.tickets and listener.facts["accepts_early"]:
                data = joined(early.data)
                accepted = 0 < len(data) <= listener.facts["most_early"]
                if accepted:
                    peer.take_early(data)
                    listener.offer(peer)
            await asyncio.sleep(one_way)
        except asyncio.CancelledError:
            flow.abort()
            raise
        if not accepted:
            listener.offer(peer)
        if flow.is_over:  # the listener was closed meanwhile, or who got the early data gave up
            raise refused(there)
        if accepted and early is not None:
            early.taken = True
        network.tickets.add(there)
        return flow

    def _facts(self) -> dict[str, Any]:
        return {
            **super()._facts(),
            "accepts_early": self._accepts_early,
            "most_early": self._most_early,
        }
