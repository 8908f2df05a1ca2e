"""Three of a group that always have something to send, and what arrives of each.

They have the priorities 1, 100 and 200, and Messages of 300, 1000 and 600 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GROUP = "_taps.groupMaxSendRate"
FRAMED = LengthPrefix(2)
PRIORITIES = (1, 100, 200)
SIZES = (300, 1000, 600)
NAMES = (b"a", b"b", b"c")

FCFS, RR, RRP, PB, FC, WFQ = taps.Scheduler
WEIGHTS = [1 / (priority + 1) for priority in PRIORITIES]
#: What each scheduler says, in terms of bytes.
SHARES = {
    # Each sends its next Message when the one before has left: one each, in turn.
    FCFS: SIZES,
    RR: SIZES,
    # Packets are full of Messages, and each packet is as large as the others.
    RRP: (1, 1, 1),
    PB: (1, 0, 0),
    FC: (1, 1, 1),
    WFQ: WEIGHTS,
}


def shares(sent: Any) -> list[float]:
    """Of each, in per cent."""
    parts = [sent[name] for name in NAMES] if isinstance(sent, Counter) else sent
    return [100 * part / sum(parts) for part in parts]


def as_said(scheduler: taps.Scheduler, *, datagrams: bool = False) -> Any:
    """What the scheduler says, within ten points; datagrams share no packet."""
    if datagrams and scheduler is RRP:
        scheduler = RR
    return pytest.approx(shares(SHARES[scheduler]), abs=10)


class Far:
    """What arrives at the other end, by the first byte of each Message."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.bytes: Counter[bytes] = Counter()
        self.order: list[bytes] = []
        self._tasks = tasks
        self._waiting: tuple[int, asyncio.Future[None]] | None = None

    async def handle(self, connection: taps.Connection[Any]) -> None:
        """Count on ``connection``, and on the streams that the peer opens."""
        streams = asyncio.ensure_future(self._streams(connection))
        try:
            await self._count(connection)
        except taps.ConnectionError:
            pass
        finally:
            streams.cancel()
            await asyncio.wait([streams])

    async def _streams(self, connection: taps.Connection[Any]) -> None:
        async for stream in connection.incoming():
            self._tasks.create_task(self._until_the_end(stream))

    async def _until_the_end(self, connection: taps.Connection[Any]) -> None:
        with contextlib.suppress(taps.ConnectionError):
            await self._count(connection)

    async def _count(self, connection: taps.Connection[Any]) -> None:
        async for message in connection:
            self.order.append(message.data[:1])
            self.bytes[message.data[:1]] += len(message.data)
            if self._waiting is not None and self.bytes.total() >= self._waiting[0]:
                future, self._waiting = self._waiting[1], None
                future.set_result(None)

    async def until(self, total: int) -> Counter[bytes]:
        """What has come from each when so much has come from all."""
        before = self.bytes.copy()
        future = asyncio.get_running_loop().create_future()
        self._waiting = (before.total() + total, future)
        await future
        return self.bytes - before


@contextlib.asynccontextmanager
async def group(
    world: Any, transport: Any, *, framers: Any = FRAMED, **properties: Any
) -> AsyncIterator[tuple[list[taps.Connection[Any]], Far]]:
    """A Connection and two clones, of the three priorities, and the other end."""
    async with asyncio.TaskGroup() as tasks:
        far = Far(tasks)
        here = world(transport, properties=properties)
        async with here.listen(far.handle, framers=framers, grace=0) as listener:
            first = await here.to(listener, framers=framers).initiate()
            members = [first, await first.clone(), await first.clone()]
            for member, priority in zip(members, PRIORITIES, strict=True):
                member.set_property("connPriority", priority)
            try:
                yield members, far
            finally:
                first.abort_group()


@contextlib.asynccontextmanager
async def sending(members: list[taps.Connection[Any]]) -> AsyncIterator[Counter[bytes]]:
    """Each sends one Message after the other, and awaits each; bytes that have left."""
    left: Counter[bytes] = Counter()

    async def send(member: taps.Connection[Any], data: bytes) -> None:
        while True:
            await member.send(data)
            left[data[:1]] += len(data)

    tasks = [
        asyncio.ensure_future(send(member, name * size))
        for member, name, size in zip(members, NAMES, SIZES, strict=True)
    ]
    try:
        yield left
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def queue(members: list[taps.Connection[Any]], number: int = 2000) -> None:
    """Let so many Messages of each wait; nobody awaits them."""
    for _ in range(number):
        for member, name, size in zip(members, NAMES, SIZES, strict=True):
            member.send_nowait(name * size)
