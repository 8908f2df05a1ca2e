"""connScheduler: who of a group sends next (RFC 9622, section 8.1.5; RFC 8260, section 3)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Capabilities, Session, Support
from taps_core.testing import MemoryMessages, MemoryNetwork, MemoryStream, run
from tests.runtime.conftest import PlayedFlow, PlayedTransport
from tests.runtime.shares import (
    FRAMED,
    GROUP,
    PRIORITIES,
    SIZES,
    as_said,
    group,
    queue,
    sending,
    shares,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FCFS, RR, RRP, PB, FC, WFQ = taps.Scheduler

# ------------------------------------------------------------------- behind a limit


@pytest.mark.parametrize("scheduler", taps.Scheduler)
@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize("kind", [MemoryStream, MemoryMessages])
def test_three_of_a_group_share_its_limit_as_the_scheduler_says(
    kind: Any, awaited: bool, scheduler: Any, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        how = {"conn_scheduler": scheduler, GROUP: 8e6}
        async with group(world, kind(memory_network), **how) as (members, far):
            if awaited:
                async with sending(members):
                    sent = await far.until(500_000)
            else:
                queue(members)
                sent = await far.until(500_000)
            assert shares(sent) == as_said(scheduler)

    run(main, memory_network, loop="virtual")


def test_the_limit_is_that_of_all_together(world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        transport = MemoryStream(memory_network)
        async with group(world, transport, **{GROUP: 80_000}) as (members, far):
            began = asyncio.get_running_loop().time()
            async with sending(members):
                await far.until(100_000)
            # All that left before the last Message is paid for.
            seconds = asyncio.get_running_loop().time() - began
            assert seconds == pytest.approx(10, abs=max(SIZES) / 10_000)

    run(main, memory_network, loop="virtual")


@pytest.mark.requirement("G-9622-9.2.6-01")
def test_conn_priority_goes_before_msg_priority(world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        how = {"conn_scheduler": PB, GROUP: 80_000}
        async with group(world, MemoryStream(memory_network), **how) as (members, far):
            members[0].send_nowait(b"first" * 1000)
            for name, priority in ((b"z", 200), (b"y", 50), (b"x", 1)):
                members[0].send_nowait(name * 100, priority=priority)
                members[1].send_nowait(name.upper() * 100, priority=priority)
            await far.until(5600)
            assert far.order == [b"f", b"x", b"y", b"z", b"X", b"Y", b"Z"]

    run(main, memory_network, loop="virtual")


def test_scheduler_and_priorities_can_be_changed_at_any_time(
    world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        how = {"conn_scheduler": WFQ, GROUP: 8e6}
        async with (
            group(world, MemoryStream(memory_network), **how) as (members, far),
            sending(members),
        ):
            assert shares(await far.until(300_000)) == as_said(WFQ)
            for scheduler in (FC, PB, RR, WFQ):
                members[2].set_property("connScheduler", scheduler)
                assert shares(await far.until(300_000)) == as_said(scheduler)
            members[0].set_property("connPriority", 200)
            members[2].set_property("connPriority", 1)
            backwards = Counter(await far.until(300_000))
            backwards[b"a"], backwards[b"c"] = backwards[b"c"], backwards[b"a"]
            assert shares(backwards)[0] == pytest.approx(98, abs=3)
            for member in members:
                member.set_property("connPriority", 5)
            assert shares(await far.until(300_000)) == as_said(FC)

    run(main, memory_network, loop="virtual")


def test_only_those_with_something_to_send_take_part(
    world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        for scheduler in taps.Scheduler:
            how = {"conn_scheduler": scheduler, GROUP: 80_000}
            async with group(world, MemoryStream(memory_network), **how) as (members, far):
                began = asyncio.get_running_loop().time()
                for _ in range(10):
                    await members[2].send(b"c" * 1000)
                # The others leave it all there is, and what it costs.
                assert asyncio.get_running_loop().time() - began == pytest.approx(0.9)
                members[0].send_nowait(b"a")
                members[1].abort()
                await members[2].send(b"c")
                await far.until(1)

    run(main, memory_network, loop="virtual")


def test_a_member_that_ends_leaves_its_share_to_the_others(
    world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        how = {"conn_scheduler": PB, GROUP: 80_000}
        async with group(world, MemoryStream(memory_network), **how) as (members, far):
            queue(members, 100)
            await far.until(5000)
            assert set(far.order) == {b"a"}
            members[0].abort()
            sent = await far.until(20_000)
            assert sent[b"b"] >= 15_000
            await members[1].close()
            members[2].set_property(GROUP, 8e6)
            await members[2].close()
            assert far.bytes[b"c"] == 100 * SIZES[2]

    run(main, memory_network, loop="virtual")


def test_it_is_told_whether_there_is_anything_to_schedule(
    world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        for kind in (MemoryStream, MemoryMessages):
            async with group(world, kind(memory_network)) as (members, _):
                properties = members[0].properties
                for name in ("connScheduler", "connPriority"):
                    if kind is MemoryMessages:
                        assert properties.effect(name) is None  # streams of one session
                        continue
                    sentence = properties.effect(name)
                    assert sentence is not None
                    assert sentence.startswith(
                        "no effect on length-prefix/MEMORY-STREAM: its group"
                    )
                    members[1].set_property(GROUP, 8e6)
                    assert properties.effect(name) is None
                    members[1].set_property(GROUP, float("inf"))
                assert properties.effect(GROUP) is None

    run(main, memory_network, loop="virtual")


# ------------------------------------------------------------------- streams of one session


class SharedSession(Session):
    """Streams that share what may wait in the stack, as those of an association do.

    Attributes:
        flows: Its streams.
        waiting: What they were given and has not left.
        room: Bytes that may wait before all are told that the stack is full.
    """

    def __init__(self, room: int) -> None:
        self.flows: list[SharedFlow] = []
        self.waiting: deque[bytes] = deque()
        self.left: Counter[bytes] = Counter()
        self.room = room
        self.full = False

    def took(self, data: bytes) -> None:
        self.waiting.append(data)
        if not self.full and sum(map(len, self.waiting)) > self.room:
            self.full = True
            asyncio.get_running_loop().call_soon(self.tell)

    def drain(self, size: int) -> None:
        """Let so much leave, at the least."""
        while size > 0 and self.waiting:
            data = self.waiting.popleft()
            self.left[data[:1]] += len(data)
            size -= len(data)
        if self.full and sum(map(len, self.waiting)) <= self.room // 2:
            self.full = False
            self.tell()

    def tell(self) -> None:
        for flow in self.flows:
            flow.up.writable(not self.full)

    async def open_stream(self, properties: Any) -> SharedFlow:
        return SharedFlow(self)

    def accept_streams(self, incoming: Any, limit: float) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class SharedFlow(PlayedFlow):
    def __init__(self, session: SharedSession) -> None:
        super().__init__()
        self.session: SharedSession = session
        session.flows.append(self)
        self.refuse = session.took


class SharedTransport(PlayedTransport):
    """Its capabilities are those of Messages on streams."""

    def __init__(self, room: int) -> None:
        super().__init__(Capabilities.messages(multistreaming=Support.ALWAYS))
        self.sessions: list[SharedSession] = []
        self.room = room

    async def connect(self, request: Any) -> Any:
        self.sessions.append(SharedSession(self.room))
        return SharedFlow(self.sessions[-1])


@contextlib.asynccontextmanager
async def streams(play: Any, room: int = 4000, **properties: Any) -> AsyncIterator[Any]:
    transport = SharedTransport(room)
    first = await play.preconnection(transport, properties=properties).initiate()
    members = [first, await first.clone(), await first.clone()]
    for member, priority in zip(members, PRIORITIES, strict=True):
        member.set_property("connPriority", priority)
    try:
        yield members, transport.sessions[0]
    finally:
        first.abort_group()
        await asyncio.sleep(0)


@pytest.mark.parametrize("scheduler", taps.Scheduler)
@pytest.mark.parametrize("awaited", [True, False])
def test_streams_share_the_room_in_their_session_as_the_scheduler_says(
    run: Any, play: Any, turns: Any, awaited: bool, scheduler: Any
) -> None:
    async def main() -> None:
        async with streams(play, conn_scheduler=scheduler) as (members, session):
            # While there is room, there is nothing to divide.
            session.took(b"-" * 5000)
            await turns()
            if not awaited:
                queue(members)
            async with sending(members) if awaited else contextlib.nullcontext():
                await turns()
                while session.left.total() < 300_000:
                    session.drain(1000)
                    await turns(4)
                assert shares(session.left) == as_said(scheduler)

    run(main)


def test_streams_without_contention_go_the_short_way(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with streams(play) as (members, session):
            assert all(member._fast for member in members)
            async with sending(members):
                await turns(10)
                assert session.full
            assert not any(member._fast for member in members)
            session.drain(10**9)
            await turns()
            assert all(member._fast for member in members)
            assert members[0]._group.arbiter is None

    run(main)


def test_a_stream_alone_in_its_session_is_not_scheduled(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with streams(play) as (members, session):
            for other in members[1:]:
                other.abort()
            members[0].send_nowait(b"a" * 5000)
            await turns()
            members[0].send_nowait(b"b")
            assert members[0].queued == (1, 1)
            assert members[0]._group.arbiter is None
            session.drain(5000)
            assert members[0].queued == (0, 0)

    run(main)


# ------------------------------------------------------------------- whatever happens


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_or_reordered_whatever_happens(
    seed: int, world: Any, memory_network: MemoryNetwork
) -> None:
    """Sends, cancellations, limits, schedulers, priorities, clones and ends, by chance."""
    dice = random.Random(seed)
    kind = dice.choice([MemoryStream, MemoryMessages])

    async def send(member: taps.Connection[Any], data: bytes, fates: dict[bytes, str]) -> None:
        try:
            await member.send(data, lifetime=dice.choice([0.01, 1000]))
        except taps.SendError:
            fates[data] = "failed"
        except asyncio.CancelledError:
            # Withdrawn, or it had left.
            fates[data] = "cancelled"
            raise
        else:
            fates[data] = "sent"

    async def main() -> None:
        fates: dict[bytes, str] = {}
        received: list[bytes] = []

        async def note(connection: taps.Connection[Any]) -> None:
            with contextlib.suppress(taps.ConnectionError):
                async for message in connection:
                    received.append(message.data)
                await connection.close()

        async with asyncio.TaskGroup() as tasks:

            async def serve(connection: taps.Connection[Any]) -> None:
                connection.on(
                    taps.ConnectionReceived,
                    lambda event: tasks.create_task(note(event.connection)),
                )
                await note(connection)

            here = world(kind(memory_network, window=4096))
            async with here.listen(serve, framers=FRAMED) as listener:
                members = [await here.to(listener, framers=FRAMED).initiate()]
                names = {members[0]: 0}
                sends: list[asyncio.Task[None]] = []
                for number in range(400):
                    member = dice.choice(members)
                    match dice.randrange(12):
                        case 0:
                            rate = dice.choice([8e4, 8e5, 8e6, float("inf")])
                            member.set_property(dice.choice([GROUP, "maxSendRate"]), rate)
                        case 1:
                            member.set_property("connScheduler", dice.choice(list(taps.Scheduler)))
                        case 2:
                            member.set_property("connPriority", dice.randrange(300))
                        case 3:
                            await asyncio.sleep(dice.choice([0, 0.001, 0.1]))
                        case 4 if sends:
                            dice.choice(sends).cancel()
                        case 5 if len(members) < 5:
                            members.append(await member.clone())
                            names[members[-1]] = len(names)
                        case 6 if member is not members[0] and number % 3 == 0:
                            members.remove(member)
                            await member.close()
                        case _:
                            data = b"%d %06d " % (names[member], number)
                            data += bytes(dice.choice([0, 10, 3000]))
                            sends.append(tasks.create_task(send(member, data, fates)))
                members[0].set_property("maxSendRate", float("inf"))
                members[0].set_property(GROUP, float("inf"))
                await asyncio.wait(sends)
                # Of a clone that has sent nothing the server knows nothing: it would end with
                # the first one.
                for member in reversed(members):
                    await member.close()
        arrived = set(received)
        assert len(arrived) == len(received)
        for data, fate in fates.items():
            assert fate == "cancelled" or (data in arrived) is (fate == "sent"), (data[:8], fate)
        for name in range(len(names)):
            own = [data for data in received if data.startswith(b"%d " % name)]
            assert own == sorted(own)

    run(main, memory_network, loop="virtual")
