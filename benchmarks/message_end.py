"""One end of SCTP work: a process of its own for :mod:`benchmarks.messages`.

``KIND LOOP`` obeys lines on stdin, each with a line: ``ping PORT COUNT`` (so many Messages
of 64 bytes there and back), ``pour PORT COUNT`` (so many of 200,000 bytes there, until
the peer has them) and ``long PORT COUNT`` (of 3,000,000 bytes, likewise); the seconds that it
took.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
from collections import deque
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol

import taps_core as taps
from benchmarks.harness import LOOPS

SMALL: Final = 64
LARGE: Final = 200_000
LONG: Final = 3_000_000
_SCTP: Final = 132
_BUFFER: Final = 2 * 1024 * 1024


class Kind(Protocol):
    """A way to use SCTP."""

    async def connect(self, port: int) -> None: ...

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...

    def abort(self) -> None: ...


class Taps:
    """Ours."""

    async def connect(self, port: int) -> None:
        there = taps.Preconnection(
            remote=f"127.0.0.1:{port}",
            transport=taps.TransportProperties.reliable_message(),
            security=taps.SecurityParameters.disabled(),
        )
        self.connection: taps.Connection[bytes] = await there.initiate()
        assert str(self.connection.stack) == "SCTP"

    async def send(self, data: bytes) -> None:
        await self.connection.send(data)

    async def receive(self) -> bytes:
        return (await self.connection.receive()).data

    def abort(self) -> None:
        self.connection.abort()


class Raw:
    """What one writes with ``add_reader``, ``recvmsg`` and ``sendmsg``."""

    async def connect(self, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP)
        configure(sock)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        self.messages: deque[bytes] = deque()
        self.parts: dict[tuple[int, int], list[bytes]] = {}
        self.waiter: asyncio.Future[None] | None = None
        self.loop.add_reader(sock.fileno(), self.readable)

    def readable(self) -> None:
        for _ in range(64):
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(65536, 256)
            except BlockingIOError:
                return
            info = next(each for _, kind, each in ancillary if kind == 3)
            stream, _, marks, *_ = struct.unpack("=HHHxxIIIIi", info)
            parts = self.parts.setdefault((stream, marks & 1), [])
            parts.append(data)
            if flags & 0x80:
                self.messages.append(b"".join(parts))
                parts.clear()
                if self.waiter is not None:
                    self.waiter.set_result(None)
                    self.waiter = None

    async def send(self, data: bytes) -> None:
        info = struct.pack("=HHIIi", 0, 0, 0, 0, 0)
        while True:
            try:
                self.sock.sendmsg([data], [(_SCTP, 2, info)])
                return
            except BlockingIOError:
                room = self.loop.create_future()
                self.loop.add_writer(self.sock.fileno(), room.set_result, None)
                await room
                self.loop.remove_writer(self.sock.fileno())

    async def receive(self) -> bytes:
        if not self.messages:
            self.waiter = self.loop.create_future()
            await self.waiter
        return self.messages.popleft()

    def abort(self) -> None:
        self.loop.remove_reader(self.sock.fileno())
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def configure(sock: socket.socket) -> None:
    """The same for both sides: without large buffers SCTP stalls, and Nagle's algorithm waits."""
    for forced, usual in ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, usual, _BUFFER)
    sock.setsockopt(_SCTP, 0, struct.pack("=iIII", 0, 500, 10_000, 200))  # SCTP_RTOINFO
    sock.setsockopt(_SCTP, 3, 1)  # SCTP_NODELAY
    sock.setsockopt(_SCTP, 32, 1)  # SCTP_RECVRCVINFO


async def ping(kind: Kind, port: int, count: int) -> float:
    """Small ones, one after the other."""
    await kind.connect(port)
    data = bytes(SMALL)
    await kind.send(b"echo")
    begin = perf_counter()
    for _ in range(count):
        await kind.send(data)
        await kind.receive()
    seconds = perf_counter() - begin
    kind.abort()
    return seconds


async def pour(size: int, kind: Kind, port: int, count: int) -> float:
    """One way, until all is there."""
    await kind.connect(port)
    data = bytes(size)
    await kind.send(b"sink %d" % count)
    begin = perf_counter()
    for _ in range(count):
        await kind.send(data)
    await kind.receive()
    seconds = perf_counter() - begin
    kind.abort()
    return seconds


WORK: Final[dict[str, Any]] = {
    "ping": ping,
    "pour": partial(pour, LARGE),
    "long": partial(pour, LONG),
}
KINDS: Final[dict[str, type[Kind]]] = {"taps": Taps, "raw": Raw}


def main() -> None:
    name, loop = sys.argv[1:]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        for line in sys.stdin:
            work, port, count = line.split()
            gc.collect()  # the garbage of the run before is out of the way
            print(runner.run(WORK[work](KINDS[name](), int(port), int(count))), flush=True)


if __name__ == "__main__":
    main()
