"""The same work in four ways: ours, asyncio streams, a hand-written Protocol, anyio.

And in two ways over TLS: ours, once with sessions resumed and once without, and
asyncio's own, which resumes none. And in NEATPy's way, which stands on ours.

Each candidate connects to the peer and sends and receives frames (a length of four
bytes before each), or bare bytes. What it is made of is imported when it connects first,
so that a process holds one candidate only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

__all__ = [
    "CANDIDATES",
    "Anyio",
    "Candidate",
    "Front",
    "Handwritten",
    "Ours",
    "OursBare",
    "Peer",
    "SecureAnew",
    "SecureOurs",
    "SecureStreams",
    "Streams",
]


class Peer(NamedTuple):
    """Where the other side listens."""

    port: int
    secure_port: int
    certificate: bytes
    """What it shows there, in DER."""

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """From words, as it says them."""
        port, secure_port, certificate = words
        return cls(int(port), int(secure_port), bytes.fromhex(certificate))

    def told(self) -> list[str]:
        """Those words."""
        return [str(self.port), str(self.secure_port), self.certificate.hex()]


@functools.cache
def _module(name: str) -> Any:
    """Imported once, as programs do at their top."""
    return importlib.import_module(name)


#: What is asked for where there are no frames.
_READ: Final = 256 * 1024


class Candidate(ABC):
    """One connection to the peer."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def connect(
        cls, there: Peer, *, framed: bool = True
    ) -> contextlib.AbstractAsyncContextManager[Candidate]:
        """A connection, closed at the end."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """A frame, or bytes."""

    @abstractmethod
    async def receive(self) -> bytes:
        """The next frame, or the bytes that are there."""

    # The loops are written out in each candidate where a call in between
    # would be measured too.

    async def ping_pong(self, data: bytes, count: int) -> None:
        """Send a frame and wait for it to come back, again and again."""
        for _ in range(count):
            await self.send(data)
            await self.receive()

    async def send_all(self, data: bytes, count: int) -> None:
        """Send, then wait for the frame that says that all is there."""
        for _ in range(count):
            await self.send(data)
        await self.receive()

    async def receive_all(self, count: int) -> None:
        """Receive so many frames."""
        for _ in range(count):
            await self.receive()

    async def receive_bytes(self, count: int) -> None:
        """Receive so many bytes."""
        while count > 0:
            count -= len(await self.receive())


class Ours(Candidate):
    """A Connection with the length-prefix framer, or without any."""

    name = "taps"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, there: Peer, *, framed: bool = True) -> AsyncIterator[Candidate]:
        taps = _module("taps_core")

        port, security = cls.reach(there)
        preconnection = taps.Preconnection(
            remote=f"127.0.0.1:{port}",
            security=security,
            framers="length-prefix" if framed else None,
        )
        async with preconnection.initiate() as connection:
            yield cls(connection)

    @classmethod
    def reach(cls, there: Peer) -> tuple[int, Any]:
        """Port, and Security Parameters."""
        taps = _module("taps_core")

        return there.port, taps.SecurityParameters.disabled()

    async def send(self, data: bytes) -> None:
        await self.connection.send(data)

    async def receive(self) -> bytes:
        return cast("bytes", (await self.connection.receive()).data)

    async def ping_pong(self, data: bytes, count: int) -> None:
        connection = self.connection
        for _ in range(count):
            await connection.send(data)
            await connection.receive()

    async def send_all(self, data: bytes, count: int) -> None:
        connection = self.connection
        for _ in range(count):
            await connection.send(data)
        await connection.receive(max_length=1024)

    async def receive_all(self, count: int) -> None:
        connection = self.connection
        for _ in range(count):
            await connection.receive()

    async def receive_bytes(self, count: int) -> None:
        connection = self.connection
        while count > 0:
            count -= len(await connection.receive(max_length=1 << 20))


class Streams(Candidate):
    """asyncio streams, framing by hand."""

    name = "asyncio streams"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, there: Peer, *, framed: bool = True) -> AsyncIterator[Candidate]:
        reader, writer = await cls.open(there)
        try:
            yield (cls if framed else BareStreams)(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    @classmethod
    async def open(cls, there: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", there.port)

    async def send(self, data: bytes) -> None:
        self.writer.write(len(data).to_bytes(4) + data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        length = int.from_bytes(await self.reader.readexactly(4))
        return await self.reader.readexactly(length)

    async def ping_pong(self, data: bytes, count: int) -> None:
        reader, writer = self.reader, self.writer
        for _ in range(count):
            writer.write(len(data).to_bytes(4) + data)
            await writer.drain()
            await reader.readexactly(int.from_bytes(await reader.readexactly(4)))

    async def send_all(self, data: bytes, count: int) -> None:
        writer = self.writer
        for _ in range(count):
            writer.write(len(data).to_bytes(4) + data)
            await writer.drain()
        await self.receive()

    async def receive_all(self, count: int) -> None:
        reader = self.reader
        for _ in range(count):
            await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


class BareStreams(Streams):
    """The same without frames."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        return await self.reader.read(_READ)

    async def send_all(self, data: bytes, count: int) -> None:
        writer = self.writer
        for _ in range(count):
            writer.write(data)
            await writer.drain()
        await self.receive()

    async def receive_bytes(self, count: int) -> None:
        reader = self.reader
        while count > 0:
            count -= len(await reader.read(_READ))


