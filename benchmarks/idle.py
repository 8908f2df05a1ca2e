"""One end of many connections that do nothing: a process of its own for :mod:`benchmarks.memory`.

``server KIND LOOP`` prints its port and serves; ``client KIND LOOP PORT``
connects. Both obey lines on stdin: ``open N`` (the client opens N more, each
with one frame there and back, and keeps them), ``memory`` (print the bytes that
this process has for itself), and the end of stdin.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
from benchmarks.harness import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN: Final = taps.SecurityParameters.disabled()
SMAPS: Final = Path("/proc/self/smaps_rollup")
#: Handshakes at a time: a backlog that overflows costs seconds.
AT_ONCE: Final = 100


def private_memory() -> int:
    """Bytes that only this process has (USS); the interpreter's own pages are shared."""
    gc.collect()
    lines = [line.split() for line in SMAPS.read_text().splitlines()]
    return sum(int(size) for name, size, *_ in lines if name.startswith("Private_")) * 1024


class Taps:
    """Framed Connections; the server's by a Listener with a handler."""

    def __init__(self) -> None:
        self.open: list[taps.Connection[bytes]] = []
        self.there: taps.Preconnection | None = None

    async def serve(self) -> int:
        here = taps.Preconnection(local="127.0.0.1:0", security=PLAIN, framers="length-prefix")
        self.listener = await here.listen(self.echo)
        return self.listener.remote_endpoint.port or 0

    async def echo(self, connection: taps.Connection[bytes]) -> None:
        async for message in connection:
            await connection.send(message.data)

    async def connect(self, port: int) -> None:
        if self.there is None:
            self.there = taps.Preconnection(
                remote=f"127.0.0.1:{port}", security=PLAIN, framers="length-prefix"
            )
        connection = await self.there.initiate()
        await connection.send(b"hello")
        await connection.receive()
        self.open.append(connection)


class Streams:
    """asyncio streams, framing by hand."""

    def __init__(self) -> None:
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def serve(self) -> int:
        # The backlog is the kernel's own limit, as with ours.
        self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0, backlog=65535)
        return int(self.server.sockets[0].getsockname()[1])

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                writer.write(head + await reader.readexactly(int.from_bytes(head)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def connect(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00\x00\x00\x05hello")
        await writer.drain()
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        self.open.append((reader, writer))


KINDS: Final[dict[str, Callable[[], Any]]] = {"taps": Taps, "streams": Streams}


async def main(role: str, kind: str, port: int) -> None:
    end = KINDS[kind]()
    if role == "server":
        print(await end.serve(), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order, *number = line.split()
        if order == "open":
            left = int(number[0])
            while left:
                count = min(left, AT_ONCE)
                await asyncio.gather(*(end.connect(port) for _ in range(count)))
                left -= count
            print("open", flush=True)
        else:
            print(private_memory(), flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, kind, loop, *port = sys.argv[1:]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main(role, kind, int(port[0]) if port else 0))
