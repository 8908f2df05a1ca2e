"""A security layer and a transport as one transport: what suites for transports work with."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from taps_core.planning.stacks import Stack
from taps_core.plugin import Capabilities, ListeningFlow, TapsError, Transport

if TYPE_CHECKING:
    from taps_core.plugin import (
        ConnectRequest,
        Flow,
        ListenRequest,
        LocalEndpoint,
        SecurityLayer,
    )


class Secured(Transport):
    """Connects and listens as ``lower``, and shakes hands before it gives a flow away."""

    def __init__(self, layer: SecurityLayer, lower: Transport) -> None:
        table = lower.availability().capabilities or lower.capabilities
        assert isinstance(table, Capabilities)
        self.layer = layer
        self.lower = lower
        self.name = f"{layer.name}-over-{lower.name}"
        self.capabilities = Stack(lower, table, layer, layer.capabilities).bare
        self.properties = lower.properties
        self.server, self.client = layer.acquainted()

    def loopback(self) -> LocalEndpoint | None:
        return self.lower.loopback()

    async def connect(self, request: ConnectRequest) -> Flow:
        request = dataclasses.replace(request, security=self.client)
        return await self.layer.connect(self.lower, request)

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        door = self.layer.door(request.properties, self.server)
        listener = SecuredListener(self, request)
        listener.lower = await self.lower.listen(
            dataclasses.replace(
                request, security=self.server, door=door, incoming=listener.incoming
            )
        )
        return listener


class SecuredListener(ListeningFlow):
    """Hands over whoever is through with the handshake, unless it is closed by then."""

    lower: ListeningFlow

    def __init__(self, transport: Secured, request: ListenRequest) -> None:
        self._transport = transport
        self._request = request
        self._handshakes: set[asyncio.Task[None]] = set()

    def incoming(self, flow: Flow, admitted: Any) -> None:
        task = asyncio.ensure_future(self._shake(flow, admitted))
        self._handshakes.add(task)
        task.add_done_callback(functools.partial(self._over, flow))

    def _over(self, flow: Flow, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        if task.cancelled():
            flow.abort()  # it may never have begun

    async def _shake(self, flow: Flow, admitted: Any) -> None:
        from taps_core.testing import accept_request

        request = accept_request(admitted, security=self._transport.server)
        try:
            secured = await self._transport.layer.accept(flow, request)
        except (TapsError, OSError):
            return
        try:
            self._request.incoming(secured, None)
        except BaseException:
            secured.abort()
            raise

    @property
    def local_endpoint(self) -> LocalEndpoint:
        return self.lower.local_endpoint

    def pause(self) -> None:
        self.lower.pause()

    def resume(self) -> None:
        self.lower.resume()

    async def close(self) -> None:
        await self.lower.close()
        for task in self._handshakes:
            task.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)
