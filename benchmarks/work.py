"""What is measured: coroutines that give the seconds it took, and the table of rows."""

from __future__ import annotations

import dataclasses
from time import perf_counter
from typing import TYPE_CHECKING, Final

from benchmarks.candidates import Front, Ours, OursBare, SecureAnew, SecureOurs, SecureStreams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from benchmarks.candidates import Candidate, Peer

__all__ = ["ROWS", "Row"]

KIB: Final = 1024


async def ping_pong(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """``count`` frames there and back, one after the other."""
    async with kind.connect(there) as candidate:
        await candidate.send(b"echo")
        begin = perf_counter()
        await candidate.ping_pong(bytes(size), count)
        return perf_counter() - begin


async def ping_pong_bare(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """The same without frames: what is there and back is one read."""
    async with kind.connect(there, framed=False) as candidate:
        await candidate.send(_frame(b"echo"))
        begin = perf_counter()
        await candidate.ping_pong(bytes(size), count)
        return perf_counter() - begin


async def send(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """``count`` frames one way, until the peer has them."""
    async with kind.connect(there) as candidate:
        await candidate.send(b"sink %d" % (count * (size + 4)))
        begin = perf_counter()
        await candidate.send_all(bytes(size), count)
        return perf_counter() - begin


async def receive(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """From asking for ``count`` frames to having them."""
    async with kind.connect(there) as candidate:
        begin = perf_counter()
        await candidate.send(b"source %d %d" % (count, size))
        await candidate.receive_all(count)
        return perf_counter() - begin


async def send_bare(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """The same without frames."""
    async with kind.connect(there, framed=False) as candidate:
        await candidate.send(_frame(b"sink %d" % (count * size)))
        begin = perf_counter()
        await candidate.send_all(bytes(size), count)
        return perf_counter() - begin


async def receive_bare(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """The same without frames."""
    async with kind.connect(there, framed=False) as candidate:
        begin = perf_counter()
        await candidate.send(_frame(b"source %d %d" % (count, size - 4)))
        await candidate.receive_bytes(count * size)
        return perf_counter() - begin


async def connect(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """``count`` connections, each with one frame there and back."""
    seconds = 0.0
    for _ in range(count):
        begin = perf_counter()
        async with kind.connect(there) as candidate:
            await candidate.send(b"echo")
            await candidate.send(bytes(size))
            await candidate.receive()
            seconds += perf_counter() - begin
    return seconds


async def connect_bare(kind: type[Candidate], there: Peer, count: int, size: int) -> float:
    """The same without frames."""
    seconds = 0.0
    for _ in range(count):
        begin = perf_counter()
        async with kind.connect(there, framed=False) as candidate:
            await candidate.send(_frame(b"echo"))
            await candidate.send(bytes(size))
            await candidate.receive()
            seconds += perf_counter() - begin
    return seconds


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the design's table of budgets."""

    title: str
    work: Callable[[type[Candidate], Peer, int, int], Awaitable[float]]
    count: int
    size: int
    budgets: Mapping[str, str | Mapping[str, str]]
    """Against whom → ``">= 1.1"`` of its rate or ``"<= 1.25"`` of its time; or by loop."""
    ours: str = Ours.name
    """The candidate that is ours."""

    def budget(self, against: str, loop: str) -> str:
        """What is asked for on this loop."""
        budget = self.budgets[against]
        return budget if isinstance(budget, str) else budget[loop]


ROWS: Final[Mapping[str, Row]] = {
    "ping-pong": Row(
        title="ping-pong, 64 bytes",
        work=ping_pong,
        count=4000,
        size=64,
        budgets={
            "asyncio streams": ">= 1.1",
            "asyncio Protocol": ">= 0.95",
            "anyio streams": ">= 1.7",
        },
    ),
    "send": Row(
        title="one-way send, 100 bytes",
        work=send,
        count=40_000,
        size=100,
        budgets={"asyncio streams": ">= 3.0", "asyncio Protocol": ">= 2.2"},
    ),
    "receive": Row(
        title="one-way receive, 100 bytes",
        work=receive,
        count=40_000,
        size=100,
        budgets={"asyncio streams": ">= 1.8"},
    ),
    "bulk-send": Row(
        title="bulk send, 64 KiB unframed",
        work=send_bare,
        count=2000,
        size=64 * KIB,
        budgets={"asyncio Protocol": ">= 0.95"},
    ),
    "bulk-receive": Row(
        title="bulk receive, 64 KiB unframed",
        work=receive_bare,
        count=2000,
        size=64 * KIB,
        budgets={"asyncio Protocol": ">= 0.95"},
    ),
    "framed-send": Row(
        title="bulk send, 64 KiB framed",
        work=send,
        count=2000,
        size=64 * KIB,
        budgets={"asyncio Protocol": ">= 0.85"},
    ),
    "framed-receive": Row(
        title="bulk receive, 64 KiB framed",
        work=receive,
        count=2000,
        size=64 * KIB,
        budgets={"asyncio Protocol": ">= 0.85"},
    ),
    "connect": Row(
        title="connect and first reply",
        work=connect,
        count=100,
        size=5,
        budgets={"asyncio streams": {"asyncio": "<= 1.25", "uvloop": "<= 1.6"}},
    ),
    "neatpy-ping-pong": Row(
        title="NEATPy ping-pong, 64 bytes",
        work=ping_pong_bare,
        count=4000,
        size=64,
        ours=Front.name,
        budgets={OursBare.name: "<= 1.3"},
    ),
    "neatpy-connect": Row(
        title="NEATPy connect and first reply",
        work=connect_bare,
        count=100,
        size=5,
        ours=Front.name,
        budgets={OursBare.name: "<= 1.3"},
    ),
    "tls-ping-pong": Row(
        title="TLS ping-pong, 64 bytes",
        work=ping_pong,
        count=4000,
        size=64,
        ours=SecureOurs.name,
        budgets={SecureStreams.name: ">= 0.95"},
    ),
    "tls-send": Row(
        title="TLS one-way send, 100 bytes",
        work=send,
        count=40_000,
        size=100,
        ours=SecureOurs.name,
        budgets={SecureStreams.name: ">= 3.0"},
    ),
    "tls-bulk-send": Row(
        title="TLS bulk send, 64 KiB",
        work=send_bare,
        count=2000,
        size=64 * KIB,
        ours=SecureOurs.name,
        budgets={SecureStreams.name: ">= 0.95"},
    ),
    "tls-bulk-receive": Row(
        title="TLS bulk receive, 64 KiB",
        work=receive_bare,
        count=2000,
        size=64 * KIB,
        ours=SecureOurs.name,
        budgets={SecureStreams.name: ">= 0.95"},
    ),
    "tls-connect": Row(
        title="TLS handshake and first reply",
        work=connect,
        count=100,
        size=5,
        ours=SecureAnew.name,
        budgets={SecureStreams.name: ">= 0.95"},
    ),
    "tls-resume": Row(
        title="the same, ours resumed",
        work=connect,
        count=100,
        size=5,
        ours=SecureOurs.name,
        budgets={SecureStreams.name: ">= 0.95"},
    ),
}
