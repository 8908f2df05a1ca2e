"""The other side of every network benchmark: hand-written, the same for all candidates.

Frames have a length of four bytes before them. The first frame of a
connection says what is wanted: ``echo``, ``sink N`` (answer one frame when N
have come) or ``source N SIZE`` (send N frames of SIZE bytes).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import cast

from benchmarks.harness import LOOPS


class Peer(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.rest = b""
        self.mode = ""
        self.expected = 0

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        position = 0
        answer = []
        while len(data) - position >= 4:
            end = position + 4 + int.from_bytes(data[position : position + 4])
            if end > len(data):
                break
            frame = data[position:end]
            position = end
            if not self.mode:
                self.begin(frame[4:].decode().split())
            elif self.mode == "echo":
                answer.append(frame)
            elif self.mode == "sink":
                self.expected -= 1
                if self.expected == 0:
                    answer.append(b"\x00\x00\x00\x04done")
        self.rest = data[position:]
        if answer:
            self.transport.write(b"".join(answer))

    def begin(self, order: list[str]) -> None:
        self.mode = order[0]
        if self.mode == "sink":
            self.expected = int(order[1])
        elif self.mode == "source":
            count, size = map(int, order[1:])
            self.transport.write((size.to_bytes(4) + bytes(size)) * count)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    fastest = LOOPS.get("uvloop")
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=fastest) as runner:
        runner.run(main())
