"""Where the scenarios play: each kind of transport in memory, with layers, and TCP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import taps_core as taps
import taps_tcp
from taps_core.plugin import Framer
from taps_core.testing import (
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    MemoryTLS,
)
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

__all__ = ["PLACES", "Kind", "Place", "turns"]

_ANYTHING: dict[str, Any] = {
    "reliability": "no_preference",
    "preserve_order": "no_preference",
    "congestion_control": "no_preference",
    # Datagrams may come twice: a Message that minds that is refused there.
    "safely_replayable": True,
}


class Greeting(Framer):
    """Each side says hello and is ready when it has heard the other."""

    boundaries = False
    max_length = 1024

    def start(self) -> None:
        self.send(b"hello", False)

    def handle_received_data(self) -> None:
        if self.parse(5, 5) is not None:
            self.advance_receive_cursor(5)
            self.make_connection_ready()
            self.start_passthrough()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A stack, and what is true of it."""

    name: str
    plugins: Callable[[MemoryNetwork], Sequence[object]]
    framers: tuple[Any, ...] = ()
    secured: bool = False
    connected: bool = True
    """Whether each end hears of the other's end."""
    streams: bool = False
    """Whether Connections are grouped in one association."""
    in_memory: bool = True


PLACES = (
    Kind(name="stream", plugins=lambda net: [MemoryStream(net)], framers=(LengthPrefix(),)),
    Kind(name="messages", plugins=lambda net: [MemoryMessages(net)], streams=True),
    Kind(name="datagram", plugins=lambda net: [MemoryDatagram(net)], connected=False),
    Kind(
        name="secure",
        plugins=lambda net: [MemorySecure(net)],
        framers=(LengthPrefix(),),
        secured=True,
    ),
    Kind(
        name="tls",
        plugins=lambda net: [MemoryStream(net), MemoryTLS()],
        framers=(LengthPrefix(),),
        secured=True,
    ),
    Kind(
        name="greeting",
        plugins=lambda net: [MemoryStream(net)],
        framers=(Greeting, LengthPrefix()),
    ),
    Kind(
        name="tcp",
        plugins=lambda net: [taps_tcp],
        framers=(LengthPrefix(),),
        in_memory=False,
    ),
)


class Place:
    """One world for one run: a System, and the Preconnections of it.

    Attributes:
        kind: Which stack.
        network: Empty at the beginning and at the end; of no use to TCP.
    """

    def __init__(self, kind: Kind, network: MemoryNetwork) -> None:
        self.kind = kind
        self.network = network
        network.tickets.clear()
        self.system = taps.System(plugins=kind.plugins(network))
        # Not by the first Connection, in a thread: that is a scenario of its own.
        assert self.system.registry.transports

    def preconnection(self, **arguments: Any) -> taps.Preconnection:
        """What is not given is as this place has it."""
        return taps.Preconnection(
            **{
                "transport": taps.TransportProperties(**_ANYTHING),
                "security": None if self.kind.secured else taps.SecurityParameters.disabled(),
                "framers": self.kind.framers,
                "system": self.system,
                **arguments,
            }
        )

    def listen(self, handler: Any = None, *, at: str = "127.0.0.1:0") -> taps.Listener:
        """A Listener that gives handlers no time when it is left."""
        return self.preconnection(local=at).listen(handler, grace=0)

    def to(self, listener: taps.Listener) -> taps.Preconnection:
        """Leads there."""
        return self.preconnection(remote=listener.remote_endpoint)

    @contextlib.asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
        """Client and server, at the end aborted."""
        async with self.listen() as listener:
            client = await self.to(listener).initiate()
            # Over datagrams the peer learns of it by the first Message.
            await client.send(b"hello")
            server = await listener.accept()
            assert (await server.receive()).data == b"hello"
            try:
                yield client, server
            finally:
                await self.end(client, server)

    async def end(self, *connections: taps.Connection[Any]) -> None:
        """Abort them, and see that nothing is left of them."""
        for connection in connections:
            connection.abort()
        async with asyncio.timeout(10):
            while any(each.state is not taps.ConnectionState.CLOSED for each in connections):
                await asyncio.sleep(0)

    @property
    def open(self) -> list[object]:
        """What the System has open or running, tasks included."""
        runtime = self.system.runtime()
        return [*runtime.connections, *runtime.listeners, *runtime.tasks]

    async def until(self, condition: Callable[[], object]) -> None:
        """For what the kernel may take a moment to tell."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0 if self.kind.in_memory else 0.001)


async def turns(number: int = 5) -> None:
    """Let the loop run so often."""
    for _ in range(number):
        await asyncio.sleep(0)
