"""Messages in parts: ``sending()``, and parts with one MessageContext (RFC 9622, 9.2.3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryDatagram
from taps_framers import LengthPrefix, Line


class Mishap(Exception):
    """What an application raises in the middle of a Message."""


# ------------------------------------------------------------------------------- sending()


def test_parts_leave_as_they_come_and_leaving_the_block_ends_the_message(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending() as message:
                await message.send(b"one")
                assert flow.data == [b"one"]
                await message.send(bytearray(b"two"))
                await message.send(b"")
            assert [(data, end) for data, _, end in flow.sent] == [
                (b"one", False),
                (b"two", False),
                (b"", True),
            ]

    run(main)


def test_a_declared_length_and_properties_go_with_every_part(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending(length=4, lifetime=1000) as message:
                await message.send(b"12")
                await message.send(b"34")
            records = [record for _, record, _ in flow.sent]
            assert [record.length for record in records] == [4, 4, 4]
            assert all(record.properties["msgLifetime"] <= 1000 for record in records)
            assert len({id(record.context) for record in records}) == 1

    run(main)


@pytest.mark.parametrize("framer", [LengthPrefix(), Line()])
@pytest.mark.parametrize("declared", [True, False])
def test_a_message_in_parts_is_one_message_for_the_peer(
    run: Any, pair: Any, memory_network: Any, framer: Any, declared: bool
) -> None:
    async def main() -> None:
        async with pair(framers=framer) as (client, server):
            whole = b"".join(b"%d," % number for number in range(20_000))
            async with client.sending(length=len(whole) if declared else None) as message:
                for start in range(0, len(whole), 10_000):
                    await message.send(whole[start : start + 10_000])
            await client.send(b"next")
            assert (await server.receive()).data == whole
            assert (await server.receive()).data == b"next"

    if isinstance(framer, Line):
        framer = Line(max_length=1 << 20)
    run(main, memory_network)


@pytest.mark.parametrize("length", [None, 0])
def test_a_message_without_parts_is_empty(run: Any, play: Any, length: int | None) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending(length=length):
                pass
            assert [(data, end) for data, _, end in flow.sent] == [(b"", True)]

    run(main)


def test_more_than_declared_is_refused_and_costs_nothing_if_nothing_left(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            with pytest.raises(taps.SendError, match="declared as 3"):
                async with connection.sending(length=3) as message:
                    _ = message.send(b"12")
                    await message.send(b"345")
            flow.up.writable(True)
            await connection.send(b"next")
            assert flow.data == [b"next"]

    run(main)


def test_less_than_declared_is_an_error_at_the_end(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            with pytest.raises(taps.SendError, match="2 bytes of a Message declared as 3"):
                async with connection.sending(length=3) as message:
                    _ = message.send(b"12")
            flow.up.writable(True)
            await connection.send(b"next")
            assert flow.data == [b"next"]

    run(main)


def test_lengths_count_bytes_not_elements(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending(length=8) as message:
                await message.send(memoryview(bytes(8)).cast("I"))
            assert flow.data == [bytes(8), b""]

    run(main)


def test_objects_have_no_parts(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _), connection.sending() as message:
            with pytest.raises(TypeError, match="only bytes"):
                await message.send({"an": "object"})

    run(main)


def test_an_exception_withdraws_the_message_if_nothing_left(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            with pytest.raises(Mishap):
                async with connection.sending() as message:
                    part = message.send(b"part")
                    raise Mishap
            with pytest.raises(taps.SendError, match="withdrawn"):
                await part
            flow.up.writable(True)
            await connection.send(b"next")
            assert flow.data == [b"next"]
            assert connection.state is taps.ConnectionState.ESTABLISHED

    run(main)


def test_an_exception_ends_the_connection_if_something_left(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with pytest.raises(Mishap):
                async with connection.sending() as message:
                    await message.send(b"part")
                    raise Mishap
            assert flow.calls == ["withdraw", "abort"]
            with pytest.raises(taps.ConnectionError, match="cut off"):
                await connection.receive()

    run(main)


def test_an_exception_withdraws_what_the_stack_can_drop(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.can_withdraw = True
            with pytest.raises(Mishap):
                async with connection.sending() as message:
                    await message.send(b"part")
                    waiting = connection.send(b"next")
                    raise Mishap
            await waiting
            assert flow.data == [b"part", b"next"]
            assert flow.calls == ["withdraw"]

    run(main)


def test_cancellation_is_such_an_exception(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):

            async def send() -> None:
                async with connection.sending() as message:
                    await message.send(b"part")
                    await asyncio.sleep(1000)

            task = asyncio.create_task(send())
            await turns()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert flow.calls == ["withdraw", "abort"]

    run(main)


def test_no_part_is_sent_after_the_block(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            async with connection.sending() as message:
                await message.send(b"part")
            with pytest.raises(taps.SendError, match="has ended"):
                await message.send(b"more")

    run(main)


def test_a_part_that_nobody_awaited_and_that_failed_fails_the_message(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            connection.on(taps.SendError, lambda event: None)
            flow.up.writable(False)
            with pytest.raises(taps.SendError) as caught:
                async with connection.sending() as message:
                    for _ in range(9):
                        _ = message.send(bytes(1 << 20))
            assert caught.value.reason is taps.Reason.QUEUE_FULL
            assert connection.queued == (0, 0)
            flow.up.writable(True)
            await connection.send(b"next")
            assert flow.data == [b"next"]

    run(main)


def test_a_hole_in_a_message_that_has_begun_ends_the_connection(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            connection.on(taps.SendError, lambda event: None)
            with pytest.raises(taps.SendError):
                async with connection.sending() as message:
                    await message.send(b"begun")
                    flow.up.writable(False)
                    for _ in range(10):
                        _ = message.send(bytes(1 << 20))
            assert connection.state is taps.ConnectionState.CLOSED
            assert flow.data == [b"begun"]

    run(main)


def test_the_message_of_an_endless_source_yields_to_the_loop(
    run: Any, play: Any, ticks: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            with ticks:
                async with connection.sending() as message:
                    for _ in range(12_800):
                        await message.send(b"x")
            assert ticks.count >= 100

    run(main)


# ------------------------------------------------------------- parts with one MessageContext


@pytest.mark.requirement("G-9622-9.2.3-01")
def test_parts_with_one_context_form_one_message_and_others_wait(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            context = taps.MessageContext()
            await connection.send(b"1", context, end_of_message=False)
            other = asyncio.create_task(connection.send(b"urgent", priority=0))
            await turns()
            await connection.send(b"2", context, end_of_message=False)
            assert not other.done()
            await connection.send(b"3", context)
            await other
            assert [(data, end) for data, _, end in flow.sent] == [
                (b"1", False),
                (b"2", False),
                (b"3", True),
                (b"urgent", True),
            ]

    run(main)


def test_messages_in_parts_do_not_mix(run: Any, pair: Any, memory_network: Any) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix()) as (client, server):
            contexts = [taps.MessageContext(priority=priority) for priority in (3, 1, 2)]
            sends = []
            for number in range(4):
                for name, context in zip("abc", contexts, strict=True):
                    sends.append(
                        client.send(
                            b"%s%d" % (name.encode(), number),
                            context,
                            end_of_message=number == 3,
                        )
                    )
            for send in sends:
                await send
            # «a» had begun when the others came.
            received = [(await server.receive()).data for _ in range(3)]
            assert received == [b"a0a1a2a3", b"b0b1b2b3", b"c0c1c2c3"]

    run(main, memory_network)


def test_parts_before_ready(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        first, second = taps.MessageContext(priority=2), taps.MessageContext(priority=1)
        for name in (b"1", b"2"):
            connection.send_nowait(b"a" + name, first, end_of_message=name == b"2")
            connection.send_nowait(b"b" + name, second, end_of_message=name == b"2")
        transport.go.set()
        await connection
        assert transport.flows[0].data == [b"b1", b"b2", b"a1", b"a2"]
        connection.abort()

    run(main)


def test_editing_a_context_between_parts_touches_the_next_message_only(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            context = taps.MessageContext(lifetime=1000)
            await connection.send(b"1", context, end_of_message=False)
            context.add("msgLifetime", 5)
            await connection.send(b"2", context)
            await connection.send(b"next", context)
            lifetimes = [record.properties["msgLifetime"] for _, record, _ in flow.sent]
            assert lifetimes[2] == 5
            assert all(5 < lifetime <= 1000 for lifetime in lifetimes[:2])

    run(main)


def test_properties_belong_to_the_whole_message(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            context = taps.MessageContext()
            first = connection.send(b"1", context, end_of_message=False, priority=5)
            same = connection.send(b"2", context, end_of_message=False, priority=5)
            with pytest.raises(taps.SendError, match="first part"):
                await connection.send(b"3", context, priority=6)
            for part in (first, same):
                with pytest.raises(taps.SendError, match="first part"):
                    await part
            flow.up.writable(True)
            assert flow.data == []

    run(main)


def test_the_events_of_all_parts_carry_one_context(
    run: Any, play: Any, log: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            events = log(connection)
            context = taps.MessageContext(priority=5)
            for number in range(3):
                await connection.send(b"x", context, end_of_message=number == 2)
            await turns()
            assert events.names == ["Sent"] * 3
            assert len({id(event.context) for event in events.events}) == 1
            assert events.events[0].context.get("priority") == 5

    run(main)


@pytest.mark.parametrize("last", [True, False])
def test_a_part_that_the_stack_refuses_voids_a_message_of_which_nothing_left(
    run: Any, play: Any, last: bool
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no") if data == b"bad" else None
            flow.can_withdraw = True
            context = taps.MessageContext()
            await connection.send(b"1", context, end_of_message=False)
            with pytest.raises(taps.SendError, match="no"):
                await connection.send(b"bad", context, end_of_message=last)
            if not last:
                with pytest.raises(taps.SendError, match="no"):
                    await connection.send(b"3", context)
            await connection.send(b"next", context)
            assert flow.data == [b"1", b"next"]
            assert flow.calls == ["withdraw"]

    run(main)


def test_a_first_part_that_the_stack_refuses_costs_its_message_only(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no") if data == b"bad" else None
            context = taps.MessageContext()
            with pytest.raises(taps.SendError, match="no"):
                await connection.send(b"bad", context, end_of_message=False)
            with pytest.raises(taps.SendError, match="no"):
                await connection.send(b"2", context)
            await connection.send(b"next")
            assert flow.data == [b"next"]
            assert "abort" not in flow.calls

    run(main)


def test_a_cancelled_part_withdraws_its_message(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            context = taps.MessageContext()
            first = connection.send(b"1", context, end_of_message=False)
            second = asyncio.create_task(connection.send(b"2", context, end_of_message=False))
            await turns()
            second.cancel()
            for part in (first, connection.send(b"3", context)):
                with pytest.raises(taps.SendError, match="withdrawn"):
                    await part
            flow.up.writable(True)
            assert flow.data == []

    run(main)


def test_a_context_that_was_thrown_away_is_not_taken_for_another(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            for _ in range(100):
                # A new object is often where the old one was.
                connection.send_nowait(b"part", taps.MessageContext(), end_of_message=False)
            assert connection.queued == (400, 100)
            flow.up.writable(True)
            # Each waits for its own end.
            assert flow.data == [b"part"]

    run(main)


# --------------------------------------------------------------- parts through real layers


def test_a_first_part_that_a_framer_refuses_costs_its_message_only(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(1)) as (client, server):
            with pytest.raises(taps.SendError) as caught:
                async with client.sending(length=1000) as message:
                    await message.send(b"too large")
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await client.send(b"next")
            assert (await server.receive()).data == b"next"

    run(main, memory_network)


@pytest.mark.parametrize("framer", [LengthPrefix(), Line()])
def test_giving_up_what_a_framer_still_collects_costs_its_message_only(
    run: Any, pair: Any, memory_network: Any, framer: Any
) -> None:
    async def main() -> None:
        async with pair(framers=framer) as (client, server):
            with pytest.raises(Mishap):
                async with client.sending() as message:
                    await message.send(b"part")
                    raise Mishap
            await client.send(b"next")
            assert (await server.receive()).data == b"next"

    run(main, memory_network)


def test_what_a_framer_refuses_at_the_end_costs_its_message_only(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=Line()) as (client, server):
            with pytest.raises(taps.SendError, match="delimiter"):
                async with client.sending() as message:
                    await message.send(b"two")
                    await message.send(b"\nlines")
            await client.send(b"next")
            assert (await server.receive()).data == b"next"

    run(main, memory_network)


@pytest.mark.parametrize("framer", [None, LengthPrefix()])
def test_a_datagram_that_grows_too_large_costs_its_message_only(
    run: Any, pair: Any, memory_network: Any, framer: Any
) -> None:
    async def main() -> None:
        transport = MemoryDatagram(memory_network, max_length=20)
        async with pair(transport, framers=framer) as (client, server):
            with pytest.raises(taps.SendError) as caught:
                async with client.sending(length=30) as message:
                    await message.send(bytes(10))
                    await message.send(bytes(20))
            assert caught.value.reason is taps.Reason.MESSAGE_TOO_LARGE
            await client.send(b"next")
            assert (await server.receive()).data == b"next"

    run(main, memory_network)


def test_giving_up_what_has_begun_to_leave_is_a_reset_for_the_peer(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix()) as (client, server):
            with pytest.raises(Mishap):
                async with client.sending(length=10) as message:
                    await message.send(b"part")
                    raise Mishap
            with pytest.raises(taps.ConnectionError):
                await server.receive()

    run(main, memory_network)


# ----------------------------------------------------------------------------------- close


def test_close_withdraws_a_message_without_end_if_nothing_left(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            whole = connection.send(b"whole")
            part = connection.send(b"part", taps.MessageContext(), end_of_message=False)
            closing = connection.close()
            with pytest.raises(taps.SendError, match="before the Message was ended"):
                await part
            flow.up.writable(True)
            await whole
            assert flow.data == [b"whole"]
            assert flow.calls == ["close"]
            flow.end()
            await closing

    run(main)


def test_close_in_the_middle_of_a_message_is_an_error(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"part", taps.MessageContext(), end_of_message=False)
            waiting = connection.send(b"behind it")
            with pytest.raises(taps.ConnectionError, match="no end"):
                await connection.close()
            with pytest.raises(taps.SendError):
                await waiting
            assert flow.calls == ["withdraw", "abort"]

    run(main)


@pytest.mark.parametrize("last", [True, False])
def test_a_part_that_is_refused_while_closing_does_not_close_in_the_middle(
    run: Any, play: Any, log: Any, turns: Any, last: bool
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            events = log(connection)
            flow.refuse = lambda data: taps.SendError("no") if data == b"bad" else None
            flow.up.writable(False)
            context = taps.MessageContext()
            connection.send_nowait(b"1", context, end_of_message=False)
            connection.send_nowait(b"bad", context, end_of_message=last)
            if not last:
                connection.send_nowait(b"3", context)
            closing = connection.close()
            flow.up.writable(True)
            assert flow.calls == ["withdraw", "abort"]
            with pytest.raises(taps.ConnectionError, match="cut off"):
                await closing
            await turns()
            fates = ["Sent", "SendError"] if last else ["Sent", "SendError", "SendError"]
            assert events.names == [*fates, "ConnectionError"]

    run(main)


def test_the_parts_of_a_message_share_its_lifetime(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            async with connection.sending(lifetime=1000) as message:
                await message.send(b"1")
                await asyncio.sleep(0.01)
                await message.send(b"2")
            first, second, _ = [record.properties["msgLifetime"] for _, record, _ in flow.sent]
            assert second < first

    run(main)


def test_where_messages_have_no_boundaries_close_ends_them(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            await connection.send(b"part", taps.MessageContext(), end_of_message=False)
            waiting = connection.send(b"behind it")
            closing = connection.close()
            await waiting
            assert flow.data == [b"part", b"behind it"]
            assert flow.calls == ["close"]
            flow.end()
            await closing

    run(main)
