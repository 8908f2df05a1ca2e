"""maxSendRate where the stack does not limit, and the limit of a group (RFC 9622, section 8.1.8).

On virtual time, so all times are exact: 8000 bit/s are 1000 bytes in a second.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import taps_core as taps
from taps_core.planning.pacing import LATE
from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryNetwork, MemoryStream, run

GROUP = "_taps.groupMaxSendRate"
KILOBYTE = 8000
OWN = {"maxSendRate": KILOBYTE}
TOGETHER = {GROUP: KILOBYTE}


def now() -> float:
    return asyncio.get_running_loop().time()


def exactly(*seconds: float) -> Any:
    return pytest.approx(list(seconds), abs=1e-9, rel=0)


class Arrivals:
    """When a flow of :class:`tests.runtime.conftest.PlayedFlow` was given what, since now."""

    def __init__(self, *flows: Any) -> None:
        self.began = now()
        self.times: list[float] = []
        self.data: list[Any] = []
        for flow in flows:
            flow.refuse = self.note

    def note(self, data: Any) -> None:
        self.times.append(now() - self.began)
        self.data.append(data)


# ------------------------------------------------------------------- one Connection


@pytest.mark.parametrize("limit", [OWN, TOGETHER])
def test_a_message_leaves_when_those_before_it_are_paid_for(
    play: Any, turns: Any, limit: Any
) -> None:
    async def main() -> None:
        async with play.connection(**limit) as (connection, flow):
            arrivals = Arrivals(flow)
            for size in (500, 1000, 250, 0, 100):
                await connection.send(bytes(size))
            assert arrivals.times == exactly(0, 0.5, 1.5, 1.75, 1.75)
            await turns()
            assert sum(map(len, flow.flushed)) == 5

    run(main, loop="virtual")


def test_a_message_larger_than_a_second_gets_through_and_is_paid_for_afterwards(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            await connection.send(bytes(10_000))
            await connection.send(b"x")
            assert arrivals.times == exactly(0, 10)

    run(main, loop="virtual")


def test_a_rest_is_not_saved_up(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            await connection.send(bytes(1000))
            await asyncio.sleep(60)
            arrivals = Arrivals(flow)
            for _ in range(3):
                await connection.send(bytes(1000))
            assert arrivals.times == exactly(0, 1, 2)

    run(main, loop="virtual")


def test_many_small_messages_leave_together_and_keep_the_rate(play: Any) -> None:
    async def main() -> None:
        async with play.connection(maxSendRate=8e6) as (connection, flow):
            arrivals = Arrivals(flow)
            for _ in range(10_000):
                await connection.send(bytes(100))
            assert now() - arrivals.began == pytest.approx(1, abs=LATE)
            # A timer and a write for each would be 10,000.
            assert len(flow.flushed) <= 2200
            assert len(arrivals.times) == 10_000

    run(main, loop="virtual")


def test_what_is_limited_waits_in_the_order_of_its_priorities(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            connection.send_nowait(b"first" * 100)
            for data, priority in ((b"c", 100), (b"a", 1), (b"d", 100), (b"b", 1)):
                connection.send_nowait(data * 500, priority=priority)
            assert connection.queued == (2000, 4)
            await connection.send(b"last" * 10, priority=200)
            assert [each[:1] for each in arrivals.data] == [b"f", b"a", b"b", b"c", b"d", b"l"]
            assert connection.queued == (0, 0)

    run(main, loop="virtual")


def test_a_lifetime_goes_on_while_the_limit_holds_a_message_back(play: Any, log: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            seen = log(connection)
            arrivals = Arrivals(flow)
            connection.send_nowait(bytes(1000))
            with pytest.raises(taps.Expired):
                await connection.send(b"too late", lifetime=0.5)
            assert now() - arrivals.began == pytest.approx(0.5)
            await connection.send(b"in time", lifetime=0.6)
            assert arrivals.times == exactly(0, 1)
            await asyncio.sleep(0)
            assert seen.names == ["Sent", "Expired", "Sent"]

    run(main, loop="virtual")


def test_close_waits_for_what_the_limit_holds_back_and_abort_drops_it(play: Any) -> None:
    async def main() -> None:
        for ending, sent in (("close", 4), ("abort", 1)):
            async with play.connection(**OWN) as (connection, flow):
                began = now()
                outcomes = [connection.send(bytes(1000)) for _ in range(3)]
                final = connection.send(bytes(100), final=True)
                getattr(connection, ending)()
                if ending == "close":
                    while "close" not in flow.calls:
                        await asyncio.sleep(0.05)
                    assert now() - began == pytest.approx(3, abs=0.051)
                    assert flow.calls == ["finish", "close"]
                    for outcome in (*outcomes, final):
                        await outcome
                else:
                    for outcome in (*outcomes[1:], final):
                        with pytest.raises(taps.SendError):
                            await outcome
                assert len(flow.sent) == sent

    run(main, loop="virtual")


def test_an_awaited_send_is_held_back_and_can_be_withdrawn(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            await connection.send(bytes(1000))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await connection.send(b"withdrawn")
            await connection.send(b"next")
            assert arrivals.times == exactly(0, 1)
            assert arrivals.data[1] == b"next"

    run(main, loop="virtual")


def test_what_waits_for_the_limit_is_bounded(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, _):
            connection.send_nowait(bytes(1000))
            for _ in range(8):
                connection.send_nowait(bytes(1024 * 1024))
            with pytest.raises(taps.SendError) as caught:
                connection.send_nowait(b"x")
            assert caught.value.reason is taps.Reason.QUEUE_FULL

    run(main, loop="virtual")


def test_parts_of_a_message_are_limited_like_messages(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            async with connection.sending() as message:
                for _ in range(3):
                    await message.send(bytes(500))
            await connection.send(b"behind")
            assert arrivals.times[:3] == exactly(0, 0.5, 1)
            assert arrivals.data[-1] == b"behind"

    run(main, loop="virtual")


def test_what_the_stack_refuses_costs_nothing(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no") if len(data) > 5000 else None
            with pytest.raises(taps.SendError, match="no"):
                await connection.send(bytes(10_000))
            began = now()
            await connection.send(b"x")
            assert now() == began

    run(main, loop="virtual")


def test_a_batch_is_limited_too_and_nobody_waits_for_its_end(play: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            with connection.batch():
                await connection.send(bytes(500))
                assert flow.flushed == []
                await connection.send(bytes(500))
                assert len(flow.flushed) == 1
            assert arrivals.times == exactly(0, 0.5)

    run(main, loop="virtual")


def test_a_full_stack_is_waited_for_as_well(play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection(**OWN) as (connection, flow):
            arrivals = Arrivals(flow)
            flow.up.writable(False)
            connection.send_nowait(bytes(500))
            connection.send_nowait(bytes(500))
            await asyncio.sleep(5)
            assert arrivals.times == []
            flow.up.writable(True)
            await asyncio.sleep(2)
            assert arrivals.times == exactly(5, 5.5)

    run(main, loop="virtual")


def test_what_was_sent_before_ready_is_limited(play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate(**OWN)
        for _ in range(3):
            connection.send_nowait(bytes(1000))
        times: list[float] = []
        transport.prepare = lambda flow: setattr(flow, "refuse", lambda data: times.append(now()))
        transport.go.set()
        began = now()
        await connection
        await connection.send(b"x")
        assert [each - began for each in times] == exactly(0, 1, 2, 3)
        connection.abort()
        await asyncio.sleep(0)

    run(main, loop="virtual")


# ------------------------------------------------------------------- changes


def test_a_limit_can_be_set_changed_and_lifted_at_any_time(play: Any) -> None:
    async def main() -> None:
        for name in ("maxSendRate", GROUP):
            async with play.connection() as (connection, flow):
                arrivals = Arrivals(flow)
                for _ in range(100):
                    await connection.send(bytes(1000))
                assert arrivals.times[-1] == 0
                connection.set_property(name, KILOBYTE)
                assert connection.properties[name] == KILOBYTE
                for _ in range(4):
                    connection.send_nowait(bytes(1000))
                await asyncio.sleep(1.5)
                assert arrivals.times[100:] == exactly(0, 1)
                # Half of a second's worth is owed: at the double rate that is a quarter.
                connection.set_property(name, 2 * KILOBYTE)
                await asyncio.sleep(0.3)
                assert arrivals.times[102:] == exactly(1.75)
                connection.set_property(name, math.inf)
                assert connection.queued == (0, 0)
                await connection.send(b"free")
                assert arrivals.times[103:] == exactly(1.8, 1.8)

    run(main, loop="virtual")


def test_without_a_limit_nothing_is_asked(play: Any) -> None:
    """The short way of a Send is taken again once the limit is gone."""

    async def main() -> None:
        async with play.connection(**TOGETHER) as (connection, flow):
            await connection.send(bytes(1000))
            assert not connection._fast
            connection.set_property(GROUP, math.inf)
            assert connection._fast
            assert connection._group.arbiter is None
            flow.up.writable(False)
            assert not connection._fast
            connection.set_property(GROUP, KILOBYTE)
            connection.set_property(GROUP, math.inf)
            assert not connection._fast
            flow.up.writable(True)
            assert connection._fast

    run(main, loop="virtual")


def test_a_limit_that_is_set_while_establishing_holds(
    world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    async def main() -> None:
        here = world(MemoryMessages(memory_network))
        async with here.listen() as listener:
            connection = here.to(listener).initiate()
            await asyncio.sleep(0.001)
            connection.set_property(GROUP, KILOBYTE)
            await connection
            began = now()
            await connection.send(bytes(1000))
            await connection.send(bytes(1000))
            assert now() - began == pytest.approx(1)
            (await listener.accept()).abort()
            connection.abort()

    run(main, memory_network, loop="virtual")


def test_the_group_limit_is_a_property_before_there_is_a_plugin() -> None:
    properties = taps.TransportProperties()
    assert properties.get(GROUP) == math.inf
    properties.set("_taps.group_max_send_rate", 5000)
    assert properties.get(GROUP) == 5000
    assert properties.is_set("_TAPS.groupMaxSendRate")
    with pytest.raises(taps.PropertyError, match="above 0"):
        properties.set(GROUP, 0)
    with pytest.raises(taps.PropertyError, match="above 0"):
        taps.TransportProperties(max_send_rate=-1)


# ------------------------------------------------------------------- every stack, and groups


@pytest.mark.parametrize("kind", [MemoryStream, MemoryDatagram, MemoryMessages])
def test_every_stack_is_limited(kind: Any, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(kind(memory_network), properties=OWN)
        async with here.listen() as listener:
            connection = await here.to(listener).initiate()
            assert connection.properties.effect("maxSendRate") is None
            assert connection.properties["maxSendRate"] == KILOBYTE
            began = now()
            for _ in range(3):
                await connection.send(bytes(1000))
            assert now() - began == pytest.approx(2)
            (await listener.accept()).abort()
            connection.abort()

    run(main, memory_network, loop="virtual")


class Pacing(MemoryStream):
    """A stack that keeps maxSendRate itself, and tells."""

    async def connect(self, request: Any) -> Any:
        flow = await super().connect(request)
        rate = request.properties["maxSendRate"]
        read = flow.read
        flow.read = lambda name: rate if name == "maxSendRate" else read(name)
        return flow


def test_nothing_is_limited_twice(world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(Pacing(memory_network), properties=OWN)
        async with here.listen() as listener:
            connection = await here.to(listener).initiate()
            began = now()
            for _ in range(3):
                await connection.send(bytes(1000))
            assert now() == began
            # The limit of the group is another one.
            connection.set_property(GROUP, KILOBYTE)
            for _ in range(3):
                await connection.send(bytes(1000))
            assert now() - began == pytest.approx(2)
            (await listener.accept()).abort()
            connection.abort()

    run(main, memory_network, loop="virtual")


@pytest.mark.parametrize("kind", [MemoryStream, MemoryMessages])
def test_each_member_has_its_own_rate_and_all_have_one_together(
    kind: Any, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(kind(memory_network), properties=OWN)
        async with here.listen() as listener:
            members = [await here.to(listener).initiate()]
            members += [await members[0].clone(), await members[0].clone()]
            for together, seconds in ((math.inf, 2), (2 * KILOBYTE, 4)):
                members[1].set_property(GROUP, together)
                assert members[2].properties[GROUP] == together
                await asyncio.sleep(10)
                began = now()
                sends = [member.send(bytes(1000)) for member in members for _ in range(3)]
                await asyncio.gather(*sends)
                assert now() - began == pytest.approx(seconds)
            # Who comes later is limited as well.
            await asyncio.sleep(10)
            members.append(await members[2].clone())
            members[0].set_property("maxSendRate", math.inf)
            began = now()
            await asyncio.gather(*(members[-1].send(bytes(1000)) for _ in range(3)))
            assert now() - began == pytest.approx(1)
            members[0].abort_group()

    run(main, memory_network, loop="virtual")


class Refusing(MemoryStream):
    """Clones refuse another connTimeout."""

    connections = 0

    async def connect(self, request: Any) -> Any:
        flow = await super().connect(request)
        self.connections += 1
        if self.connections > 1:
            flow.apply = self._refuse
        return flow

    def _refuse(self, name: str, value: Any) -> bool:
        if name == "connTimeout":
            raise taps.PropertyError("it stays as it is")
        return False


def test_who_leaves_the_group_is_limited_alone(world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        here = world(Refusing(memory_network), properties=TOGETHER)
        async with here.listen() as listener:
            first = await here.to(listener).initiate()
            second = await first.clone()
            began = now()
            sends = [asyncio.ensure_future(first.send(bytes(1000))) for _ in range(3)]
            sends += [asyncio.ensure_future(second.send(bytes(1000))) for _ in range(3)]
            await asyncio.sleep(1.5)
            assert first.queued[1] + second.queued[1] == 4
            left = second.queued[1]
            first.set_property("connTimeout", 5)
            assert second.grouped_connections() == {second}
            await asyncio.wait(sends)
            # Alone, with nothing owed, it sent one at once and then one in each second.
            assert now() - began == pytest.approx(1.5 + left - 1)
            first.abort()
            second.abort()

    run(main, memory_network, loop="virtual")
