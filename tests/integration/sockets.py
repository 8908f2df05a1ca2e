"""Connections over real sockets on loopback, for tests that hold for several stacks."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import taps_core as taps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PLAIN = taps.SecurityParameters.disabled()


def preconnection(stack: str, **arguments: Any) -> taps.Preconnection:
    """Leads to one stack: ``"TCP"``, ``"length-prefix/TCP"``, ``"UDP"``; ``"any"``: TCP or UDP."""
    properties = taps.TransportProperties()
    if stack == "UDP":
        properties.unreliable_datagram()
    elif stack == "any":
        properties = taps.TransportProperties(
            reliability="no_preference",
            preserve_order="no_preference",
            congestion_control="no_preference",
            safely_replayable=True,
        )
    framers = stack.split("/", maxsplit=1)[0] if "/" in stack else None
    return taps.Preconnection(
        **{"transport": properties, "security": PLAIN, "framers": framers, **arguments}
    )


class Ends:
    """A Listener, and all that was connected to it."""

    def __init__(self, stack: str, listener: taps.Listener) -> None:
        self.stack = stack
        self.listener = listener
        self.connections: list[taps.Connection[Any]] = []

    async def client(self, **arguments: Any) -> taps.Connection[Any]:
        """Established. Says hello, as over UDP nobody knows of it before."""
        remote = self.listener.remote_endpoint
        client = await preconnection(self.stack, remote=remote, **arguments).initiate()
        self.connections.append(client)
        await client.send(b"hello")
        return client

    async def accept(self) -> taps.Connection[Any]:
        """The next one that said hello."""
        server = await self.listener.accept()
        self.connections.append(server)
        assert (await server.receive(min_incomplete_length=5, max_length=5)).data == b"hello"
        return server

    async def accepted_from(self, client: taps.Connection[Any]) -> taps.Connection[Any]:
        """The other end of ``client``, which says hello for it."""
        await client.send(b"hello")
        self.connections.append(client)
        return await self.accept()


@contextlib.asynccontextmanager
async def listening(
    stack: str, *, local: Any = "127.0.0.1:0", remote: Any = None, **how: Any
) -> AsyncIterator[Ends]:
    """A Listener; in the end everything is aborted. ``how`` is for ``listen``."""
    here = preconnection(stack, local=local, remote=remote)
    async with asyncio.timeout(30), here.listen(**how) as listener:
        ends = Ends(stack, listener)
        try:
            yield ends
        finally:
            for connection in ends.connections:
                connection.abort()


@contextlib.asynccontextmanager
async def pair(stack: str) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Client and server that have nothing left to receive."""
    async with listening(stack) as ends:
        client = await ends.client()
        yield client, await ends.accept()


async def settle() -> None:
    """Turns of the loop, and a moment for the kernel, so that nothing is still coming."""
    for _ in range(5):
        await asyncio.sleep(0.005)


async def until(condition: Callable[[], Any]) -> None:
    """Until it holds; only a failing test waits for long."""
    async with asyncio.timeout(30):
        while not condition():  # no event: often it is the kernel's state
            await asyncio.sleep(0.001)
