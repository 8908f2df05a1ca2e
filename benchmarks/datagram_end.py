"""One end of UDP work: a process of its own for :mod:`benchmarks.datagrams`.

``KIND LOOP`` opens a socket that counts what comes, and prints its port. It obeys
lines on stdin, each with a line: ``count`` (how many datagrams have come since the
last time), ``pour PORT BATCHES`` (send so many batches there; the seconds that it
took) and ``ping PORT COUNT`` (so many there and back; the seconds).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

import taps_core as taps
from benchmarks.harness import LOOPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

#: Datagrams of a batch, and their size.
BATCH: Final = 50
SIZE: Final = 200
#: Of a ping-pong.
SMALL: Final = 64
PLAIN: Final = taps.SecurityParameters.disabled()


class Taps:
    """A Listener with a handler, and Connections.

    Args:
        server: Security of the Listener.
        client: Security of Connections.
    """

    def __init__(
        self, server: taps.SecurityParameters = PLAIN, client: taps.SecurityParameters = PLAIN
    ) -> None:
        self.server = server
        self.client = client
        self.received = 0

    async def open(self) -> int:
        here = taps.Preconnection(
            local="127.0.0.1:0",
            transport=taps.TransportProperties.unreliable_datagram(),
            security=self.server,
        )
        self.listener = await here.listen(self.count)
        return self.listener.local_endpoints[0].port or 0

    async def count(self, connection: taps.Connection[bytes]) -> None:
        async for _ in connection:
            self.received += 1

    @contextlib.asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[taps.Connection[bytes]]:
        there = taps.Preconnection(
            remote=f"127.0.0.1:{port}",
            transport=taps.TransportProperties.unreliable_datagram(),
            security=self.client,
        )
        async with there.initiate() as connection:
            yield connection

    async def pour(self, port: int, batches: int) -> float:
        data = bytes(SIZE)
        async with self.connect(port) as connection:
            begin = perf_counter()
            for _ in range(batches):
                with connection.batch():
                    for _ in range(BATCH):
                        await connection.send(data)
                await asyncio.sleep(0)
            return perf_counter() - begin

    async def ping(self, port: int, count: int) -> float:
        data = bytes(SMALL)
        async with self.connect(port) as connection:
            begin = perf_counter()
            for _ in range(count):
                await connection.send(data)
                await connection.receive()
            return perf_counter() - begin


class Counting(asyncio.DatagramProtocol):
    """Counts, as it would hand to a queue."""

    received = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received += 1


class Answers(asyncio.DatagramProtocol):
    """Somebody waits for the next datagram."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[bytes] | None = None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(data)


class Handwritten:
    """asyncio's DatagramProtocol."""

    @property
    def received(self) -> int:
        return self.counting.received

    @received.setter
    def received(self, value: int) -> None:
        self.counting.received = value

    async def open(self) -> int:
        loop = asyncio.get_running_loop()
        transport, self.counting = await loop.create_datagram_endpoint(
            Counting, local_addr=("127.0.0.1", 0)
        )
        return int(transport.get_extra_info("sockname")[1])

    async def pour(self, port: int, batches: int) -> float:
        data = bytes(SIZE)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Answers, remote_addr=("127.0.0.1", port))
        begin = perf_counter()
        for _ in range(batches):
            for _ in range(BATCH):
                transport.sendto(data)
            await asyncio.sleep(0)
        seconds = perf_counter() - begin
        transport.close()
        return seconds

    async def ping(self, port: int, count: int) -> float:
        data = bytes(SMALL)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            Answers, remote_addr=("127.0.0.1", port)
        )
        begin = perf_counter()
        for _ in range(count):
            protocol.waiter = loop.create_future()
            transport.sendto(data)
            await protocol.waiter
        seconds = perf_counter() - begin
        transport.close()
        return seconds


KINDS: Final[dict[str, Callable[[], Any]]] = {"taps": Taps, "protocol": Handwritten}


async def obey(end: Any) -> None:
    """Open a socket, print its port, and do what lines on stdin say."""
    # Whoever is too slow loses datagrams here, and that is what is measured.
    logging.getLogger("taps_udp").setLevel(logging.ERROR)
    print(await end.open(), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order, *numbers = line.split()
        gc.collect()
        if order == "count":
            print(end.received, flush=True)
            end.received = 0
        else:
            work = cast("Callable[[int, int], Any]", getattr(end, order))
            print(await work(*map(int, numbers)), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[2]]) as runner:
        runner.run(obey(KINDS[sys.argv[1]]()))
