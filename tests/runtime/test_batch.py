"""Batches: Sends that leave together (RFC 9622, section 9.2.4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taps_framers import LengthPrefix


def test_what_a_batch_gathers_leaves_with_one_flush(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                for number in range(20):
                    await connection.send(b"%d" % number)
                    await turns(2)
                assert flow.flushed == []
            assert flow.flushed == [[b"%d" % number for number in range(20)]]

    run(main)


def test_a_batch_reaches_the_peer_as_one_delivery(run: Any, pair: Any, memory_network: Any) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):
            deliveries: list[int] = []

            class Counting:
                def received(self, parts: Any) -> None:
                    deliveries.append(len(parts))
                    server._inbox.received(parts)

                def __getattr__(self, name: str) -> Any:
                    return getattr(server._inbox, name)

            server._flow.receiver = Counting()
            with client.batch():
                for number in range(20):
                    await client.send(b"%d" % number)
            for number in range(20):
                assert (await server.receive()).data == b"%d" % number
            assert deliveries == [20]

    run(main, memory_network)


def test_batches_nest_and_the_outermost_end_counts(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                connection.start_batch()
                await connection.send(b"1")
                connection.end_batch()
                await connection.send(b"2")
                assert flow.flushed == []
            assert flow.flushed == [[b"1", b"2"]]

    run(main)


def test_an_end_without_a_start_is_ignored(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            connection.end_batch()
            with connection.batch():
                await connection.send(b"1")
                assert flow.flushed == []
            assert flow.flushed == [[b"1"]]
            connection.end_batch()
            await connection.send(b"2")
            assert flow.flushed == [[b"1"], [b"2"]]

    run(main)


def test_more_than_64_kib_leave_before_the_batch_ends(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                for _ in range(40):
                    await connection.send(bytes(8192))
                assert len(flow.flushed) >= 4
                assert sum(map(len, flow.flushed)) > 32
            assert sum(map(len, flow.flushed)) == 40

    run(main)


def test_more_than_64_kib_leave_also_if_nobody_awaits(run: Any, play: Any, turns: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            connection.start_batch()
            for _ in range(40):
                _ = connection.send(bytes(8192))
            await turns()
            assert connection.queued == (0, 0)
            assert sum(map(len, flow.flushed)) > 32
            connection.end_batch()
            assert sum(map(len, flow.flushed)) == 40

    run(main)


@pytest.mark.parametrize("properties", [{}, {"priority": 5}, {"lifetime": 1000}])
def test_an_await_inside_never_waits_for_the_end(
    run: Any, play: Any, properties: dict[str, Any]
) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                flow.up.writable(False)
                waiting = asyncio.ensure_future(connection.send(b"1", **properties))
                await asyncio.sleep(0)
                flow.up.writable(True)
                await waiting
                async with connection.sending() as message:
                    await message.send(b"2")
                await connection.send(b"3", **properties)
            assert flow.data == [b"1", b"2", b"", b"3"]

    run(main)


def test_waiting_for_an_answer_lets_the_question_leave(
    run: Any, pair: Any, memory_network: Any
) -> None:
    async def main() -> None:
        async with pair(framers=LengthPrefix(2)) as (client, server):

            async def answer() -> None:
                async for message in server:
                    await server.send(message.data + b"!")

            answering = asyncio.create_task(answer())
            with client.batch():
                await client.send(b"one")
                await client.send(b"two")
                assert (await client.receive()).data == b"one!"
                assert (await client.receive()).data == b"two!"
                await client.send(b"three")
                assert (await client.receive_exactly(6)).data == b"three!"
            answering.cancel()

    run(main, memory_network)


def test_an_exception_ends_the_batch(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with pytest.raises(ZeroDivisionError), connection.batch():
                await connection.send(b"1")
                raise ZeroDivisionError
            assert flow.flushed == [[b"1"]]

    run(main)


def test_a_batch_before_ready_leaves_together(run: Any, play: Any) -> None:
    async def main() -> None:
        connection, transport = play.initiate()
        with connection.batch():
            for number in range(3):
                connection.send_nowait(b"%d" % number)
            transport.go.set()
            await connection
            connection.send_nowait(b"3")
            assert transport.flows[0].flushed == []
        assert transport.flows[0].flushed == [[b"0", b"1", b"2", b"3"]]
        connection.abort()

    run(main)


def test_the_end_of_a_batch_on_a_connection_that_is_over_does_nothing(run: Any, play: Any) -> None:
    async def main() -> None:
        async with play.connection() as (connection, flow):
            with connection.batch():
                await connection.send(b"1")
                connection.abort()
            assert flow.flushed == []

    run(main)
