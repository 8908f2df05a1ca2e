"""What the transports in memory promise that have a peer: windows, half-close, reset."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from taps_core.model.errors import ConnectionError, EstablishmentError, Reason, SendError
from taps_core.testing import (
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    Rig,
    connect_request,
)

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

Connected = MemoryStream | MemoryMessages


@pytest.fixture(params=[MemoryStream, MemoryMessages, MemorySecure])
def transport(request: pytest.FixtureRequest, memory_network: MemoryNetwork) -> Connected:
    made: Connected = request.param(memory_network)
    return made


async def turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_finish_closes_one_direction(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.send(b"last")
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"last"
            with pytest.raises(SendError):
                client.flow.lower.send(b"later", None, True)
            server.send(b"goes on")
            await client.has_data(b"goes on")
            server.flow.finish()
            await client.has_closed()
            await server.has_closed()
            assert client.recorder.error is None
            assert server.recorder.error is None

    run(main)


def test_finish_flushes_and_a_close_may_follow(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.flow.send(b"unflushed", None, True)
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"unflushed"
            client.flow.close()
            await client.has_closed()
            assert not client.recorder.is_finished

    run(main)


def test_a_paused_flow_hears_of_the_end_when_it_resumes(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.flow.finish()
            await turns()
            assert not server.recorder.is_finished
            server.flow.resume()
            await server.recorder.until(lambda: server.recorder.is_finished)

    run(main)


def test_close_is_in_order_on_both_sides(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.send(b"bye")
            client.flow.close()
            await client.has_closed()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"bye"
            assert not server.recorder.is_closed
            server.flow.close()
            await server.has_closed()
            assert client.recorder.error is None
            assert server.recorder.error is None

    run(main)


def test_abort_reaches_the_peer_at_once(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(b"dropped")
            client.flow.abort()
            await server.has_closed()
            assert isinstance(server.recorder.error, ConnectionError)
            assert server.recorder.error.reason is Reason.CONNECTION_ABORTED
            assert not server.recorder.data

    run(main)


def test_a_reset_before_start_comes_up_after_it(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client = await rig.connect()
            server = await rig.accept(start=False)
            client.flow.abort()
            await turns()
            server.start()
            await server.has_closed()
            assert isinstance(server.recorder.error, ConnectionError)

    run(main)


def test_data_for_a_closed_flow_is_answered_by_a_reset(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.send(b"bye")
            client.flow.close()
            await client.has_closed()
            server.send(b"nobody reads this")
            await server.has_closed()
            assert isinstance(server.recorder.error, ConnectionError)
            # What was sent before the close was in order, so it came up all the same.
            assert server.recorder.data == b"bye"

    run(main)


def test_unread_data_is_answered_by_a_reset_behind_all_that_was_sent(
    run: Run, transport: Connected
) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            client.send(b"unread")
            await turns()
            server.send(b"so long")
            server.flow.close()
            await server.has_closed()
            assert server.recorder.error is None
            await client.has_closed()
            assert client.recorder.data == b"so long"
            assert isinstance(client.recorder.error, ConnectionError)

    run(main)


def test_a_full_flow_says_so_and_says_when_it_takes_more(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            await turns()
            sent = 0
            while client.recorder.is_writable:
                client.send(bytes(1000))
                sent += 1000
                await asyncio.sleep(0)
                assert sent < 1_000_000, "no backpressure"
            assert sent > 64 * 1024
            await turns()
            assert not client.recorder.is_writable
            server.flow.resume()
            await client.recorder.until(lambda: client.recorder.is_writable)
            await server.recorder.until(lambda: len(server.recorder.data) == sent)
            assert [call.arguments for call in client.recorder.named("writable")] == [
                (False,),
                (True,),
            ]

    run(main)


def test_an_unstarted_peer_makes_the_sender_wait_too(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client = await rig.connect()
            server = await rig.accept(start=False)
            for _ in range(3):
                client.send(bytes(65536))
            await client.recorder.until(lambda: not client.recorder.is_writable)
            server.start()
            await client.recorder.until(lambda: client.recorder.is_writable)

    run(main)


def test_who_obeys_writable_fills_two_windows_at_most(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            largest = 0
            for _ in range(2000):
                await client.recorder.until(lambda: client.recorder.is_writable)
                client.send(bytes(5000))
                await asyncio.sleep(0)
                flow, peer = client.flow.lower, server.flow.lower
                largest = max(largest, flow._pending + peer.held)  # type: ignore[attr-defined]  # what they hold is private
            await server.recorder.until(lambda: len(server.recorder.data) == 10_000_000)
            assert largest < 2 * 65536 + 2 * 5064

    run(main)


def test_close_waits_until_the_peer_has_room(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            server.flow.pause()
            for _ in range(10):
                client.send(bytes(50_000))
            client.flow.close()
            await turns()
            assert not client.recorder.is_closed
            server.flow.resume()
            await client.has_closed()
            await server.recorder.until(lambda: len(server.recorder.data) == 500_000)
            assert client.recorder.error is None

    run(main)


def test_two_that_close_at_once_lose_nothing_that_was_read(run: Run, transport: Connected) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            client, server = await rig.pair()
            client.flow.close()
            server.flow.close()
            await client.has_closed()
            await server.has_closed()
            assert client.recorder.error is None
            assert server.recorder.error is None

    run(main)


def test_nobody_listening_refuses(run: Run, transport: Connected) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError, match="connection refused"):
            await transport.connect(connect_request("127.0.0.1:9"))

    run(main)


def test_a_full_backlog_refuses(run: Run, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        async with Rig(MemoryStream(memory_network, backlog=2)) as rig:
            rig.listener.pause()
            for _ in range(2):
                await rig.connect()
            with pytest.raises(EstablishmentError, match="refused"):
                await rig.connect()
            rig.listener.resume()
            await rig.accept()
            await rig.accept()

    run(main, memory_network)


def test_flows_that_nobody_took_are_reset_with_their_listener(
    run: Run, transport: Connected
) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            rig.listener.pause()
            client = await rig.connect()
            await rig.listener.close()
            await client.has_closed()
            assert isinstance(client.recorder.error, ConnectionError)

    run(main)


def test_a_blackhole_hangs_and_cancelling_leaves_nothing(
    run: Run, transport: Connected, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Rig(transport) as rig:
            memory_network.blackhole("127.0.0.1")
            connecting = asyncio.create_task(rig.connect())
            await turns(50)
            assert not connecting.done()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert memory_network.open_flows == 0
            memory_network.blackhole("127.0.0.1", False)
            await rig.pair()

    run(main, memory_network)


def test_cancelling_a_connect_at_any_turn_leaves_nothing(
    run: Run, transport: Connected, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        for number in range(10):
            async with Rig(transport) as rig:
                connecting = asyncio.create_task(rig.connect())
                await turns(number)
                connecting.cancel()
                await asyncio.wait([connecting])
            await turns()
            assert memory_network.open_flows == 0

    run(main, memory_network)


def test_delay_makes_a_round_trip_take_time(
    run: Run, transport: Connected, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        memory_network.delay("127.0.0.1", 0.02)
        async with Rig(transport) as rig:
            begun = loop.time()
            client, server = await rig.pair()
            assert loop.time() - begun >= 0.03 - 0.002  # to connect, and for a Message
            client.send(b"1")
            client.send(b"2")
            await asyncio.sleep(0.001)
            client.send(b"3")
            client.flow.finish()
            await server.recorder.until(lambda: server.recorder.is_finished)
            assert server.recorder.data == b"123"
            server.flow.close()
            await client.has_closed()
            await server.has_closed()

    run(main, memory_network)


def test_networks_know_nothing_of_each_other(run: Run) -> None:
    async def main() -> None:
        one, other = MemoryNetwork(), MemoryNetwork()
        async with Rig(MemoryStream(one)) as rig:
            with pytest.raises(EstablishmentError):
                await MemoryStream(other).connect(connect_request(rig.remote))
            async with Rig(MemoryStream(other), local=str(rig.remote)) as twin:
                await twin.pair()
                assert (one.open_flows, other.open_flows) == (0, 2)
                assert (one.open_listeners, other.open_listeners) == (1, 1)

    run(main)


def test_a_wiretap_sees_what_leaves(run: Run, memory_network: MemoryNetwork) -> None:
    seen: list[bytes] = []
    memory_network.wiretap = seen.append

    async def main() -> None:
        async with Rig(MemoryStream(memory_network)) as rig:
            await rig.pair()
        assert seen == [b"first"]

    run(main)


def test_an_endpoint_must_be_resolved(run: Run, transport: Connected) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError) as caught:
            await transport.connect(connect_request("somewhere.example:80"))
        assert caught.value.reason is Reason.INVALID_CONFIGURATION

    run(main)
