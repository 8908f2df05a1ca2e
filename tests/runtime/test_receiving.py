"""Receive: whole Messages and parts, in order, nothing lost (RFC 9622, section 9.3)."""

from __future__ import annotations

import asyncio
import random
import warnings
from typing import Any

import pytest

import taps_core as taps
from taps_core.runtime import inbox as inbox_module
from taps_core.testing import MemoryStream, random_chunks
from taps_framers import LengthPrefix, Line

CUT_OFF = taps.ReceiveError("lost", reason=taps.Reason.DEFRAMING_FAILED)


# --------------------------------------------------------------------------- whole Messages


@pytest.mark.requirement("G-9622-9.3-01")
def test_messages_that_came_before_receive_satisfy_the_next_ones(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"1", b"", b"3")
            messages = [await connection.receive() for _ in range(3)]
            assert [message.data for message in messages] == [b"1", b"", b"3"]
            assert all(message.end_of_message for message in messages)

    run(main)


def test_receivers_are_served_in_the_order_in_which_they_came(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            order: list[bytes] = []

            async def receive(**lengths: int) -> None:
                order.append((await connection.receive(**lengths)).data)

            async with asyncio.TaskGroup() as group:
                for number in range(6):
                    group.create_task(receive(**({"max_length": 100} if number % 2 else {})))
                await turns()
                flow.receive(b"0")
                flow.receive(b"1", b"2", b"3")
                await turns(1)
                flow.receive(b"4", b"5")
            assert order == [b"0", b"1", b"2", b"3", b"4", b"5"]

    run(main)


def test_a_receiver_that_comes_later_does_not_overtake(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            first = asyncio.create_task(connection.receive())
            second = asyncio.create_task(connection.receive())
            await turns()
            flow.receive(b"1", b"2", b"3")
            assert (await connection.receive()).data == b"3"
            assert (await first).data == b"1"
            assert (await second).data == b"2"

    run(main)


def test_order_is_kept_where_a_receiver_has_to_yield(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            order: list[tuple[str, bytes]] = []

            async def receive(name: str) -> None:
                while True:
                    data = (await connection.receive()).data
                    order.append((name, data))
                    if data >= b"%05d" % 9_998:
                        break

            flow.receive(*(b"%05d" % number for number in range(5_000)))
            both = [asyncio.create_task(receive(name)) for name in "ab"]
            await turns()
            flow.receive(*(b"%05d" % number for number in range(5_000, 10_000)))
            await asyncio.gather(*both)
            assert [data for _, data in order] == [b"%05d" % number for number in range(10_000)]

    run(main)


def test_an_empty_message_is_a_message(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            waiting = asyncio.create_task(connection.receive())
            await asyncio.sleep(0)
            flow.receive(b"")
            message = await waiting
            assert message.data == b""
            assert message.end_of_message
            flow.parts((b"", None, False), (b"", None, True))
            assert (await connection.receive(max_length=5)).data == b""

    run(main)


def test_objects_are_received_as_they_are(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts(({"a": 1}, None, True), (7, None, True), (None, None, True))
            received = [(await connection.receive()).data for _ in range(3)]
            assert received == [{"a": 1}, 7, None]
            flow.parts(([1, 2], None, True))
            assert (await connection.receive(max_length=1)).data == [1, 2]
            assert connection._inbox.size == 0

    run(main)


# ----------------------------------------------------------------------------- cancellation


def test_a_cancelled_receive_loses_nothing(run: Any, play: Any) -> None:
    """Cancelled in the very turn in which the Message arrives, a thousand times."""

    async def main() -> None:
        async with play.connection() as (connection, flow):
            got = []
            for number in range(1000):
                task = asyncio.create_task(connection.receive())
                await asyncio.sleep(0)
                flow.receive(b"%d" % number)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    got.append(task.result().data)
            while len(got) < 1000:
                got.append((await connection.receive()).data)
            assert got == [b"%d" % number for number in range(1000)]

    run(main)


@pytest.mark.parametrize("seed", range(5))
def test_cancelled_receivers_among_others_lose_nothing(
    run: Any, play: Any, turns: Any, seed: int
) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        async with play.connection() as (connection, flow):
            got: list[bytes] = []
            sent = 0
            wishes: list[Any] = [
                connection.receive,
                lambda: connection.receive(max_length=100),
                lambda: connection.receive(min_incomplete_length=3),
                lambda: connection.receive_exactly(5),
                lambda: connection.receive_until(b"."),
            ]

            async def receive() -> None:
                got.append((await chance.choice(wishes)()).data)

            waiting = [asyncio.create_task(receive()) for _ in range(5)]
            for _ in range(200):
                chance.choice(waiting).cancel()
                for _ in range(chance.randrange(3)):
                    flow.receive(b"%04d." % sent)
                    sent += 1
                chance.choice(waiting).cancel()
                await turns(chance.randrange(3))
                waiting.append(asyncio.create_task(receive()))
            await turns()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            flow.end()
            async for message in connection:
                got.append(message.data)
            assert got == [b"%04d." % number for number in range(sent)]

    run(main)


def test_a_cancelled_receiver_passes_the_turn_on(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            first = asyncio.create_task(connection.receive())
            second = asyncio.create_task(connection.receive())
            await turns()
            flow.receive(b"x")
            first.cancel()
            assert (await second).data == b"x"
            assert first.cancelled()

    run(main)


def test_a_timeout_around_receive_loses_nothing(run: Any, pair: Any, memory_network: Any) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.receive(), 0.001)
            await client.send(b"x")
            assert (await asyncio.wait_for(server.receive(), 10)).data == b"x"

    run(main, memory_network)


# ----------------------------------------------------------------------------------- parts


@pytest.mark.requirement("G-9622-9.3.2.2-01")
def test_max_length_divides_a_message_into_parts_with_one_context(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"0123456789", b"next")
            parts = [await connection.receive(max_length=4) for _ in range(3)]
            assert [part.data for part in parts] == [b"0123", b"4567", b"89"]
            assert [part.end_of_message for part in parts] == [False, False, True]
            assert len({id(part.context) for part in parts}) == 1
            message = await connection.receive(max_length=4)
            assert (message.data, message.end_of_message) == (b"next", True)
            assert message.context is not parts[0].context

    run(main)


def test_the_rest_of_a_message_can_be_had_in_one_piece(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"0123456789")
            await connection.receive(max_length=4)
            rest = await connection.receive()
            assert (rest.data, rest.end_of_message) == (b"456789", True)

    run(main)


def test_without_a_minimum_max_length_waits_for_the_end_of_the_message(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            receive = asyncio.create_task(connection.receive(max_length=2))
            await turns()
            flow.parts((b"abc", None, False))
            await turns()
            assert not receive.done()
            flow.parts((b"d", None, True))
            assert (await receive).data == b"ab"

    run(main)


def test_min_incomplete_length_is_the_least_part_of_an_unfinished_message(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            receive = asyncio.create_task(connection.receive(min_incomplete_length=3))
            await turns()
            flow.parts((b"ab", None, False))
            await turns()
            assert not receive.done()
            flow.parts((b"cd", None, False))
            first = await receive
            assert (first.data, first.end_of_message) == (b"abcd", False)
            flow.parts((b"e", None, False))
            flow.parts((b"", None, True))
            last = await connection.receive(min_incomplete_length=3)
            assert (last.data, last.end_of_message) == (b"e", True)
            assert last.context is first.context
            flow.receive(b"f")
            assert (await connection.receive(min_incomplete_length=3)).data == b"f"

    run(main)


def test_both_lengths_together(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts((b"abcdefg", None, False))
            lengths = {"min_incomplete_length": 2, "max_length": 3}
            assert (await connection.receive(**lengths)).data == b"abc"
            assert (await connection.receive(**lengths)).data == b"def"
            flow.parts((b"h", None, True))
            last = await connection.receive(**lengths)
            assert (last.data, last.end_of_message) == (b"gh", True)

    run(main)


@pytest.mark.parametrize(
    "lengths",
    [
        {"max_length": 0},
        {"min_incomplete_length": 0},
        {"min_incomplete_length": -1},
        {"min_incomplete_length": 3, "max_length": 2},
    ],
)
def test_lengths_that_cannot_be_are_refused(run: Any, play: Any, lengths: dict[str, int]) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"x")
            with pytest.raises(ValueError, match=r"length"):
                await connection.receive(**lengths)
            assert (await connection.receive()).data == b"x"

    run(main)


def test_parts_of_messages_that_interleave_are_told_apart_by_their_contexts(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            a, b, c = (taps.MessageContext() for _ in range(3))
            flow.parts((b"a1", a, False), (b"b1", b, False), (b"c1", c, False))
            flow.parts((b"b2", b, True), (b"a2", a, False), (b"c2", c, True))
            flow.parts((b"a3", a, True))
            received = [await connection.receive() for _ in range(3)]
            assert [message.data for message in received] == [b"b1b2", b"c1c2", b"a1a2a3"]
            assert [message.context for message in received] == [b, c, a]
            flow.receive(b"x")
            assert connection._inbox.size == 1

    run(main)


def test_a_whole_message_may_come_between_the_parts_of_another(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            a, b = taps.MessageContext(), taps.MessageContext()
            flow.parts((b"a1", a, False), (b"b", b, True), (b"a2", a, True))
            assert (await connection.receive()).data == b"b"
            assert (await connection.receive()).data == b"a1a2"

    run(main)


def test_parts_of_any_unfinished_message_can_be_had(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            a, b = taps.MessageContext(), taps.MessageContext()
            flow.parts((b"a1", a, False), (b"b1", b, False), (b"a2", a, True))
            assert (await connection.receive()).data == b"a1a2"
            part = await connection.receive(min_incomplete_length=1)
            assert (part.data, part.context) == (b"b1", b)
            flow.parts((b"b2", b, True))
            assert (await connection.receive()).data == b"b2"

    run(main)


def test_what_is_too_large_to_hold_comes_in_parts(
    run: Any, play: Any, turns: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MAX_ASSEMBLY", 1000)

    async def main() -> None:
        async with play.connection() as (connection, flow):
            got = []
            receive = asyncio.create_task(connection.receive())
            await turns()
            for _ in range(30):
                flow.parts((bytes(100), None, False))
                if receive.done():
                    got.append(receive.result())
                    receive = asyncio.create_task(connection.receive())
                await turns()
            flow.parts((b"end", None, True))
            got.append(await receive)
            assert b"".join(message.data for message in got) == bytes(3000) + b"end"
            assert [message.end_of_message for message in got] == [False, False, True]
            assert len({id(message.context) for message in got}) == 1
            assert max(len(message) for message in got) <= 1100

    run(main)


def test_many_unfinished_messages_are_held_within_the_same_bound(
    run: Any, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MAX_ASSEMBLY", 1000)

    async def main() -> None:
        async with play.connection() as (connection, flow):
            contexts = [taps.MessageContext() for _ in range(30)]
            for context in contexts:
                flow.parts((bytes(100), context, False))
            received = [await connection.receive() for _ in range(3)]
            assert not any(message.end_of_message for message in received)
            assert connection._inbox.size <= 3000

    run(main)


def test_byte_by_byte_is_the_same_message(run: Any, pair: Any, memory_network: Any) -> None:
    async def main() -> None:
        transport = MemoryStream(memory_network, chunk=1)
        async with pair(transport, framers=LengthPrefix()) as (client, server):
            whole = bytes(range(256)) * 8
            await client.send(whole)
            await client.send(b"next")
            assert (await server.receive()).data == whole
            assert (await server.receive()).data == b"next"

    run(main, memory_network)


# ------------------------------------------------------------------- a stream without framer


@pytest.mark.requirement("G-9622-9.3.2-01", "G-9622-9.3.2.2-01")
def test_received_is_a_message_in_one_piece_and_its_last_part_is_a_part(
    run: Any, play: Any, log: Any, turns: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MAX_ASSEMBLY", 1000)

    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            # Divided by the one who receives, when it was whole and when it was not.
            flow.receive(b"0123456789")
            for length in (4, 4, 4):
                await connection.receive(max_length=length)
            flow.parts((b"begun", None, False))
            await connection.receive(min_incomplete_length=1)
            flow.parts((b"ended", None, True))
            await connection.receive()
            # By what can be held.
            flow.parts((bytes(2000), None, False))
            await connection.receive()
            flow.parts((b"end", None, True))
            await connection.receive()
            # In one piece, whatever pieces it came in.
            flow.receive(b"whole")
            await connection.receive_exactly(5)
            flow.parts((b"wh", None, False), (b"ole", None, True))
            await connection.receive()
            await turns()
            assert events.names == ["ReceivedPartial"] * 7 + ["Received"] * 2
            ends = [event.message.end_of_message for event in events.events]
            assert ends == [False, False, True, False, True, False, True, True, True]
            assert {repr(event.message)[:8] for event in events.events} == {"Message("}

    run(main)


def test_a_stream_that_was_divided_ends_with_a_part(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        for divided in (True, False):
            async with play.connection(play.STREAM) as (connection, flow):
                events = log(connection)
                flow.parts((b"bytes", None, False))
                if divided:
                    await connection.receive(max_length=10)
                flow.up.finished()
                last = await connection.receive(max_length=10)
                assert last.end_of_message
                await turns()
                expected = ["ReceivedPartial"] * 2 if divided else ["Received"]
                assert events.names == expected

    run(main)


@pytest.mark.requirement("G-9622-9.3.2.2-02")
def test_all_bytes_of_a_stream_are_one_message_of_unknown_length(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"one", None, False))
            first = await connection.receive(max_length=100)
            flow.parts((b"two", None, False), (b"three", None, False))
            second = await connection.receive(max_length=4)
            third = await connection.receive(max_length=100)
            flow.parts((b"four", None, False))
            flow.up.finished()
            last = await connection.receive(max_length=100)
            parts = [first, second, third, last]
            assert [part.data for part in parts] == [b"one", b"twot", b"hree", b"four"]
            assert [part.end_of_message for part in parts] == [False, False, False, True]
            assert len({id(part.context) for part in parts}) == 1
            with pytest.raises(taps.EndOfData):
                await connection.receive(max_length=100)

    run(main)


def test_the_end_of_a_stream_completes_what_was_delivered(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"all", None, False))
            part = await connection.receive(max_length=100)
            flow.up.finished()
            last = await connection.receive(max_length=100)
            assert (last.data, last.end_of_message) == (b"", True)
            assert last.context is part.context
            for _ in range(2):
                with pytest.raises(taps.EndOfData):
                    await connection.receive(max_length=100)

    run(main)


def test_a_stream_that_brings_nothing_just_ends(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.up.finished()
            with pytest.raises(taps.EndOfData):
                await connection.receive()

    run(main)


def test_a_stream_that_breaks_delivers_what_came_and_then_raises(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"one", None, False))
            await connection.receive(max_length=100)
            flow.parts((b"two", None, False))
            flow.end(taps.ConnectionError("reset"))
            part = await connection.receive(max_length=100)
            assert (part.data, part.end_of_message) == (b"two", False)
            for _ in range(2):
                with pytest.raises(taps.ConnectionError, match="reset"):
                    await connection.receive(max_length=100)

    run(main)


def test_a_stream_that_breaks_when_everything_was_taken_raises(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"all", None, False))
            await connection.receive(max_length=100)
            flow.end(taps.ConnectionError("reset"))
            with pytest.raises(taps.ConnectionError, match="reset"):
                await connection.receive(max_length=100)

    run(main)


def test_a_least_length_on_a_stream(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            receive = asyncio.create_task(connection.receive(min_incomplete_length=5))
            await turns()
            flow.parts((b"1234", None, False))
            await turns()
            assert not receive.done()
            flow.parts((b"56", None, False))
            assert (await receive).data == b"123456"
            flow.parts((b"78", None, False))
            flow.up.finished()
            assert (await connection.receive(min_incomplete_length=5)).data == b"78"

    run(main)


def test_receive_without_a_length_on_a_stream_warns_once_and_takes_nothing_before(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"one", None, False))
            assert (await connection.receive(max_length=1)).data == b"o"
            with pytest.raises(taps.PartialMessageWarning, match="framer"):
                await connection.receive()
            assert (await connection.receive()).data == b"ne"

    run(main)


def test_the_warning_names_the_line_that_has_to_change(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"one", None, False))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert (await connection.receive()).data == b"one"
            assert [warning.filename for warning in caught] == [__file__]

    run(main)


def test_a_receiver_that_was_warned_passes_the_turn_on(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            first = asyncio.create_task(connection.receive())
            second = asyncio.create_task(connection.receive(max_length=10))
            await turns()
            flow.parts((b"one", None, False))
            with pytest.raises(taps.PartialMessageWarning):
                await first
            assert (await second).data == b"one"

    run(main)


def test_receivers_from_before_ready_keep_their_places(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate(play.STREAM)
        connection._warned = True
        first = asyncio.create_task(connection.receive())
        second = asyncio.create_task(connection.receive(max_length=10))
        await turns()
        transport.go.set()
        await connection
        transport.flows[0].parts((b"one", None, False))
        assert (await first).data == b"one"
        transport.flows[0].parts((b"two", None, False))
        assert (await second).data == b"two"
        connection.abort()

    run(main)


# ------------------------------------------------------------------ so many bytes, up to there


def test_so_many_bytes_whatever_pieces_they_came_in(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        transport = MemoryStream(memory_network, chunk=random_chunks(7, most=50))
        async with pair(transport) as (client, server):
            whole = bytes(range(250)) * 20
            await client.send(whole, final=True)
            got = []
            for length in (1, 2, 3, 100, 1000, 994):
                got.append((await server.receive_exactly(length)).data)
            assert [len(each) for each in got] == [1, 2, 3, 100, 1000, 994]
            assert b"".join(got) == whole[:2100]
            with pytest.raises(taps.EndOfData, match="fewer than 10000"):
                await server.receive_exactly(10_000)
            # What is there stays.
            assert (await server.receive_exactly(2900)).data == whole[2100:]

    run(main, memory_network)


def test_so_many_bytes_of_a_message_with_boundaries(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"abcdef", b"ghi")
            assert (await connection.receive_exactly(4)).data == b"abcd"
            with pytest.raises(taps.EndOfData):
                await connection.receive_exactly(4)
            rest = await connection.receive_exactly(2)
            assert (rest.data, rest.end_of_message) == (b"ef", True)
            flow.parts((b"jk", None, False))
            assert (await connection.receive()).data == b"ghi"
            assert (await connection.receive_exactly(1)).data == b"j"

    run(main)


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"--boundary--"])
def test_up_to_a_separator_whatever_pieces_it_came_in(
    run: Any, pair: Any, memory_network: Any, separator: bytes
) -> None:
    async def main() -> None:
        for most in (1, 2, 3, 30):
            transport = MemoryStream(memory_network, chunk=random_chunks(most, most=most))
            async with pair(transport) as (client, server):
                lines = [b"-" * number for number in range(40)]
                await client.send(separator.join([*lines, b"rest"]), final=True)
                for line in lines:
                    assert (await server.receive_until(separator)).data == line + separator
                with pytest.raises(taps.EndOfData, match="before the end"):
                    await server.receive_until(separator)
                assert (await server.receive(max_length=10)).data == b"rest"

    run(main, memory_network)


def test_up_to_a_separator_within_a_message_with_boundaries(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"a,bc,d", b"e,")
            assert (await connection.receive_until(b",")).data == b"a,"
            assert (await connection.receive_until(b",")).data == b"bc,"
            with pytest.raises(taps.EndOfData):
                await connection.receive_until(b",")
            assert (await connection.receive()).data == b"d"
            last = await connection.receive_until(b",")
            assert (last.data, last.end_of_message) == (b"e,", True)

    run(main)


def test_a_separator_that_does_not_come_in_time_is_an_error_that_takes_nothing(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((b"12345678", None, False))
            search = asyncio.create_task(connection.receive_until(b"\r\n", max_length=10))
            next_one = asyncio.create_task(connection.receive(max_length=3))
            await turns()
            flow.parts((b"90\r\n", None, False))
            with pytest.raises(taps.ReceiveError, match="within 10 bytes") as caught:
                await search
            assert caught.value.reason is taps.Reason.DEFRAMING_FAILED
            assert (await next_one).data == b"123"
            line = await connection.receive_until(b"\r\n", max_length=9)
            assert line.data == b"4567890\r\n"
            with pytest.raises(ValueError, match="empty"):
                await connection.receive_until(b"")

    run(main)


def test_what_fails_to_find_its_bytes_passes_the_turn_on(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            tasks = [
                asyncio.create_task(connection.receive_exactly(5)),
                asyncio.create_task(connection.receive_until(b"x")),
                asyncio.create_task(connection.receive()),
            ]
            await turns()
            flow.receive(b"abc")
            for task in tasks[:2]:
                with pytest.raises(taps.EndOfData):
                    await task
            assert (await tasks[2]).data == b"abc"

    run(main)


def test_small_bites_of_a_large_message_do_not_copy_the_rest(run: Any, play: Any) -> None:
    async def main() -> None:
        for capabilities in (play.MESSAGES, play.STREAM):
            async with play.connection(capabilities) as (connection, flow):
                whole = b"x" * 99 + b"\n"
                flow.parts((whole * 100_000, None, capabilities is play.MESSAGES))
                inbox = connection._inbox
                subject = inbox.subject
                for _ in range(100):
                    await connection.receive_exactly(10)
                    await connection.receive_until(b"\n")
                # The chunk is still the one that arrived: nothing was cut off it.
                chunk = inbox.subject.chunks[0]
                assert len(chunk) == 10_000_000
                assert subject is chunk or subject.chunks[0] is chunk
                assert inbox.size == 10_000_000 - 10_000

    run(main)


# ------------------------------------------------------------------------------- iteration


def test_iteration_ends_at_the_peers_final_and_at_its_close(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            await client.send(b"one")
            await client.finish()
            assert [message.data async for message in server] == [b"one"]
            await server.send(b"two")
            closing = asyncio.ensure_future(server.close())
            assert [message.data async for message in client] == [b"two"]
            await closing

    run(main, memory_network)


@pytest.mark.requirement("G-9622-9.3.3.3-01")
def test_receive_after_the_end_raises_end_of_data_each_time(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            await client.send(b"last", final=True)
            assert (await server.receive()).data == b"last"
            errors = []
            for _ in range(3):
                with pytest.raises(taps.EndOfData) as caught:
                    await server.receive()
                errors.append(caught.value)
            assert isinstance(errors[0], EOFError)
            assert len({id(error) for error in errors}) == 3

    run(main, memory_network)


def test_iteration_raises_what_is_no_orderly_end(
    run: Any, pair: Any, memory_network: Any, turns: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            await client.send(b"one")
            await turns()
            client.abort()
            got = []
            with pytest.raises(taps.ConnectionError):
                async for message in server:
                    got.append(message.data)
            assert got == [b"one"]

    run(main, memory_network)


@pytest.mark.parametrize("how", ["cut off", "garbage"])
def test_iteration_raises_where_a_frame_cannot_be_parsed(
    run: Any, pair: Any, memory_network: Any, how: str
) -> None:
    async def main() -> None:
        async with pair(framers=Line(max_length=10)) as (client, server):
            rest = b"no end" if how == "cut off" else b"longer than that\nmore\n"
            client._flow.lower.send(b"one\n" + rest, None, True)
            await client.finish()
            got = []
            with pytest.raises(taps.ReceiveError) as caught:
                async for message in server:
                    got.append(message.data)
            assert not isinstance(caught.value, taps.EndOfData)
            assert caught.value.reason is taps.Reason.DEFRAMING_FAILED
            assert got == [b"one"]
            await server.send(b"still")
            assert (await client.receive()).data == b"still"

    run(main, memory_network)


# ----------------------------------------------------------------------------------- ends


def test_whole_messages_from_before_a_reset_are_still_delivered(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"1", b"2")
            flow.parts((b"cut", None, False))
            flow.end(taps.ConnectionError("reset"))
            assert connection.state is taps.ConnectionState.CLOSED
            assert (await connection.receive()).data == b"1"
            assert (await connection.receive()).data == b"2"
            with pytest.raises(taps.ConnectionError, match="reset"):
                await connection.receive()

    run(main)


@pytest.mark.requirement("R-9623-5.2-01", "R-9623-5.2-02")
@pytest.mark.parametrize("error", [None, taps.ConnectionError("reset")])
def test_a_message_that_is_cut_off_goes_to_those_who_take_parts(
    run: Any, play: Any, error: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"whole")
            flow.parts((b"cut off", None, False))
            flow.end(error)
            assert (await connection.receive()).data == b"whole"
            for _ in range(2):
                with pytest.raises(taps.TapsError) as caught:
                    await connection.receive()
                assert not isinstance(caught.value, taps.EndOfData)
            part = await connection.receive(min_incomplete_length=1)
            assert (part.data, part.end_of_message) == (b"cut off", False)
            with pytest.raises(taps.TapsError) as caught:
                await connection.receive(min_incomplete_length=1)
            assert not isinstance(caught.value, taps.EndOfData)

    run(main)


def test_a_message_that_was_delivered_in_part_is_not_over_at_the_end(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts((b"begun", None, False))
            await connection.receive(min_incomplete_length=1)
            flow.end()
            with pytest.raises(taps.ReceiveError, match="inside a Message"):
                async for _ in connection:
                    pass

    run(main)


@pytest.mark.requirement("R-9622-10-01")
def test_receive_after_ones_own_close_raises(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(b"unread")
            waiting = [asyncio.create_task(connection.receive()) for _ in range(3)]
            closing = connection.close()
            await turns()
            for task in waiting:
                with pytest.raises(taps.ReceiveError, match="closed on this side"):
                    await task
            flow.end()
            await closing
            with pytest.raises(taps.ReceiveError, match="closed on this side"):
                await connection.receive()

    run(main)


def test_receive_after_ones_own_abort_raises(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            waiting = [asyncio.create_task(connection.receive()) for _ in range(3)]
            await turns()
            flow.receive(b"unread")
            connection.abort()
            for task in waiting:
                with pytest.raises(taps.ConnectionError, match="aborted on this side"):
                    await task
            with pytest.raises(taps.ConnectionError):
                await connection.receive()

    run(main)


def test_all_who_wait_learn_of_the_end_each_with_an_error_of_its_own(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            waiting = [
                asyncio.create_task(each)
                for each in (
                    connection.receive(),
                    connection.receive(min_incomplete_length=3),
                    connection.receive_exactly(5),
                    connection.receive_until(b"x"),
                    anext(connection),
                )
            ]
            await turns()
            flow.end(taps.ConnectionError("reset"))
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in errors} == {taps.ConnectionError}
            assert len({id(error) for error in errors}) == 5

    run(main)


def test_nothing_is_received_where_the_direction_is_send_only(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(direction="unidirectional_send") as (connection, flow):
            with pytest.raises(taps.ReceiveError, match="direction"):
                await connection.receive()
            await connection.send(b"x")
            assert flow.data == [b"x"]

    run(main)


# ------------------------------------------------------------------------------ lost Messages


def test_a_lost_message_costs_no_receive(run: Any, play: Any, log: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection(play.DATAGRAMS) as (connection, flow):
            events = log(connection)
            waiting = asyncio.create_task(connection.receive())
            await turns()
            flow.up.failed(CUT_OFF, False)
            await turns()
            assert not waiting.done()
            flow.receive(b"next")
            assert (await waiting).data == b"next"
            await turns()
            assert events.names == ["ReceiveError", "Received"]

    run(main)


def test_what_was_there_of_a_lost_message_is_dropped(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts((b"lost", None, False))
            flow.up.failed(CUT_OFF, False)
            flow.receive(b"next")
            assert (await connection.receive()).data == b"next"
            flow.receive(b"x")
            assert connection._inbox.size == 1

    run(main)


def test_only_the_message_that_failed_is_dropped(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            a, b, c = (taps.MessageContext() for _ in range(3))
            flow.parts((b"a1", a, False), (b"b1", b, False))
            flow.up.failed(CUT_OFF, False)
            flow.parts((b"c", c, True))
            flow.up.failed(CUT_OFF, False)
            flow.parts((b"a2", a, True))
            assert (await connection.receive()).data == b"c"
            assert (await connection.receive()).data == b"a1a2"

    run(main)


def test_whoever_has_a_part_of_a_lost_message_is_told(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.parts((b"begun", None, False))
            part = await connection.receive(min_incomplete_length=1)
            flow.parts((b"more", None, False))
            flow.up.failed(taps.ReceiveError("lost"), False)
            flow.receive(b"next")
            with pytest.raises(taps.ReceiveError, match="lost") as caught:
                await connection.receive()
            assert caught.value.context is part.context
            assert (await connection.receive()).data == b"next"
            await turns()
            assert events.names == ["ReceivedPartial", "ReceiveError", "Received"]

    run(main)


def test_a_receiver_whose_part_was_lost_before_it_ran_keeps_its_place(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            first = asyncio.create_task(connection.receive(min_incomplete_length=2))
            second = asyncio.create_task(connection.receive(min_incomplete_length=1))
            await turns()
            flow.parts((b"ab", None, False))
            flow.up.failed(CUT_OFF, False)
            await turns()
            assert not first.done()
            flow.receive(b"1", b"2")
            assert (await first).data == b"1"
            assert (await second).data == b"2"

    run(main)


def test_a_fatal_failure_ends_receiving_but_not_sending(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.receive(b"good")
            flow.parts((b"half", None, False))
            flow.up.failed(taps.ReceiveError("garbage"), True)
            assert (await connection.receive()).data == b"good"
            for lengths in ({}, {"min_incomplete_length": 1}):
                with pytest.raises(taps.ReceiveError, match="garbage"):
                    await connection.receive(**lengths)
            await connection.send(b"still")
            assert connection.state is taps.ConnectionState.ESTABLISHED
            flow.end()
            await turns()
            assert events.names == ["Received", "ReceiveError", "ReceiveError", "Sent", "Closed"]

    run(main)


def test_a_message_that_wakes_a_receiver_is_in_no_queue_and_in_its_place_if_that_is_cancelled(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            inbox = connection._inbox
            for behind in (0, 1):
                receiving = asyncio.create_task(connection.receive())
                await asyncio.sleep(0)
                flow.receive(b"first")
                if behind:
                    flow.receive(b"second")
                receiving.cancel()
                await asyncio.wait([receiving])
                assert receiving.cancelled()
                flow.receive(b"third")
                expected = [b"first", *[b"second"] * behind, b"third"]
                assert [(await connection.receive()).data for _ in expected] == expected
            for number in range(3):
                receiving = asyncio.create_task(connection.receive())
                await asyncio.sleep(0)
                flow.receive(b"%d" % number)
                assert not inbox.queue
                assert (await receiving).data == b"%d" % number

    run(main)


def test_a_message_that_wakes_a_receiver_is_told_to_who_subscribes_before_it_runs(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            receiving = asyncio.create_task(connection.receive())
            await asyncio.sleep(0)
            flow.receive(b"x")
            events = log(connection)
            assert (await receiving).data == b"x"
            await turns()
            assert events.names == ["Received"]

    run(main)


def test_a_message_that_wakes_a_receiver_is_gone_if_the_connection_closes_before_it_runs(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            receiving = asyncio.create_task(connection.receive())
            await asyncio.sleep(0)
            flow.receive(b"x")
            _ = connection.close()
            with pytest.raises(taps.ReceiveError):
                await receiving
            with pytest.raises(taps.ReceiveError):
                await connection.receive()

    run(main)
