"""A byte stream on a virtual network: what TLS over TCP is to the layers above."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final

from taps_core.model.capabilities import Capabilities, Protection, Support
from taps_core.model.layers import Transport
from taps_core.testing.memory import MemoryListener
from taps_core.testing.memory_connected import WINDOW
from taps_core.testing.memory_stream import MemoryStreamFlow
from taps_core.testing.virtual_wire import VirtualWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.layers import ConnectRequest, ListenRequest
    from taps_core.testing.memory_connected import Chunk
    from taps_core.testing.virtual_host import Host

__all__ = ["PROTECTION", "VirtualListener", "VirtualStream", "VirtualStreamFlow"]

#: What virtual transports count as: whatever of these an application demands. Nothing is
#: encrypted, as nothing leaves the process, and the handshake costs nothing.
PROTECTION: Final = Protection(protocols=("TLSv1.3", "TLSv1.2", "DTLSv1.3", "DTLSv1.2"))


class VirtualStreamFlow(MemoryStreamFlow):
    """One end of a byte stream: as in memory, over a wire that is made of packets."""


class VirtualListener(MemoryListener):
    """The listener of a connected transport on a virtual network.

    Args:
        host: Where.
        kind: Name of the transport.
        request: What ``Transport.listen`` was given.
        backlog: Flows that wait while it is paused; more are refused.
        window: What each of its flows holds for a receiver.
        make: Makes the flow for a wire, once the handshake is over.
    """

    def __init__(
        self,
        host: Host,
        kind: str,
        request: ListenRequest,
        *,
        backlog: int,
        window: int,
        make: Callable[[VirtualWire, contextvars.Context], VirtualStreamFlow],
    ) -> None:
        super().__init__(host, kind, request, backlog=backlog)
        self._host = host
        self._properties = request.properties
        self._window = window
        self._make = make
        self._half_open: set[VirtualWire] = set()

    def answer(self, client: VirtualWire) -> VirtualWire:
        """Answer the ``syn`` of a client."""
        wire = VirtualWire(
            self._host,
            client.kind,
            client.there,
            client.here,
            window=self._window,
            properties=self._properties,
            ready=self._ready,
            failed=lambda _: self._half_open.discard(wire),
            client=client,
        )
        self._half_open.add(wire)
        wire.open()
        return wire

    def _ready(self, wire: VirtualWire) -> VirtualStreamFlow:
        self._half_open.discard(wire)
        flow = self._make(wire, self.context.copy())
        # The wire has to know its flow before anything is done with that.
        self._loop.call_soon(self.offer, flow)
        return flow

    async def close(self) -> None:
        """As any listener; handshakes that go on are given up."""
        await super().close()
        while self._half_open:
            self._half_open.pop().abandon()


class VirtualStream(Transport):
    """Transport ``virtual-stream``: reliable ordered bytes, half-close, no boundaries; secure.

    Args:
        host: On which it is.
        window: Bytes that an end holds for a receiver that does not take them;
            as much again waits at the sender before it says that it is full.
        chunk: Most bytes that come up at once, as for :class:`~taps_core.testing.MemoryStream`.
        backlog: Connections that wait for a paused listener.
    """

    name = "virtual-stream"
    capabilities = Capabilities.byte_stream(
        keepAlive=Support.OPTIONAL, softErrorNotify=Support.OPTIONAL
    ).but(
        effects=dict.fromkeys(("connTimeout", "final", "keepAliveTimeout"), Support.ALWAYS),
        protection=PROTECTION,
    )

    def __init__(
        self,
        host: Host,
        *,
        window: int = WINDOW,
        chunk: Chunk | None = None,
        backlog: int = 128,
    ) -> None:
        self._host = host
        self._window = window
        self._chunk = chunk
        self._backlog = backlog

    async def connect(self, request: ConnectRequest) -> VirtualStreamFlow:
        """A flow to the listener at ``request.remote``, one round trip later."""
        here, there = self._host.ends(self.name, request)
        context = contextvars.copy_context()
        done: asyncio.Future[VirtualStreamFlow] = asyncio.get_running_loop().create_future()

        def ready(wire: VirtualWire) -> VirtualStreamFlow:
            flow = self._make(wire, context, request.remote)
            done.set_result(flow)
            return flow

        wire = VirtualWire(
            self._host,
            self.name,
            here,
            there,
            window=self._window,
            properties=request.properties,
            ready=ready,
            failed=done.set_exception,
        )
        wire.open()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not done.done():
                wire.abandon()
            elif done.exception() is None:
                done.result().abort()
            raise

    async def listen(self, request: ListenRequest) -> VirtualListener:
        """A listener at ``request.local``."""
        return VirtualListener(
            self._host,
            self.name,
            request,
            backlog=self._backlog,
            window=self._window,
            make=self._make,
        )

    def _make(
        self,
        wire: VirtualWire,
        context: contextvars.Context,
        remote: RemoteEndpoint | None = None,
    ) -> VirtualStreamFlow:
        flow = VirtualStreamFlow(
            self._host,
            wire.here,
            wire.there,
            window=self._window,
            chunk=self._chunk,
            context=context,
            remote=remote,
        )
        flow.wire = wire
        return flow
