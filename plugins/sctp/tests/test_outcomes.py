"""Messages that may be given up: what becomes of each is told, and nothing grows."""

from __future__ import annotations

import asyncio
import itertools
import struct
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import association as associations
from taps_sctp.flow import SCTPFlow

import taps_core as taps
from taps_core.plugin import ask_socket

from .conftest import kernel_socket, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab
MAY_GIVE_UP = {"perMsgReliability": "require"}
PR_ASSOC_STATUS = 115
ALL_POLICIES = 0x80


def abandoned(connection: taps.Connection[Any]) -> tuple[int, int]:
    """How many Messages the kernel has given up, before they were sent, and after."""
    given = struct.pack("=iHHQQ", 0, 0, ALL_POLICIES, 0, 0)
    answer = ask_socket(kernel_socket(connection), 132, PR_ASSOC_STATUS, given)
    return struct.unpack("=iHHQQ", answer)[3:]


class Arrivals:
    """Takes all Messages of a Connection, as they come."""

    def __init__(self, connection: taps.Connection[Any]) -> None:
        self.data: list[bytes] = []
        self._connection = connection
        self._task = asyncio.ensure_future(self._take())

    async def _take(self) -> None:
        while True:
            self.data.append((await self._connection.receive()).data)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def outcomes_of(sends: Any) -> tuple[list[int], list[int]]:
    """Places of those that were Sent, and of those that Expired; nothing else may happen."""
    results = await asyncio.gather(*sends, return_exceptions=True)
    expired = [n for n, each in enumerate(results) if isinstance(each, taps.Expired)]
    sent = [n for n, each in enumerate(results) if each is None]
    assert len(sent) + len(expired) == len(results)
    return sent, expired


def test_sent_and_expired_are_all_and_delivered_and_abandoned_are_what_was_sent(
    rough: Lab,
) -> None:
    rough.network.path.set(latency=0.01)
    number = 600

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=0.3)
            arrivals = Arrivals(server)
            sends = []
            for each in range(number):
                sends.append(asyncio.ensure_future(client.send(b"%04d" % each, lifetime=0.1)))
                await asyncio.sleep(0.002)
            sent, expired = await outcomes_of(sends)
            # A last one tells that nothing of these is still on its way.
            rough.network.path.set(loss=0.0)
            await client.send(b"last")
            await until(lambda: b"last" in arrivals.data)
            assert arrivals.data == sorted(set(arrivals.data))
            delivered = {int(data) for data in arrivals.data[:-1]}
            never_sent, given_up = abandoned(client)
            # What is Expired was never sent; of what was sent, what did not arrive was given up.
            assert not delivered & set(expired)
            assert len(expired) >= never_sent
            assert delivered <= set(sent)
            # The kernel also counts what it gave up before it knew that it had arrived.
            assert len(sent) - len(delivered) <= given_up <= len(sent)
            await arrivals.stop()

    rough.run(main)


def test_messages_that_are_sent_once_are_delivered_or_counted(rough: Lab) -> None:
    rough.network.path.set(latency=0.01)
    number = 300

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            rough.network.path.set(loss=0.3)
            arrivals = Arrivals(server)
            for each in range(number):
                await client.send(b"%04d" % each, reliable=False)
                await asyncio.sleep(0.002)
            rough.network.path.set(loss=0.0)
            await client.send(b"last")
            await until(lambda: b"last" in arrivals.data)
            never_sent, given_up = abandoned(client)
            delivered = len(arrivals.data) - 1
            assert never_sent == 0
            # The kernel also counts what it gave up before it knew that it had arrived.
            assert 0 < number - delivered <= given_up <= number
            await arrivals.stop()

    rough.run(main)


def test_a_message_that_never_left_is_expired_and_never_arrives(rough: Lab) -> None:
    rough.network.path.there.set(bandwidth=50_000.0)

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            arrivals = Arrivals(server)
            for _ in range(20):
                client.send_nowait(bytes(10_000))
            with pytest.raises(taps.Expired):
                await client.send(b"too late", lifetime=0.05)
            await client.send(b"last")
            await until(lambda: b"last" in arrivals.data)
            assert b"too late" not in arrivals.data
            assert len(arrivals.data) == 21
            await arrivals.stop()

    rough.run(main)


