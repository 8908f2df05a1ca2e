"""Nobody keeps the loop, nobody fills the memory."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import Any

import pytest

import taps_core as taps
from taps_core.testing import MemoryStream
from taps_framers import LengthPrefix

#: More immediate completions in a row than these are too many.
OPERATIONS = 128
PIECE = 64 * 1024

# ------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize("properties", [{}, {"priority": 5}, {"lifetime": 1000}])
@pytest.mark.parametrize("size", [0, 100, PIECE])
def test_a_send_loop_yields_after_128_sends_or_256_kib(
    run: Any, play: Any, ticks: Any, properties: dict[str, Any], size: int
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            data = bytes(size)
            with ticks:
                for _ in range(50 * OPERATIONS):
                    await connection.send(data, **properties)
            assert ticks.count >= 50 * max(1, OPERATIONS * size // (4 * PIECE))

    run(main)


def test_large_and_small_sends_together_yield_after_128_sends(
    run: Any, play: Any, ticks: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            with ticks:
                for number in range(50 * OPERATIONS):
                    await connection.send(bytes(PIECE if number % 100 == 99 else 1))
            assert ticks.count >= 50

    run(main)


def test_an_endless_send_loop_can_be_timed_out(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    while True:
                        await connection.send(b"x")

    run(main)


def test_sends_of_several_tasks_share_the_limit(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, _):

            async def send() -> None:
                for _ in range(1000):
                    await connection.send(b"x")

            with ticks:
                await asyncio.gather(*(send() for _ in range(10)))
            assert ticks.count >= 10_000 // OPERATIONS // 10

    run(main)


def test_sends_that_fail_again_and_again_yield_too(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.refuse = lambda data: taps.SendError("no")
            with ticks:
                for _ in range(50 * OPERATIONS):
                    with contextlib.suppress(taps.SendError):
                        await connection.send(b"x")
            assert ticks.count >= 50

    run(main)


def test_sends_that_wait_in_line_leave_in_portions(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.writable(False)
            sends = [connection.send(bytes(1 << 20)) for _ in range(8)]
            with ticks:
                flow.up.writable(True)
                assert len(flow.sent) < 8
                for send in sends:
                    await send
            assert ticks.count > 1
            assert len(flow.sent) == 8

    run(main)


async def _receive(connection: Any) -> int:
    return len(await connection.receive())


async def _receive_limited(connection: Any) -> int:
    return len(await connection.receive(max_length=1 << 30))


async def _receive_exactly(connection: Any) -> int:
    return len(await connection.receive_exactly(100))


async def _receive_until(connection: Any) -> int:
    return len(await connection.receive_until(b"."))


async def _iterate(connection: Any) -> int:
    async for message in connection:
        return len(message)
    raise AssertionError("it ended")


RECEIVES = [_receive, _receive_limited, _receive_exactly, _receive_until, _iterate]


@pytest.mark.parametrize("receive", RECEIVES)
def test_a_receive_loop_yields_after_128_receives(
    run: Any, play: Any, ticks: Any, receive: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(*[b"-" * 99 + b"."] * 50 * OPERATIONS)
            with ticks:
                for _ in range(50 * OPERATIONS):
                    assert await receive(connection) == 100
            assert ticks.count >= 50

    run(main)


def test_a_receive_loop_yields_after_256_kib(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(*[bytes(PIECE)] * 200)
            with ticks:
                for _ in range(200):
                    await connection.receive()
            assert ticks.count >= 49

    run(main)


def test_bytes_without_boundaries_are_as_many_in_a_turn(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            flow.parts((bytes(200 * PIECE), None, False))
            with ticks:
                for _ in range(200):
                    await connection.receive(max_length=PIECE)
            assert 49 <= ticks.count <= 51

    run(main)


def test_iteration_over_an_endless_queue_can_be_timed_out(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    flow.receive(b"x")
                    async for _ in connection:
                        flow.receive(b"x")

    run(main)


def test_receives_that_fail_again_and_again_yield_too(run: Any, play: Any, ticks: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.up.finished()
            with ticks:
                for receive in RECEIVES[:-1]:
                    for _ in range(50 * OPERATIONS):
                        with contextlib.suppress(taps.EndOfData):
                            await receive(connection)
            assert ticks.count >= 200

    run(main)


# ---------------------------------------------------------------------------- the sender


def test_a_full_stack_holds_the_sender_back(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            await connection.send(b"1")
            flow.up.writable(False)
            waiting = asyncio.create_task(connection.send(b"2"))
            await turns()
            assert not waiting.done()
            assert connection.queued == (1, 1)
            assert flow.data == [b"1"]
            flow.up.writable(True)
            await waiting
            assert connection.queued == (0, 0)

    run(main)


def test_a_peer_that_never_reads_keeps_memory_bounded(
    run: Any, pair: Any, memory_network: Any, turns: Any
) -> None:
    total = 3200  # pieces: 200 MB
    limit = 20 << 20

    async def main() -> None:
        async with pair() as (client, server):
            server._flow.pause()
            piece = bytes(PIECE)

            async def send() -> None:
                for _ in range(total):
                    await client.send(piece)

            sending = asyncio.create_task(send())
            await turns(100)
            assert not sending.done()
            assert client.queued[0] <= PIECE
            held = sum(flow.held + flow._pending for flow in memory_network.flows)
            assert held <= 4 * PIECE
            server._flow.resume()
            received = 0
            while received < total * PIECE:
                received += len(await server.receive(max_length=1 << 20))
            await sending
            assert received == total * PIECE

    tracemalloc.start()
    try:
        run(main, memory_network, timeout=300)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------- the receiver


@pytest.mark.parametrize("framer", [None, LengthPrefix()])
def test_an_application_that_never_receives_keeps_memory_bounded(
    run: Any, pair: Any, memory_network: Any, turns: Any, framer: Any
) -> None:
    async def main() -> None:
        async with pair(framers=framer) as (client, server):
            sent = 0

            async def send() -> None:
                nonlocal sent
                for _ in range(1000):
                    await client.send(bytes(PIECE))
                    sent += 1

            sending = asyncio.create_task(send())
            await turns(200)
            assert not sending.done()
            assert sent < 20
            assert server._inbox.paused
            assert server._inbox.size < 8 * PIECE
            for _ in range(1000):
                await server.receive_exactly(PIECE)
            await sending

    run(main, memory_network)


def test_the_flow_is_paused_above_the_high_water_mark_and_resumed_below_the_low_one(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            for _ in range(6):
                flow.receive(bytes(PIECE))
            assert flow.calls == []
            flow.receive(b"x")
            assert flow.calls == ["pause"]
            for _ in range(4):
                await connection.receive()
            assert flow.calls == ["pause"]
            await connection.receive()
            assert flow.calls == ["pause", "resume"]

    run(main)


def test_many_small_messages_pause_the_flow_too(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.receive(*[b""] * 10_000)
            assert flow.calls == ["pause"]
            for _ in range(10_000):
                await connection.receive()
            assert flow.calls == ["pause", "resume"]

    run(main)


def test_whoever_waits_for_more_than_is_there_gets_it(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts((bytes(7 * PIECE), None, False))
            assert flow.calls == ["pause"]
            receive = asyncio.create_task(connection.receive())
            await turns()
            assert flow.calls == ["pause", "resume"]
            flow.parts((bytes(7 * PIECE), None, False))
            assert flow.calls == ["pause", "resume"]
            flow.parts((b"", None, True))
            assert len(await receive) == 14 * PIECE

    run(main)


def test_the_next_in_line_gets_what_it_waits_for_although_the_flow_was_paused(
    run: Any, play: Any, turns: Any
) -> None:
    async def main() -> None:
        async with play.connection(play.STREAM) as (connection, flow):
            first = asyncio.create_task(connection.receive(max_length=1))
            second = asyncio.create_task(connection.receive_exactly(14 * PIECE))
            await turns()
            flow.parts((bytes(7 * PIECE), None, False))
            assert flow.calls == ["pause"]
            await first
            await turns()
            assert flow.calls == ["pause", "resume"]
            flow.parts((bytes(8 * PIECE), None, False))
            assert len(await second) == 14 * PIECE

    run(main)


def test_a_lost_message_makes_room_again(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            flow.parts((bytes(7 * PIECE), None, False))
            flow.up.failed(taps.ReceiveError("lost"), False)
            assert flow.calls == ["pause", "resume"]
            assert connection._inbox.size == 0

    run(main)


def test_byte_by_byte_costs_neither_a_slot_nor_a_copy_of_all_for_each_byte(
    run: Any, play: Any
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            context = taps.MessageContext()
            for _ in range(200_000):
                flow.parts((b"x", context, False))
            assert len(connection._inbox._current.chunks) < 100
            flow.parts((b"", context, True))
            assert (await connection.receive()).data == b"x" * 200_000

    run(main)


def test_sends_and_receives_in_both_directions_at_once_do_not_block_each_other(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        transport = MemoryStream(memory_network, window=1000)
        async with pair(transport, framers=LengthPrefix()) as ends:

            async def send(connection: Any) -> None:
                for _ in range(100):
                    await connection.send(bytes(10_000))

            async def receive(connection: Any) -> None:
                for _ in range(100):
                    assert len(await connection.receive()) == 10_000

            async with asyncio.TaskGroup() as group:
                for end in ends:
                    group.create_task(send(end))
                    group.create_task(receive(end))

    run(main, memory_network)
