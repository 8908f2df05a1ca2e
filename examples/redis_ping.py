"""Talk to a Redis server: its protocol is a framer, the application sends commands.

    redis-server --port 6379 &
    python examples/redis_ping.py 127.0.0.1:6379

``Resp`` is all there is to it: a codec that turns a command into bytes and the
bytes of an answer into a Python object (https://redis.io/docs/reference/protocol-spec).
The rest of the program neither sees a byte nor names a transport.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import taps_core as taps
from taps_core.plugin import Codec, FramerDefinition, PartTuple, SendRecord, deframing_failed


class RedisError(Exception):
    """What Redis answers to a command it refuses."""


class RespCodec(Codec):
    """Sends lists of ``str`` or ``bytes``; receives str, int, bytes, None, lists, RedisError."""

    objects = True

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._size = 0  # bytes of the answer that is being read
        self._open: list[tuple[list[Any], int]] = []  # arrays and how many items they have

    @property
    def incomplete(self) -> bool:
        """Whether an array has begun and not ended."""
        return bool(self._open)

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        """A command: an array of bulk strings."""
        words = [word.encode() if isinstance(word, str) else word for word in data]
        bulk = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        return b"*%d\r\n%b" % (len(words), bulk)

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """Every answer that is complete; what is read is not read again."""
        position = 0
        while (end := data.find(b"\r\n", position)) >= 0:
            kind, line, after = data[position : position + 1], data[position + 1 : end], end + 2
            value: Any
            if kind == b"+":
                value = line.decode(errors="replace")
            elif kind == b"-":
                value = RedisError(line.decode(errors="replace"))
            elif kind == b":":
                value = number(line)
            elif kind == b"$":
                length = number(line)
                self._check(after - position + length)
                if length < 0:
                    value = None
                elif len(data) < after + length + 2:
                    return position
                else:
                    value, after = data[after : after + length], after + length + 2
            elif kind == b"*":
                length = number(line)
                value = [] if length == 0 else None
                if length > 0:
                    self._open.append(([], length))
            else:
                raise deframing_failed(f"no RESP answer begins with {kind!r}")
            self._check(after - position)
            self._size += after - position
            position = after
            if kind != b"*" or length <= 0:
                self._add(value, parts)
        self._check(len(data) - position)
        return position

    def _add(self, value: Any, parts: list[PartTuple]) -> None:
        """Put a value where it belongs: into the array that is open, or upwards."""
        while self._open:
            items, expected = self._open[-1]
            items.append(value)
            if len(items) < expected:
                return
            self._open.pop()
            value = items
        self._size = 0
        parts.append((value, None, True))

    def _check(self, more: int) -> None:
        if self._size + more > self.max_length:
            raise deframing_failed(f"an answer of more than {self.max_length} bytes")


def number(line: bytes) -> int:
    """The number in a header line."""
    try:
        return int(line)
    except ValueError:
        raise deframing_failed(f"{line[:20]!r} is not a number") from None


class Resp(FramerDefinition):
    """The protocol of Redis, version 2, seen from the client."""

    name = "resp"
    objects = True

    def __init__(self, max_length: int = 64 * 1024 * 1024) -> None:
        self.max_length = max_length

    def create(self) -> RespCodec:
        """A codec for one Connection."""
        return RespCodec(self.max_length)


async def main(server: str) -> None:
    """A few commands, one by one and several at once."""
    preconnection = taps.Preconnection(
        remote=server,
        # As Redis is out of the box, which therefore listens to its own machine only. To one with
        # «tls-port» leave this out, and name its authority: trusted_certificates.
        security=taps.SecurityParameters.disabled(),
        framers=Resp(),
    )
    async with preconnection.initiate(timeout=10) as redis:
        print(f"connected over {redis.stack}")

        async def ask(*command: str) -> Any:
            await redis.send(list(command))
            return (await redis.receive()).data

        print("PING             ", await ask("PING"))
        print("SET greeting     ", await ask("SET", "greeting", "hello"))
        print("GET greeting     ", await ask("GET", "greeting"))
        print("GET nothing      ", await ask("GET", "nothing"))
        print("INCR greeting    ", repr(await ask("INCR", "greeting")))

        # Three commands without waiting in between: they leave in one write.
        for count in range(3):
            redis.send_nowait(["RPUSH", "list", f"item {count}"])
        print("RPUSH, 3 at once ", [(await redis.receive()).data for _ in range(3)])
        print("LRANGE list 0 -1 ", await ask("LRANGE", "list", "0", "-1"))


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit("usage: redis_ping.py [HOST:PORT]")
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) == 2 else "127.0.0.1:6379"))
    except taps.TapsError as error:
        sys.exit(str(error))
