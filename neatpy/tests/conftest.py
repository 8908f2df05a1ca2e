"""NEATPy's API on the test's own loop: over memory, or over what the kernel has."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import neatpy
import taps_core as taps
from neatpy._loop import Work
from taps_core.testing import LocalAuthority, MemoryNetwork, MemoryStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from taps_core.plugin import Transport


class Got(NamedTuple):
    """What a receive handler was called with."""

    data: bytes
    end: bool | None
    error: str | None
    context: neatpy.MessageContext


def called(owner: Any, name: str) -> asyncio.Future[Any]:
    """Assign a handler; the future has what it is called with first: a tuple, unless it is one."""
    future = asyncio.get_running_loop().create_future()

    def handler(*arguments: Any) -> None:
        if not future.done():
            future.set_result(arguments[0] if len(arguments) == 1 else arguments)

    setattr(owner, name, handler)
    return future


def sent() -> tuple[asyncio.Future[Any], Callable[..., None]]:
    """A sent handler, and the future of the reason that it is told."""
    future = asyncio.get_running_loop().create_future()
    return future, lambda connection, reason: future.set_result(reason)


async def received(connection: neatpy.Connection, *lengths: Any, **more: Any) -> Got:
    """What one Receive is answered with."""
    future = asyncio.get_running_loop().create_future()
    connection.receive(
        lambda _, message, context, end, error: future.set_result(
            Got(bytes(message.data), end, error and error.description, context)
        ),
        *lengths,
        **more,
    )
    async with asyncio.timeout(30):
        return await future


async def all_of(connection: neatpy.Connection, length: int) -> bytes:
    """So many bytes of a stream, in as many Receives as it takes."""
    data = b""
    while len(data) < length:
        got = await received(connection)
        assert got.error is None
        data += got.data
    return data


async def turns(number: int = 10) -> None:
    """Let the loop run so often."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    """Until it holds, for what has no event."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


class Log:
    """The names of handlers of a Connection, in the order in which they were called."""

    def __init__(self, connection: neatpy.Connection) -> None:
        self.names: list[str] = []
        for name in (
            "HANDLE_STATE_READY",
            "HANDLE_STATE_CLOSED",
            "HANDLE_STATE_CONNECTION_ERROR",
        ):
            setattr(connection, name, self.noting(name.removeprefix("HANDLE_STATE_")))

    def noting(self, name: str) -> Callable[..., None]:
        """A handler that notes its call."""
        return lambda *_: self.names.append(name)


class World:
    """Preconnections on one System.

    Args:
        *plugins: Transports; without any, those that are installed.
    """

    def __init__(self, *plugins: Transport) -> None:
        self.system = taps.System(plugins=plugins) if plugins else taps.System()
        self.properties = neatpy.TransportProperties()

    def local(self, port: int = 0) -> neatpy.LocalEndpoint:
        endpoint = neatpy.LocalEndpoint()
        endpoint.with_address("127.0.0.1")
        endpoint.with_port(port)
        return endpoint

    def to(self, listener: neatpy.Listener) -> neatpy.RemoteEndpoint:
        endpoint = neatpy.RemoteEndpoint()
        endpoint.with_address("127.0.0.1")
        port = listener.local_endpoints[0].port
        assert port is not None
        endpoint.with_port(port)
        return endpoint

    def preconnection(self, *framers: neatpy.Framer, **arguments: Any) -> neatpy.Preconnection:
        made = neatpy.Preconnection(**{"transport_properties": self.properties, **arguments})
        for framer in framers:
            made.add_framer(framer)
        return made

    async def listen(
        self, *framers: neatpy.Framer, received: Any = None, **arguments: Any
    ) -> neatpy.Listener:
        """Listening."""
        made = self.preconnection(*framers, local_endpoint=self.local(), **arguments)
        listener = made.listen()
        listener.HANDLE_CONNECTION_RECEIVED = received
        async with asyncio.timeout(30):
            await called(listener, "HANDLE_STATE_LISTENING")
        return listener

    def initiate(
        self, listener: neatpy.Listener, *framers: neatpy.Framer, **arguments: Any
    ) -> neatpy.Connection:
        """Establishing."""
        remote = self.to(listener)
        return self.preconnection(*framers, remote_endpoint=remote, **arguments).initiate()

    async def ready(
        self, listener: neatpy.Listener, *framers: neatpy.Framer, **arguments: Any
    ) -> neatpy.Connection:
        """Established."""
        connection = self.initiate(listener, *framers, **arguments)
        async with asyncio.timeout(30):
            await called(connection, "HANDLE_STATE_READY")
        return connection

    @contextlib.asynccontextmanager
    async def pair(
        self, *framers: neatpy.Framer, **arguments: Any
    ) -> AsyncIterator[tuple[neatpy.Connection, neatpy.Connection]]:
        """Client and server."""
        listener = await self.listen(*framers, **arguments)
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await self.ready(listener, *framers, **arguments)
        if unconnected(client):
            # The peer learns of it by the first Message.
            client.send(b"hello")
        async with asyncio.timeout(30):
            server = await accepted
        if isinstance(server, tuple):
            server = server[0]
        if unconnected(client):
            assert (await received(server)).data == b"hello"
        try:
            yield client, server
        finally:
            client.stop()
            await over()

    @contextlib.contextmanager
    def use(self) -> Iterator[World]:
        with self.system.use():
            yield self


def unconnected(connection: neatpy.Connection) -> bool:
    """Whether it is over datagrams."""
    return str(connection.stack).endswith(("UDP", "DATAGRAM"))


async def over() -> None:
    """Until nothing of NEATPy's is open any more."""
    async with asyncio.timeout(30):
        await Work.here().until_over()


@pytest.fixture
def memory(memory_network: MemoryNetwork) -> Iterator[World]:
    """Over a byte stream in memory."""
    with World(MemoryStream(memory_network)).use() as world:
        yield world


@pytest.fixture
def world() -> type[World]:
    """:class:`World`, to be made with transports."""
    return World


def environment(folder: Path, *names: str) -> dict[str, str]:
    """Of programs that have a certificate of ``names``, and trust its authority.

    Args:
        folder: Where their files are to be.
        *names: None: those of this machine.
    """
    authority = LocalAuthority()
    mine = authority.identity(*names)
    files = {"mine.pem": mine.chain, "key.pem": mine.key, "trusted.pem": authority.pem}
    for name, content in files.items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return {
        "NEATPY_CERTIFICATE": str(folder / "mine.pem"),
        "NEATPY_PRIVATE_KEY": str(folder / "key.pem"),
        "SSL_CERT_FILE": str(folder / "trusted.pem"),
    }