class Handwritten(Candidate, asyncio.Protocol):
    """A Protocol with a queue and a future: what one writes when streams are too slow."""

    name = "asyncio Protocol"
    framed = True

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.rest = b""
        self.frames: list[bytes] = []
        self.next = 0
        self.waiter: asyncio.Future[None] | None = None
        self.full: asyncio.Future[None] | None = None
        self.lost = self.loop.create_future()

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, there: Peer, *, framed: bool = True) -> AsyncIterator[Candidate]:
        loop = asyncio.get_running_loop()
        kind = cls if framed else Bare
        transport, protocol = await loop.create_connection(kind, "127.0.0.1", there.port)
        try:
            yield protocol
        finally:
            transport.close()
            await protocol.lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        self.full = self.loop.create_future()

    def resume_writing(self) -> None:
        assert self.full is not None
        self.full.set_result(None)
        self.full = None

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        position, size = 0, len(data)
        while size - position >= 4:
            end = position + 4 + int.from_bytes(data[position : position + 4])
            if end > size:
                break
            self.frames.append(data[position + 4 : end])
            position = end
        self.rest = data[position:]
        if self.waiter is not None and self.next < len(self.frames):
            self.waiter.set_result(None)
            self.waiter = None

    async def send(self, data: bytes) -> None:
        self.transport.write(len(data).to_bytes(4) + data)
        if self.full is not None:
            await self.full

    async def receive(self) -> bytes:
        if self.next == len(self.frames):
            self.frames.clear()
            self.next = 0
            self.waiter = self.loop.create_future()
            await self.waiter
        self.next += 1
        return self.frames[self.next - 1]

    async def ping_pong(self, data: bytes, count: int) -> None:
        transport = self.transport
        for _ in range(count):
            transport.write(len(data).to_bytes(4) + data)
            await self.receive()

    async def send_all(self, data: bytes, count: int) -> None:
        transport = self.transport
        for _ in range(count):
            transport.write(len(data).to_bytes(4) + data)
            if self.full is not None:
                await self.full
        await self.receive()


class Bare(Handwritten):
    """The same without frames."""

    def data_received(self, data: bytes) -> None:
        self.frames.append(data)
        if self.waiter is not None:
            self.waiter.set_result(None)
            self.waiter = None

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        if self.full is not None:
            await self.full

    async def send_all(self, data: bytes, count: int) -> None:
        transport = self.transport
        for _ in range(count):
            transport.write(data)
            if self.full is not None:
                await self.full
        await self.receive()


