"""A listener and its clients at the seam, with nothing above them but recorders."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from taps_core.model.messages import MessageContext, SendRecord
from taps_core.testing.recorder import CheckedFlow, Recorder
from taps_core.testing.requests import accept_request, connect_request, listen_request

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.flow import Data, Flow
    from taps_core.model.layers import EarlyData, ListeningFlow, SecurityLayer, Transport
    from taps_core.model.security import SecurityParameters

__all__ = ["End", "Rig"]


class End:
    """One end of a flow: the flow, watched, and what it called up.

    Attributes:
        flow: What to call down.
        recorder: What came up.
    """

    def __init__(self, flow: Flow, start: bool = True) -> None:
        self.flow = CheckedFlow(flow)
        self.recorder = Recorder()
        self.started = False
        if start:
            self.start()

    def start(self) -> None:
        """Start the flow; done already unless it was asked otherwise."""
        self.started = True
        self.flow.start(self.recorder)

    def send(self, *messages: Data, **message_properties: Any) -> SendRecord | None:
        """Send whole Messages with the same properties, and flush.

        Returns:
            What their properties were put into, if there are any.
        """
        record = None
        if message_properties:
            context = MessageContext(**message_properties)
            record = SendRecord(context, context.properties)
        for message in messages:
            self.flow.send(message, record, True)
        self.flow.flush()
        return record

    def is_over(self) -> bool:
        """Whether the flow has said that it is closed."""
        return self.recorder.is_closed

    async def has_data(self, data: bytes) -> None:
        """Wait until just these bytes have come up, however they were divided."""
        await self.recorder.until(lambda: len(self.recorder.data) >= len(data))
        assert self.recorder.data == data, f"{self.recorder.data!r} is not {data!r}"

    async def has_closed(self) -> None:
        """Wait for ``closed``."""
        await self.recorder.until(lambda: self.recorder.is_closed)


class Rig:
    """A listener of one transport, as an async context manager.

    ::

        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.send(b"hello")
            await server.has_data(b"hello")

    Leaving aborts every flow that is not closed, closes the listener, waits for
    the end of all, and fails if a rule of the data path was breached.

    Args:
        transport: Connects and listens.
        security: Wraps both sides, if given.
        local: Where to listen.
        parameters: Security Parameters of the listener and of clients;
            ``None``: disabled.

    Attributes:
        listener: The listener.
        ends: Both sides' ends, in the order in which they were made.
    """

    listener: ListeningFlow

    def __init__(
        self,
        transport: Transport,
        security: SecurityLayer | None = None,
        *,
        local: str = "127.0.0.1:0",
        parameters: tuple[SecurityParameters, SecurityParameters] | None = None,
    ) -> None:
        self._server = None if parameters is None else parameters[0]
        self._client = None if parameters is None else parameters[1]
        self._transport = transport
        self._security = security
        self._local = local
        self._inbound: deque[tuple[Flow, Any]] = deque()
        self._arrived = asyncio.Event()
        self.ends: list[End] = []

    async def __aenter__(self) -> Self:
        request = listen_request(self._local, self._incoming, security=self._server)
        if self._security is not None:
            door = self._security.door(request.properties, request.security)
            request = listen_request(self._local, self._incoming, door=door, security=self._server)
        self.listener = await self._transport.listen(request)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.listener.close()
        for flow, _ in self._inbound:
            flow.abort()
        for end in self.ends:
            if not end.recorder.is_closed:
                end.flow.abort()
        if error is None:
            for end in self.ends:
                if end.started:
                    await end.has_closed()
                end.flow.check()

    @property
    def remote(self) -> RemoteEndpoint:
        """Where a client finds the listener."""
        return connect_request(str(self.listener.local_endpoint)).remote

    async def connect(
        self, *, early: EarlyData | None = None, start: bool = True, **properties: Any
    ) -> End:
        """A client's end."""
        request = connect_request(self.remote, early=early, security=self._client, **properties)
        if self._security is None:
            flow = await self._transport.connect(request)
        else:
            flow = await self._security.connect(self._transport, request)
        return self._end(flow, start)

    async def accept(self, *, start: bool = True) -> End:
        """The server's end of the next flow; over datagrams there is one once something came."""
        while not self._inbound:
            self._arrived.clear()
            await self._arrived.wait()
        flow, admitted = self._inbound.popleft()
        if self._security is not None:
            request = accept_request(admitted, security=self._server)
            flow = await self._security.accept(flow, request)
        return self._end(flow, start)

    async def pair(self) -> tuple[End, End]:
        """Both ends of a new flow, after a first Message that is already forgotten."""
        accepting = asyncio.ensure_future(self.accept())
        try:
            client = await self.connect()
            client.send(b"first")
            server = await accepting
        except BaseException:
            accepting.cancel()
            raise
        await server.has_data(b"first")
        server.recorder.forget()
        return client, server

    def _incoming(self, flow: Flow, admitted: Any) -> None:
        self._inbound.append((flow, admitted))
        self._arrived.set()

    def _end(self, flow: Flow, start: bool) -> End:
        end = End(flow, start)
        self.ends.append(end)
        return end
