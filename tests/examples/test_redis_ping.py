"""Commands to a real redis-server; and the framer, whatever the pieces."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


@pytest.fixture
def example(load_example: Callable[[str], ModuleType]) -> ModuleType:
    return load_example("redis_ping")


def test_it_talks_to_redis(redis: int, run_example: Callable[..., str]) -> None:
    lines = run_example("redis_ping.py", f"127.0.0.1:{redis}").splitlines()
    assert [line.split(None, 1) for line in lines[:2]] == [
        ["connected", "over resp/TCP"],
        ["PING", "PONG"],
    ]
    assert lines[2:] == [
        "SET greeting      OK",
        "GET greeting      b'hello'",
        "GET nothing       None",
        "INCR greeting     RedisError('ERR value is not an integer or out of range')",
        "RPUSH, 3 at once  [1, 2, 3]",
        "LRANGE list 0 -1  [b'item 0', b'item 1', b'item 2']",
    ]


def test_large_values_and_many_commands_at_once(redis: int, example: ModuleType) -> None:
    value = bytes(range(256)) * 8192

    async def main() -> list[Any]:
        preconnection = taps.Preconnection(
            remote=f"localhost:{redis}",
            security=taps.SecurityParameters.disabled(),
            framers=example.Resp(),
        )
        async with preconnection.initiate() as connection:
            await connection.send(["SET", "large", value])
            for _ in range(1000):
                await connection.send(["PING"])
            await connection.send(["GET", "large"])
            return [(await connection.receive()).data for _ in range(1002)]

    assert asyncio.run(main()) == ["OK", *["PONG"] * 1000, value]


ANSWERS = (
    b"+OK\r\n:-7\r\n$5\r\nhe\r\no\r\n$-1\r\n*3\r\n$0\r\n\r\n*1\r\n:1\r\n+x\r\n*0\r\n*-1\r\n+end\r\n"
)
VALUES = ["OK", -7, b"he\r\no", None, [b"", [1], "x"], [], None, "end"]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_the_pieces_of_the_stream_do_not_matter(example: ModuleType, size: int) -> None:
    codec = example.Resp().create()
    rest, parts = b"", []
    for start in range(0, len(ANSWERS), size):
        rest += ANSWERS[start : start + size]
        rest = rest[codec.decode(rest, parts) :]
    assert rest == b""
    assert parts == [(value, None, True) for value in VALUES]
    assert not codec.incomplete


def test_an_error_is_a_value(example: ModuleType) -> None:
    parts: list[Any] = []
    example.Resp().create().decode(b"-ERR no\r\n", parts)
    assert isinstance(parts[0][0], example.RedisError)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"$x\r\n",
        b"$1000\r\n",
        b"*10000\r\n" + b":1\r\n" * 100,
        b"+" + b"x" * 200,
        b"*1\r\n" * 100,
    ],
)
def test_garbage_and_excess_are_deframing_failures(example: ModuleType, stream: bytes) -> None:
    with pytest.raises(taps.ReceiveError) as raised:
        example.Resp(max_length=100).create().decode(stream, [])
    assert raised.value.reason is taps.Reason.DEFRAMING_FAILED