class Anyio(Candidate):
    """anyio streams, framing by hand."""

    name = "anyio streams"

    def __init__(self, stream: Any, buffered: Any) -> None:
        self.stream = stream
        self.buffered = buffered

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, there: Peer, *, framed: bool = True) -> AsyncIterator[Candidate]:
        anyio, buffered = _module("anyio"), _module("anyio.streams.buffered")
        async with await anyio.connect_tcp("127.0.0.1", there.port) as stream:
            yield cls(stream, buffered.BufferedByteReceiveStream(stream))

    async def send(self, data: bytes) -> None:
        await self.stream.send(len(data).to_bytes(4) + data)

    async def receive(self) -> bytes:
        length = int.from_bytes(await self.buffered.receive_exactly(4))
        return cast("bytes", await self.buffered.receive_exactly(length))


class SecureOurs(Ours):
    """Ours over TLS, as it is without being told anything but whom to trust."""

    name = "taps TLS"
    resumes = True

    @classmethod
    def reach(cls, there: Peer) -> tuple[int, Any]:
        return there.secure_port, _security(there.certificate, cls.resumes)


class OursBare(Ours):
    """A Connection without framer: what is there will do."""

    name = "taps, bare"

    async def receive(self) -> bytes:
        return cast("bytes", (await self.connection.receive(min_incomplete_length=1)).data)

    async def ping_pong(self, data: bytes, count: int) -> None:
        connection = self.connection
        for _ in range(count):
            await connection.send(data)
            await connection.receive(min_incomplete_length=1)


class Front(Candidate):
    """NEATPy's API on ours, without a framer: its programs live on handlers."""

    name = "neatpy"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, there: Peer, *, framed: bool = True) -> AsyncIterator[Candidate]:
        if framed:
            raise ValueError("only bare bytes are compared")
        loop = asyncio.get_running_loop()
        ready, closed = loop.create_future(), loop.create_future()
        connection = _preconnection(there.port).initiate()
        connection.HANDLE_STATE_READY = ready.set_result
        connection.HANDLE_STATE_CLOSED = closed.set_result
        await ready
        yield cls(connection)
        connection.close()
        await closed

    async def send(self, data: bytes) -> None:
        self.connection.send(data)

    async def receive(self) -> bytes:
        arrived = asyncio.get_running_loop().create_future()
        self.connection.receive(lambda connection, message, *_: arrived.set_result(message.data))
        return cast("bytes", await arrived)

    async def ping_pong(self, data: bytes, count: int) -> None:
        done = asyncio.get_running_loop().create_future()
        left = count

        def answered(
            connection: Any, message: Any, context: Any, is_end_of_message: Any, error: Any
        ) -> None:
            nonlocal left
            left -= 1
            if left:
                connection.send(data)
                connection.receive(answered)
            else:
                done.set_result(None)

        self.connection.send(data)
        self.connection.receive(answered)
        await done


@functools.cache
def _preconnection(port: int) -> Any:
    import neatpy

    remote = neatpy.RemoteEndpoint()
    remote.with_address("127.0.0.1")
    remote.with_port(port)
    profile = neatpy.TransportPropertyProfiles.RELIABLE_INORDER_STREAM
    return neatpy.Preconnection(
        remote_endpoint=remote, transport_properties=neatpy.TransportProperties(profile)
    )


class SecureAnew(SecureOurs):
    """The same with a whole handshake each time."""

    name = "taps TLS, none resumed"
    resumes = False


@functools.cache
def _security(certificate: bytes, resumes: bool) -> Any:
    import taps_core as taps

    return taps.SecurityParameters(
        trusted_certificates=certificate, max_cached_sessions=None if resumes else 0
    )


class SecureStreams(Streams):
    """asyncio streams with ``ssl=``, and a context that is made once."""

    name = "asyncio TLS streams"

    @classmethod
    async def open(cls, there: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", there.secure_port, ssl=_context(there.certificate)
        )


@functools.cache
def _context(certificate: bytes) -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context(cadata=certificate)


CANDIDATES: Final[dict[str, type[Candidate]]] = {
    kind.name: kind
    for kind in (
        *(Ours, Streams, Handwritten, Anyio, SecureOurs, SecureAnew, SecureStreams),
        *(OursBare, Front),
    )
}
