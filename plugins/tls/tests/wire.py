"""A relay between two ends that keeps what goes through, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

#: So many bytes in a row of what was sent are a find.
WINDOW = 8
_GENERATOR = random.Random(7)  # to be repeatable, not to be secret


def marker(length: int = 64) -> bytes:
    """Bytes that are nowhere by chance; no end of a line is among them."""
    return bytes(_GENERATOR.choices([each for each in range(256) if each not in b"\r\n"], k=length))


class Tap:
    """What went over the wire.

    Attributes:
        port: Where to connect to.
        streams: Bytes of each connection and direction, in order; of datagrams each.
    """

    def __init__(self) -> None:
        self.port = 0
        self.streams: list[bytearray] = []

    def seen(self, markers: list[bytes]) -> list[bytes]:
        """The pieces of :data:`WINDOW` bytes of these that are on the wire."""
        passed = {each for stream in self.streams for each in windows(bytes(stream))}
        return [each for one in markers for each in windows(one) if each in passed]


def windows(data: bytes) -> Iterator[bytes]:
    return (data[at : at + WINDOW] for at in range(len(data) - WINDOW + 1))


class _Half(asyncio.Protocol):
    """One side of a connection through the tap: what comes in here goes out at the other."""

    def __init__(self, tap: Tap, sides: list[_Half], port: int | None = None) -> None:
        self._stream = bytearray()
        tap.streams.append(self._stream)
        self._tap = tap
        self._port = port
        self._sides = sides
        sides.append(self)
        self._held: list[Callable[[asyncio.Transport], None]] = []
        self._other: asyncio.Transport | None = None
        self.connecting: asyncio.Future[Any] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        if self._port is not None:
            there = _Half(self._tap, self._sides)
            there.join(transport)
            connecting = asyncio.get_running_loop().create_connection(
                lambda: there, "127.0.0.1", self._port
            )
            self.connecting = asyncio.ensure_future(connecting)
            self.connecting.add_done_callback(lambda done: self.join(done.result()[0]))

    def join(self, other: asyncio.Transport) -> None:
        self._other = other
        for act in self._held:
            act(other)

    def _do(self, act: Callable[[asyncio.Transport], None]) -> None:
        if self._other is None:
            self._held.append(act)
        elif not self._other.is_closing():
            act(self._other)

    def data_received(self, data: bytes) -> None:
        self._stream += data
        self._do(lambda other: other.write(data))

    def eof_received(self) -> bool:
        self._do(lambda other: other.write_eof())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._do(lambda other: other.close() if exc is None else other.abort())


@contextlib.asynccontextmanager
async def stream_tap(port: int) -> AsyncIterator[Tap]:
    """Relays connections to a port of this machine, with their half-closes and ends."""
    tap = Tap()
    sides: list[_Half] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Half(tap, sides, port), "127.0.0.1", 0
    )
    tap.port = server.sockets[0].getsockname()[1]
    try:
        yield tap
    finally:
        server.close()
        for side in sides:
            if side.connecting is not None:
                await asyncio.wait([side.connecting])
            side.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)


class _Forwarding(asyncio.DatagramProtocol):
    def __init__(self, tap: Tap, port: int, client: Any = None, back: Any = None) -> None:
        self._tap = tap
        self._port = port
        self._client = client
        self._back = back
        self.others: dict[Any, asyncio.Future[Any]] = {}

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._tap.streams.append(bytearray(data))
        if self._back is not None:
            self._back.sendto(data, self._client)
            return
        other = self.others.get(address)
        if other is None:
            opening = asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Forwarding(self._tap, self._port, address, self._transport),
                remote_addr=("127.0.0.1", self._port),
            )
            other = self.others[address] = asyncio.ensure_future(opening)
        other.add_done_callback(lambda done: done.result()[0].sendto(data))


@contextlib.asynccontextmanager
async def datagram_tap(port: int) -> AsyncIterator[Tap]:
    """Relays datagrams to a port of this machine, and answers back."""
    tap = Tap()
    transport, relay = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Forwarding(tap, port), local_addr=("127.0.0.1", 0)
    )
    tap.port = transport.get_extra_info("sockname")[1]
    try:
        yield tap
    finally:
        transport.close()
        for other in relay.others.values():
            (await other)[0].close()
        await asyncio.sleep(0)