def test_outcomes_come_and_are_bounded_on_an_association_that_never_runs_dry(
    rough: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associations, "UNCERTAIN", 64)
    monkeypatch.setattr(associations, "PATIENCE", 0.2)
    rough.network.path.set(latency=0.01)

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            clone = await client.clone()
            incoming = server.incoming()
            await clone.send(b"hello")
            twin = await anext(incoming)
            streams = [Arrivals(server), Arrivals(twin)]
            association: Any = client.find(SCTPFlow)._association  # type: ignore[union-attr]  # it is one
            stop = False
            most = 0

            async def flood() -> None:
                nonlocal most
                while not stop:
                    await client.send(bytes(1000))
                    most = max(most, len(association._uncertain))

            flooding = asyncio.ensure_future(flood())
            # One alone has its outcome in time, however much the other one sends.
            await clone.send(b"alone", lifetime=0.5)
            sent, expired = await outcomes_of(
                [clone.send(b"%d" % number, lifetime=5) for number in range(1000)]
            )
            assert (len(sent), expired) == (1000, [])
            assert 0 < most <= 64
            stop = True
            await flooding
            await until(lambda: len(streams[1].data) == 1002)
            for each in streams:
                await each.stop()

    rough.run(main)


def test_a_lifetime_counts_from_the_send_and_not_from_when_there_was_room(rough: Lab) -> None:
    rough.network.path.there.set(bandwidth=2_000_000.0)

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            # More than the kernel takes.
            flood = [asyncio.ensure_future(client.send(bytes(250_000))) for _ in range(24)]
            await asyncio.sleep(0.2)
            clone = await client.clone()
            late = asyncio.ensure_future(clone.send(b"too late", lifetime=0.3))
            arrivals = Arrivals(server)
            with pytest.raises(taps.Expired):
                await late
            await asyncio.gather(*flood)
            await until(lambda: len(arrivals.data) == 24)
            await arrivals.stop()

    rough.run(main)


def test_unordered_messages_overtake_and_ordered_ones_do_not(rough: Lab) -> None:
    rough.network.path.set(latency=0.02, loss=0.1)

    async def main() -> None:
        async with rough.listening(there=MAY_GIVE_UP, **MAY_GIVE_UP) as ends:
            client, server = await ends.pair()
            arrivals = Arrivals(server)
            for number in range(300):
                await client.send(b"%04d" % number, ordered=bool(number % 2))
                await asyncio.sleep(0.001)
            await until(lambda: len(arrivals.data) == 300)
            assert sorted(arrivals.data) == [b"%04d" % number for number in range(300)]
            assert arrivals.data != sorted(arrivals.data)
            ordered = [data for data in arrivals.data if int(data) % 2]
            assert ordered == sorted(ordered)
            await arrivals.stop()

    rough.run(main)


# -- memory


def test_who_does_not_read_makes_the_sender_wait_and_holds_little(lab: Lab) -> None:
    size = 20_000

    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            sent = itertools.count()

            async def flood() -> None:
                for _ in range(1500):
                    await client.send(bytes(size))
                    next(sent)

            flooding = asyncio.ensure_future(flood())
            before = -1
            now = 0
            while now != before:  # until nothing moves any more
                await asyncio.sleep(0.5)
                before, now = now, int(repr(sent)[6:-1])
            assert not flooding.done()
            association: Any = server.find(SCTPFlow)._association  # type: ignore[union-attr]  # it is one
            assert association._held <= associations.HELD + 1024 * 1024
            for _ in range(1500):
                assert len((await server.receive()).data) == size
            await flooding

    lab.run(main)


def test_many_streams_that_nobody_reads_hold_together_what_one_may(lab: Lab) -> None:
    async def main() -> None:
        async with lab.listening() as ends:
            client, server = await ends.pair()
            incoming = server.incoming()
            clones = [await client.clone() for _ in range(60)]

            async def flood(clone: taps.Connection[Any]) -> None:
                for _ in range(20):
                    await clone.send(bytes(20_000))

            flooding = asyncio.gather(*(flood(clone) for clone in clones))
            twins = [await anext(incoming) for _ in clones]
            await asyncio.sleep(1.0)
            association: Any = server.find(SCTPFlow)._association  # type: ignore[union-attr]  # it is one
            assert association._held <= associations.HELD + 1024 * 1024

            async def read(twin: taps.Connection[Any]) -> None:
                for _ in range(20):
                    assert len((await twin.receive()).data) == 20_000

            await asyncio.gather(*(read(twin) for twin in twins))
            await flooding
            assert association._held == 0

    lab.run(main)
