"""What Receives are answered with: whole Messages and parts, in order, once, to the end."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neatpy
from taps_core.testing import MemoryMessages, MemoryNetwork, run

from .conftest import World, all_of, called, over, received, turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.testing.fixtures import Run


@pytest.fixture
def messages(memory_network: MemoryNetwork) -> Iterator[World]:
    """Over a protocol that carries Messages."""
    with World(MemoryMessages(memory_network)).use() as world:
        yield world


def test_a_whole_message_has_none_for_its_end(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            client.send(b"whole")
            client.send(b"")
            got = await received(server)
            assert (got.data, got.end, got.error) == (b"whole", None, None)
            got = await received(server)
            assert (got.data, got.end, got.error) == (b"", None, None)

    run(main)


def test_data_is_the_applications_own(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            client.send(b"abc")
            objects: list[neatpy.MessageDataObject] = []
            server.receive(lambda _, message: objects.append(message))
            await until(lambda: objects)
            (message,) = objects
            assert type(message.data) is bytearray
            assert message.length == 3
            message.data[0:1] = b"xyz"

    run(main)


def test_a_message_that_is_longer_than_wanted_comes_in_parts(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            client.send(b"0123456789")
            client.send(b"next")
            got = [await received(server, None, 4) for _ in range(4)]
            assert [(each.data, each.end) for each in got] == [
                (b"0123", False),
                (b"4567", False),
                (b"89", True),
                (b"next", None),
            ]

    run(main)


def test_a_part_has_the_least_length_that_was_asked_for(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            context = neatpy.MessageContext()
            client.send(b"01", None, context, False)
            parts: list[Any] = []
            server.receive(
                lambda _, m, context, end: parts.append((bytes(m.data), end)), 3, math.inf
            )
            await turns()
            assert parts == []
            client.send(b"234", None, context, False)
            await until(lambda: parts)
            assert parts == [(b"01234", False)]
            client.send(b"5", None, context, True)
            got = await received(server, 100)
            assert (got.data, got.end) == (b"5", True)

    run(main)


def test_only_a_complete_message_will_do_unless_a_length_is_given(
    run: Run, messages: World
) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            context = neatpy.MessageContext()
            client.send(b"first half, ", None, context, False)
            got: list[Any] = []
            server.receive(lambda *arguments: got.append(arguments))
            await turns()
            assert got == []
            client.send(b"second half", None, context, True)
            await until(lambda: got)
            assert bytes(got[0][1].data) == b"first half, second half"
            assert got[0][3] is None

    run(main)


def test_a_stream_gives_what_is_there_as_parts(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            client.send(b"abc")
            got = await received(server)
            assert (got.data, got.end, got.error) == (b"abc", False, None)
            client.send(b"def")
            got = await received(server, None, 2)
            assert (got.data, got.end) == (b"de", False)
            got = await received(server)
            assert (got.data, got.end) == (b"f", False)

    run(main)


def test_a_stream_waits_for_the_least_length(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            for each in (b"a", b"b", b"cd"):
                client.send(each)
                await turns()
            assert (await received(server, 4)).data == b"abcd"
            client.send(b"xy")
            client.close()
            got = await received(server, 100)
            assert (got.data, got.end, got.error) == (b"xy", True, None)

    run(main)


def test_requests_are_served_in_order(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            got: list[Any] = []
            for number in range(5):
                server.receive(lambda _, m, *, n=number: got.append((n, bytes(m.data))))
            for number in range(5):
                client.send(b"%d" % number)
            await until(lambda: len(got) == 5)
            assert got == [(n, b"%d" % n) for n in range(5)]

    run(main)


def test_a_handler_may_ask_for_more(run: Run, messages: World) -> None:
    """Thousands of times, and one is never inside the other."""

    async def main() -> None:
        async with messages.pair() as (client, server):
            got: list[bytes] = []
            depth = 0

            def handler(connection: Any, message: Any) -> None:
                nonlocal depth
                depth += 1
                assert depth == 1
                got.append(bytes(message.data))
                connection.receive(handler)
                depth -= 1

            server.receive(handler)
            for number in range(3000):
                client.send(b"%d" % number)
            await until(lambda: len(got) == 3000)
            assert got == [b"%d" % number for number in range(3000)]

    run(main)


def test_who_asks_for_nothing_holds_up_the_peer(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            told: list[Any] = []
            for _ in range(400):
                client.send(b"x" * 64 * 1024, lambda *_: told.append(None))
            await turns(1000)
            assert len(told) < 200
            assert len(await all_of(server, 400 * 64 * 1024)) == 400 * 64 * 1024

    run(main)


def test_whoever_waits_is_told_of_the_end_once(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            told: list[Any] = []
            server.HANDLE_STATE_CLOSED = lambda _: told.append("closed")

            def again(connection: Any, message: Any, context: Any, end: Any, error: Any) -> None:
                told.append((bytes(message.data), end, error is not None))
                connection.receive(again)  # which must not go on for ever

            server.receive(again)
            server.receive(again)
            client.send(b"last words")
            client.close()
            await until(lambda: "closed" in told)
            await turns()
            assert told == [
                (b"last words", None, False),
                (b"", True, True),
                (b"", True, True),
                "closed",
            ]

    run(main)


def test_a_failure_is_told_to_whoever_waits(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            failed = called(server, "HANDLE_STATE_CONNECTION_ERROR")
            answer = asyncio.ensure_future(received(server))
            await turns()
            client.abort()
            got = await answer
            assert got.error
            assert (got.data, got.end) == (b"", True)
            assert await failed is server

    run(main)


def test_the_end_is_noticed_while_nobody_asks_for_what_is_there(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            failed = called(server, "HANDLE_STATE_CONNECTION_ERROR")
            client.send(b"nobody wants this")
            await turns()
            client.abort()
            assert await failed is server

    run(main)


def test_receiving_is_over_when_this_side_closes(run: Run, messages: World) -> None:
    async def main() -> None:
        async with messages.pair() as (client, server):
            server.send(b"unread")
            await turns()
            closed = called(client, "HANDLE_STATE_CLOSED")
            client.close()
            client.receive(lambda *_: pytest.fail("nothing comes any more"))
            await closed

    run(main)


def test_receives_before_ready_wait(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen(received=lambda connection: connection.send(b"welcome"))
        client = memory.initiate(listener)
        assert (await received(client)).data == b"welcome"
        client.stop()
        await over()

    run(main)


def test_lengths_below_one_are_refused(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, _):
            wrong: Any
            for wrong in (("1",), (None, 1.5), (1.5,), (None, "9")):
                with pytest.raises(TypeError, match="numbers of bytes"):
                    client.receive(print, *wrong)
            for lengths in ((0,), (None, 0), (-1, 5)):
                with pytest.raises(ValueError, match="at least 1"):
                    client.receive(print, *lengths)

    run(main)


def test_a_connection_that_only_sends_receives_nothing(run: Run, memory: World) -> None:
    """The original could not be told which direction was wanted."""

    async def main() -> None:
        listener = await memory.listen()
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        properties = neatpy.TransportProperties()
        properties.add(
            neatpy.SelectionProperties.DIRECTION,
            neatpy.CommunicationDirections.UNIDIRECTIONAL_SEND,
        )
        client = await memory.ready(listener, transport_properties=properties)
        server = (await accepted)[0]
        assert client.get_properties()["receive"] is False
        assert (await received(client)).error
        client.send(b"one way")
        assert (await received(server)).data == b"one way"
        failed = called(client, "HANDLE_STATE_CONNECTION_ERROR")
        server.abort()
        await failed
        listener.stop()
        await over()

    run(main)


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=8),
    st.lists(
        st.tuples(st.none() | st.integers(1, 250), st.integers(1, 250)), min_size=1, max_size=6
    ),
)
def test_messages_come_whole_however_they_are_asked_for(
    sent: list[bytes], wanted: list[tuple[int | None, int]]
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        with World(MemoryMessages(network)).use() as world:
            async with world.pair() as (client, server):
                for each in sent:
                    client.send(each)
                whole: list[bytes] = []
                part = b""
                asked = 0
                while len(whole) < len(sent):
                    minimum, maximum = wanted[asked % len(wanted)]
                    asked += 1
                    got = await received(server, minimum, maximum)
                    assert len(got.data) <= maximum
                    part += got.data
                    if got.end is False:
                        continue
                    # None says that nothing of it came before.
                    assert (got.end is None) == (part == got.data)
                    whole.append(part)
                    part = b""
                assert whole == sent

    run(main)
