"""What becomes of Messages that are sent: order, outcomes, lifetimes, priorities, batches."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neatpy
import taps_core as taps
from neatpy import MessageContext, MessageProperties, SendErrorReason
from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryNetwork, MemoryStream, run

from .conftest import World, all_of, called, over, received, sent, turns, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.testing.fixtures import Run


def context(**properties: Any) -> MessageContext:
    made = MessageContext()
    for name, value in properties.items():
        made.add(MessageProperties[name], value)
    return made


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_anything_of_bytes_is_sent_and_is_the_callers_again(
    run: Run, memory: World, kind: Callable[[bytearray], Any]
) -> None:
    """The original took neither a bytearray nor a memoryview."""

    async def main() -> None:
        async with memory.pair() as (client, server):
            mutable = bytearray(b"before")
            client.send(kind(mutable))
            if kind is not bytes:
                mutable[:] = b"after!"
            assert (await received(server)).data == b"before"
            with pytest.raises(TypeError, match="bytes are sent, not str"):
                client.send("text")  # type: ignore[arg-type]  # the point of it

    run(main)


@pytest.mark.parametrize("wrong", [0, [], "context", object()])
def test_what_is_no_context_is_refused_and_close_waits_for_nothing(
    run: Run, memory: World, wrong: Any
) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            with pytest.raises(TypeError, match="a MessageContext"):
                client.send(b"x", None, wrong)
            client.send(b"after")
            assert (await received(server)).data == b"after"

    run(main)


def test_a_sent_handler_comes_later_and_once(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, _):
            told: list[Any] = []
            client.send(b"a", lambda *arguments: told.append(arguments))
            assert told == []
            await turns()
            assert told == [(client, None)]

    run(main)


def test_sent_handlers_come_in_the_order_in_which_messages_left(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            told: list[int] = []
            for number in range(50):
                client.send(b"x" * 20_000, lambda *_, n=number: told.append(n))
            assert len(await all_of(server, 50 * 20_000)) == 50 * 20_000
            await turns()
            assert told == list(range(50))

    run(main)


@pytest.mark.parametrize(("size", "number"), [(8, 40_000), (64 * 1024, 200)])
def test_nothing_is_lost_of_more_than_anybody_can_hold(
    run: Run, memory: World, size: int, number: int
) -> None:
    """NEATPy's programs are not told to wait, so they need not."""

    async def main() -> None:
        async with memory.pair() as (client, server):
            outcome, handler = sent()
            for each in range(number):
                client.send(each.to_bytes(4, "big") * (size // 4))
            client.send(b"end!", handler)
            data = await all_of(server, number * size + 4)
            assert await outcome is None
            expected = b"".join(n.to_bytes(4, "big") * (size // 4) for n in range(number))
            assert data == expected + b"end!"

    run(main)


def test_a_warning_tells_how_much_waits_because_the_peer_takes_less(
    run: Run, memory: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("neatpy._sending.ALARMING", 16 * 1024 * 1024)

    async def main() -> None:
        async with memory.pair() as (client, server):
            for _ in range(40):
                client.send(bytes(1024 * 1024))
            assert caplog.messages
            await all_of(server, 40 * 1024 * 1024)
            # Once for each time that it has doubled.
            assert [m.partition(": ")[2][:14] for m in caplog.messages] == [
                "16 MiB wait to",
                "32 MiB wait to",
            ]

    with caplog.at_level(logging.WARNING):
        run(main)


def test_handlers_that_send_again_and_again_let_others_have_their_turn(
    run: Run, memory: World
) -> None:
    async def main() -> None:
        async with memory.pair() as (client, _):
            told: list[Any] = []

            def again(connection: neatpy.Connection, reason: Any) -> None:
                told.append(reason)
                if len(told) < 1000:
                    connection.send(b"x", again)

            client.send(b"x", again)
            await turns(5)
            assert 0 < len(told) < 1000
            await until(lambda: len(told) == 1000)
            assert set(told) == {None}

    run(main)


def test_close_delivers_what_waits_for_room(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            for _ in range(200):
                client.send(b"x" * 64 * 1024)
            client.close()
            refused, handler = sent()
            client.send(b"too late", handler)
            assert await refused is SendErrorReason.CONNECTION_CLOSING
            assert len(await all_of(server, 200 * 64 * 1024)) == 200 * 64 * 1024

    run(main)


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=12))
def test_of_messages_that_wait_the_larger_priority_goes_first(priorities: list[int]) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        with World(MemoryMessages(network)).use() as memory:
            listener = await memory.listen()
            accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
            client = memory.initiate(listener)
            for number, priority in enumerate(priorities):
                client.send(b"%d" % number, None, context(PRIORITY=priority))
            client.send(b"usual")
            client.send(b"last", None, context(FINAL=True, PRIORITY=10**9 + 1))
            server = (await accepted)[0]
            data = [(await received(server)).data for _ in range(len(priorities) + 2)]
            ranked = [*enumerate(priorities), (-1, 100)]
            ranked.sort(key=lambda each: -each[1])
            names = [b"usual" if number < 0 else b"%d" % number for number, _ in ranked]
            assert data == [*names, b"last"]
            client.stop()
            await over()

    run(main)


def test_priorities_are_kept_beyond_what_the_core_holds(
    run: Run, memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neatpy._sending.MOST_MESSAGES", 1)

    async def main() -> None:
        async with memory.pair() as (client, server):
            client.send(b"x" * 4_000_000)  # fills what there is
            client.send(b"y" * 4_000_000)
            for priority in (1, 3, 2):
                client.send(b"%d" % priority, None, context(PRIORITY=priority))
            data = await all_of(server, 8_000_003)
            assert data[8_000_000:] == b"321"

    run(main)


def test_after_a_final_message_nothing_is_sent(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            first, handler = sent()
            client.send(b"last", handler, context(FINAL=True))
            after, handler = sent()
            client.send(b"more", handler)
            assert await first is None
            assert await after is SendErrorReason.FINAL_MESSAGE_PASSED
            assert (await received(server)).data == b"last"

    run(main)


def test_a_message_whose_lifetime_is_over_is_not_sent(
    virtual_run: Any, virtual_network: Any
) -> None:
    async def scenario(net: Any) -> None:
        net.host("server.example")
        virtual_network.path(latency=2.0)

        async def silent(connection: taps.Connection[Any]) -> None:
            messages = [await connection.receive_exactly(5)]
            assert messages[0].data == b"stays"

        await net.serve("server.example:7", silent, security=taps.SecurityParameters.disabled())
        remote = neatpy.RemoteEndpoint()
        remote.with_hostname("server.example")
        remote.with_port(7)
        client = neatpy.Preconnection(remote_endpoint=remote).initiate()
        expired, handler = sent()
        client.send(b"gone!", handler, context(LIFETIME=1.5))
        kept, handler = sent()
        client.send(b"stays", handler, context(LIFETIME=150))
        assert await expired is SendErrorReason.MESSAGE_TIMEOUT
        assert await kept is None
        client.stop()
        await over()

    virtual_run(scenario)


def test_lifetimes_count_where_there_is_no_room_too(
    run: Run, memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neatpy._sending.MOST_MESSAGES", 1)

    async def main() -> None:
        async with memory.pair() as (client, server):
            client.send(b"x" * 4_000_000)
            client.send(b"y" * 4_000_000)
            expired, handler = sent()
            client.send(b"gone!", handler, context(LIFETIME=0.001))
            kept, handler = sent()
            client.send(b"stays", handler, context(LIFETIME=100))
            await asyncio.sleep(0.01)
            assert (await all_of(server, 8_000_005))[8_000_000:] == b"stays"
            assert await expired is SendErrorReason.MESSAGE_TIMEOUT
            assert await kept is None

    run(main)


def test_parts_of_a_message_are_one(run: Run, memory_network: MemoryNetwork, world: Any) -> None:
    async def main() -> None:
        with world(MemoryMessages(memory_network)).use() as memory:
            async with memory.pair() as (client, server):
                one = MessageContext()
                client.send(b"a", None, one, False)
                client.send(b"interposed")
                client.send(b"b", None, one, False)
                client.send(b"c", None, one, True)
                client.send(b"d", None, None, False)
                client.send(b"e", None, None, True)
                data = [(await received(server)).data for _ in range(3)]
                assert data == [b"abc", b"interposed", b"de"]

    run(main)


def test_parts_that_wait_for_room_stay_together(
    run: Run, memory_network: MemoryNetwork, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neatpy._sending.MOST_BYTES", 1)

    async def main() -> None:
        with world(MemoryMessages(memory_network)).use() as memory:
            async with memory.pair() as (client, server):
                for _ in range(100):
                    client.send(b"x" * 60_000)
                one, other = MessageContext(), MessageContext()
                for number in range(5):
                    client.send(b"%d" % number, None, one, number == 4)
                    client.send(b"%d" % (9 - number), None, other, number == 4)
                data = [(await received(server)).data for _ in range(102)]
                assert data[100:] == [b"01234", b"98765"]

    run(main)


def test_a_batch_arrives_whole_and_in_order(run: Run, memory: World) -> None:
    """The original failed on the first Message of a batch."""

    async def main() -> None:
        async with memory.pair() as (client, server):
            told: list[int] = []

            def block() -> None:
                for number in range(10):
                    client.send(b"%d" % number, lambda *_, n=number: told.append(n))

            client.batch(block)
            assert await all_of(server, 10) == b"0123456789"
            await turns()
            assert told == list(range(10))

    run(main)


def test_a_batch_leaves_together(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            client.batch(lambda: [client.send(each) for each in (b"a", b"b", b"c")])
            assert (await received(server)).data == b"abc"
            with pytest.raises(ZeroDivisionError):
                client.batch(lambda: 1 / 0)
            client.send(b"d")
            assert (await received(server)).data == b"d"

    run(main)


def test_a_message_that_is_too_large_is_told(
    run: Run, memory_network: MemoryNetwork, world: Any
) -> None:
    async def main() -> None:
        with world(MemoryDatagram(memory_network)).use() as memory:
            memory.properties = neatpy.TransportProperties(
                neatpy.TransportPropertyProfiles.UNRELIABLE_DATAGRAM
            )
            async with memory.pair() as (client, server):
                outcome, handler = sent()
                client.send(bytes(100_000), handler)
                assert await outcome is SendErrorReason.MESSAGE_TOO_LARGE
                client.send(b"small")
                assert (await received(server)).data == b"small"
                outcome, handler = sent()
                client.send(b"x", handler, context(ORDERED=True))
                assert await outcome is SendErrorReason.INCONSISTENT_PROPERTIES_PASSED

    run(main)


def test_what_nobody_handles_is_logged(
    run: Run, memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The original called None."""

    async def main() -> None:
        async with memory.pair() as (client, _):
            client.close()
            client.send(b"too late")
            await turns()

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "a Message was not sent: Connection is closing" in caplog.text


def test_a_broken_connection_tells_every_send_before_it_ends(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            told: list[Any] = []
            for _ in range(300):
                client.send(b"x" * 64 * 1024, lambda _, reason: told.append(reason))
            client.HANDLE_STATE_CONNECTION_ERROR = lambda _: told.append("ended")
            await turns()
            server.abort()
            await until(lambda: "ended" in told)
            assert len(told) == 301
            assert told[-1] == "ended"
            assert set(told[:-1]) <= {None, SendErrorReason.FAILURE_UNDERLYING_STACK}
            assert told[-2] is SendErrorReason.FAILURE_UNDERLYING_STACK

    run(main)


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=12), st.integers(5_000, 100_000))
def test_bytes_arrive_once_and_in_order_however_they_are_asked_for(
    sizes: list[int], largest: int
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        with World(MemoryStream(network)).use() as memory:
            async with memory.pair() as (client, server):
                whole = bytes(index % 251 for index in range(sum(sizes)))
                at = 0
                for size in sizes:
                    client.send(whole[at : at + size])
                    at += size
                data = b""
                while len(data) < len(whole):
                    got = await received(server, None, largest)
                    assert 0 < len(got.data) <= largest
                    data += got.data
                assert data == whole

    run(main)
