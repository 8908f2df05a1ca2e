"""What is particular to Messages with streams."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from taps_core.model.errors import ConnectionError, EstablishmentError, Expired, Reason
from taps_core.testing import End, MemoryMessages, MemoryNetwork, Rig
from taps_core.testing.memory_messages import MemorySession

if TYPE_CHECKING:
    from taps_core.model.flow import Flow
    from taps_core.testing.fixtures import Run


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def session_of(end: End) -> MemorySession:
    session = end.flow.session
    assert isinstance(session, MemorySession)
    return session


class Taker:
    """Takes the streams that the peer opens."""

    def __init__(self, rig: Rig, end: End, limit: float = math.inf) -> None:
        self.ends: list[End] = []
        self._rig = rig
        session_of(end).accept_streams(self._take, limit)

    def _take(self, flow: Flow) -> None:
        self.ends.append(self._rig._end(flow, True))


async def open_stream(rig: Rig, end: End) -> End:
    return rig._end(await session_of(end).open_stream({}), True)


# -- Messages


def test_boundaries_are_kept(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            client.send(b"one", b"", (b"tw", b"o"))
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.messages == [b"one", b"", b"two"]

    run(main)


def test_a_message_in_parts_arrives_in_parts(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            client.flow.send(b"be", None, False)
            client.flow.flush()
            await server.recorder.until(lambda: server.recorder.parts)
            assert server.recorder.parts == [(b"be", None, False)]
            client.flow.send(b"gin", None, True)
            client.flow.flush()
            await server.recorder.until(lambda: server.recorder.messages)
            assert server.recorder.messages == [b"begin"]

    run(main)


def test_long_messages_can_be_delivered_in_chunks(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network, chunk=100)) as rig:
            client, server = await rig.pair()
            client.send(bytes(250), b"", b"x")
            await server.recorder.until(lambda: len(server.recorder.messages) == 3)
            sizes = [(len(data), end) for data, _, end in server.recorder.parts]
            assert sizes == [(100, False), (100, False), (50, True), (0, True), (1, True)]

    run(main)


def test_zero_length_messages_fill_the_window_too(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(*[b""] * 5000)
            await client.recorder.until(lambda: not client.recorder.is_writable)

    run(main)


def test_unordered_messages_overtake_those_that_wait(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(bytes(70_000))  # fills the window
            client.send(b"1", b"2")
            client.send(b"first", msgOrdered=False)
            server.flow.resume()
            await server.recorder.until(lambda: len(server.recorder.messages) == 4)
            assert server.recorder.messages[1:] == [b"first", b"1", b"2"]

    run(main)


def test_no_message_comes_between_the_parts_of_another(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network, window=100)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.flow.send(bytes(200), None, False)
            client.flow.flush()
            client.flow.send(b"end", None, True)
            client.send(b"unordered", msgOrdered=False)
            server.flow.resume()
            await server.recorder.until(lambda: len(server.recorder.messages) == 2)
            assert server.recorder.messages == [bytes(200) + b"end", b"unordered"]

    run(main)


def test_a_message_whose_lifetime_ends_while_it_waits_expires(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(bytes(70_000))
            short = client.send(b"short-lived", msgLifetime=0.001)
            long = client.send(b"long-lived", msgLifetime=1000)
            client.send(b"reliable")
            await client.recorder.until(lambda: client.recorder.outcomes)
            ((record, error),) = client.recorder.outcomes
            assert record is short
            assert short is not None
            assert isinstance(error, Expired)
            assert error.context is short.context
            server.flow.resume()
            await client.recorder.until(lambda: len(client.recorder.outcomes) == 2)
            assert client.recorder.outcomes[1] == (long, None)
            await server.recorder.until(lambda: len(server.recorder.messages) == 3)
            assert server.recorder.messages[1:] == [b"long-lived", b"reliable"]

    run(main)


def test_a_flow_closes_in_order_around_an_expired_message(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(bytes(70_000))
            client.send(b"short-lived", msgLifetime=0.001)
            client.flow.close()
            await client.has_closed()
            assert client.recorder.error is None
            assert [call.name for call in client.recorder.calls] == ["outcome", "closed"]

    run(main)


def test_unreliable_messages_get_lost_or_arrive_and_say_so(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        transport = MemoryMessages(memory_network, lose=lambda data: data == b"unlucky")
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            lost = client.send(b"unlucky", msgReliable=False)
            arrived = client.send(b"lucky", msgReliable=False)
            client.send(b"unlucky")
            await client.recorder.until(lambda: len(client.recorder.outcomes) == 2)
            (first, error), second = client.recorder.outcomes
            assert first is lost
            assert isinstance(error, Expired)
            assert second == (arrived, None)
            await server.recorder.until(lambda: len(server.recorder.messages) == 2)
            assert server.recorder.messages == [b"lucky", b"unlucky"]

    run(main)


def test_other_sends_have_no_later_outcome(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            client.send(b"urgent", msgPriority=1)
            client.send(b"forever", msgLifetime=math.inf)
            await server.has_data(b"urgentforever")
            await turns()
            assert not client.recorder.calls

    run(main)


# -- streams


def test_a_stream_appears_at_its_first_message(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            stream = await open_stream(rig, client)
            await turns()
            assert not taker.ends
            stream.send(b"hello")
            assert not taker.ends, "up from inside flush"
            await turns()
            (inbound,) = taker.ends
            await inbound.has_data(b"hello")
            inbound.send(b"welcome")
            await stream.has_data(b"welcome")
            assert inbound.flow.session is server.flow.session
            assert not client.recorder.calls
            assert not server.recorder.calls

    run(main, memory_network)


def test_opening_a_stream_takes_no_turn_and_sends_nothing(
    run: Run, memory_network: MemoryNetwork
) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, _ = await rig.pair()
            memory_network.wiretap = seen.append
            opening = session_of(client).open_stream({})
            with pytest.raises(StopIteration) as stopped:
                opening.send(None)
            rig._end(stopped.value.value, True)
            assert not seen

    run(main)


def test_both_ends_open_streams(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, client)
            (await open_stream(rig, server)).send(b"from the server")
            await turns()
            await taker.ends[0].has_data(b"from the server")

    run(main)


def test_streams_wait_until_somebody_takes_them(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            for number in range(16):
                (await open_stream(rig, client)).send(b"%d" % number)
            with pytest.raises(EstablishmentError):
                await session_of(client).open_stream({})
            taker = Taker(rig, server)
            await turns()
            assert [end.recorder.data for end in taker.ends] == [b"%d" % n for n in range(16)]
            await open_stream(rig, client)

    run(main)


def test_the_peer_opens_no_more_than_the_limit(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server, limit=2)
            for _ in range(2):
                await open_stream(rig, client)
            with pytest.raises(EstablishmentError) as caught:
                await session_of(client).open_stream({})
            assert caught.value.reason is Reason.NOT_CLONEABLE
            for end in rig.ends[2:]:
                end.send(b"x")
            await turns()
            assert len(taker.ends) == 2
            with pytest.raises(EstablishmentError):
                await session_of(client).open_stream({})
            session_of(server).accept_streams(None, 0)
            with pytest.raises(EstablishmentError):
                await session_of(client).open_stream({})

    run(main)


def test_an_unused_stream_never_appears(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server, limit=2)
            for end_it in ("close", "abort"):
                stream = await open_stream(rig, client)
                getattr(stream.flow, end_it)()
                await stream.has_closed()
            await turns()
            assert not taker.ends
            assert memory_network.open_flows == 2
            await open_stream(rig, client)
            await open_stream(rig, client)

    run(main)


def test_a_final_without_a_message_makes_a_stream_appear(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            stream = await open_stream(rig, client)
            stream.flow.finish()
            await turns()
            (inbound,) = taker.ends
            assert inbound.recorder.is_finished
            inbound.send(b"answer")
            await stream.has_data(b"answer")

    run(main)


@pytest.mark.parametrize("end_it", ["close", "abort"])
def test_the_end_of_one_stream_leaves_the_others(
    run: Run, memory_network: MemoryNetwork, end_it: str
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            stream = await open_stream(rig, client)
            stream.send(b"x")
            await turns()
            getattr(client.flow, end_it)()
            await client.has_closed()
            server.flow.close()
            await server.has_closed()
            stream.send(b"y")
            await taker.ends[0].has_data(b"xy")
            (await open_stream(rig, stream)).send(b"z")
            await turns()
            assert len(taker.ends) == 2

    run(main)


def test_a_paused_stream_does_not_stop_the_others(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            stream = await open_stream(rig, client)
            stream.send(b"x")
            await turns()
            server.flow.pause()
            client.send(bytes(200_000))
            stream.send(b"y")
            await taker.ends[0].has_data(b"xy")

    run(main)


def test_closing_the_session_ends_every_stream_in_order(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            stream = await open_stream(rig, client)
            for end in (client, stream):
                end.send(b"last")
            session_of(client).close()
            await client.has_closed()
            await stream.has_closed()
            await turns()
            for end in (server, taker.ends[0]):
                assert end.recorder.data == b"last"
                assert end.recorder.is_finished
            for end in (client, server):
                with pytest.raises(EstablishmentError):
                    await session_of(end).open_stream({})
            session_of(server).close()
            await server.has_closed()
            assert all(end.recorder.error is None for end in rig.ends)
            await turns()
            assert memory_network.open_flows == 0

    run(main)


def test_aborting_the_session_ends_every_stream_at_once(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            taker = Taker(rig, server)
            used, unused = await open_stream(rig, client), await open_stream(rig, client)
            used.send(b"x")
            await turns()
            session_of(server).abort()
            for end in (client, server, used, unused, *taker.ends):
                await end.has_closed()
                assert isinstance(end.recorder.error, ConnectionError)
            assert memory_network.open_flows == 0

    run(main)


def test_streams_that_nobody_took_end_with_the_association(
    run: Run, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(MemoryMessages(memory_network)) as rig:
            client, server = await rig.pair()
            waiting, unused = await open_stream(rig, client), await open_stream(rig, client)
            waiting.send(b"takes nobody")
            await turns()
            server.flow.close()
            client.flow.close()
            for end in (client, server, waiting, unused):
                await end.has_closed()
            assert memory_network.open_flows == 0
            with pytest.raises(EstablishmentError):
                await session_of(client).open_stream({})

    run(main)
