"""The life of a Connection: context managers, Close, Abort, the terminal event (10, 11)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import pytest

import taps_core as taps
from taps_core.plugin import LayerFlow, Transport
from taps_core.testing import MemoryNetwork, MemoryStream
from taps_framers import LengthPrefix

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest
    from taps_core.testing.fixtures import Run

FRAMED = LengthPrefix()


class Ends:
    """Both ends of a Connection, and the events of the client."""

    def __init__(self, world: Any, network: MemoryNetwork, **system: Any) -> None:
        self.here = world(MemoryStream(network), **system)

    async def __aenter__(self) -> Self:
        self.listener = await self.here.listen(framers=FRAMED)
        self.client = self.here.to(self.listener, framers=FRAMED).initiate()
        self.events = self.client.events()
        await self.client
        self.server = await self.listener.accept()
        return self

    async def names(self) -> list[str]:
        """The client's events, to the last."""
        return [type(event).__name__ async for event in self.events]

    async def __aexit__(self, *_: object) -> None:
        self.client.abort()
        self.server.abort()
        self.listener.stop()
        await self.listener.stopped()


# ------------------------------------------------------------------- async with


@pytest.mark.requirement("G-9622-10-01", "R-9623-10.1-04")
def test_leaving_the_block_closes_and_delivers(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            async with ends.client as client:
                for number in range(100):
                    client.send_nowait(b"%d" % number)
            assert client.state is taps.ConnectionState.CLOSED
            assert [int(message.data) async for message in ends.server] == list(range(100))
            names = await ends.names()
            assert names == ["Ready"] + ["Sent"] * 100 + ["Closed"]

    run(main, memory_network)


@pytest.mark.requirement("R-9623-10.1-05")
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_an_exception_or_cancellation_aborts(
    run: Run, world: Any, memory_network: MemoryNetwork, error: type[BaseException]
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            with pytest.raises(error):
                async with ends.client:
                    raise error
            # When the block is left, everything is released.
            assert memory_network.open_flows <= 1
            assert (await ends.names())[-1] == "ConnectionError"
            with pytest.raises(taps.ConnectionError):
                await ends.server.receive()

    run(main, memory_network)


def test_leaving_a_block_whose_connection_has_ended_is_no_error(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends, ends.client as client:
            client.abort()
        async with Ends(world, memory_network) as ends, ends.client as client:
            await client.close()
        async with Ends(world, memory_network) as ends, ends.client as client:
            ends.server.abort()
            with pytest.raises(taps.ConnectionError):
                await client.receive()
        async with Ends(world, memory_network) as ends:
            async with ends.client as client:
                _ = client.close()  # begun inside, awaited on leaving
            assert client.state is taps.ConnectionState.CLOSED

    run(main, memory_network)


def test_after_the_close_timeout_comes_abort(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network, close_timeout=0.02) as ends:
            client = ends.client
            assert client.close_timeout == 0.02
            with pytest.raises(taps.ConnectionError) as caught:
                async with client:
                    client.send_nowait(b"x" * 1_000_000)  # nobody reads it
            assert caught.value.reason is taps.Reason.TIMEOUT
            assert client.state is taps.ConnectionState.CLOSED
            assert (await ends.names())[-1] == "ConnectionError"

    run(main, memory_network)


def test_each_connection_can_have_its_own_close_timeout(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            assert ends.client.close_timeout == 10
            with pytest.raises(taps.ConnectionError):
                async with ends.client as client:
                    client.close_timeout = 0.01
                    client.send_nowait(b"x" * 1_000_000)

    run(main, memory_network)


def test_cancelling_while_the_block_closes_aborts(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:

            async def use() -> None:
                async with ends.client as client:
                    client.send_nowait(b"x" * 1_000_000)

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await use()
            assert ends.client.state is taps.ConnectionState.CLOSED
            with pytest.raises(taps.ConnectionError):
                await ends.server.receive()

    run(main, memory_network)


# ------------------------------------------------------------------- Close


@pytest.mark.requirement("G-9622-7.1-01", "G-9622-10-01")
def test_close_before_ready_delivers_what_was_queued(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    memory_network.delay("127.0.0.1", 0.01)

    async def main() -> None:
        here = world(memory_transport)
        async with here.listen(framers=FRAMED) as listener:
            client = here.to(listener, framers=FRAMED).initiate()
            events = client.events()
            client.send_nowait(b"first")
            client.send_nowait(b"second")
            closing = client.close()
            assert client.state is taps.ConnectionState.ESTABLISHING
            with pytest.raises(taps.SendError, match="closing"):
                await client.send(b"too late")
            await closing
            names = [type(event).__name__ async for event in events]
            assert [name for name in names if name != "SendError"] == [
                "Ready",
                "Sent",
                "Sent",
                "Closed",
            ]
            server = await listener.accept()
            assert [(await server.receive()).data for _ in "12"] == [b"first", b"second"]
            server.abort()

    run(main, memory_network)


def test_close_before_ready_with_nothing_to_send_gives_up(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def main() -> None:
        connection = world(MemoryStream(memory_network)).to("10.0.0.1:1").initiate()
        events = connection.events()
        await asyncio.sleep(0)
        await connection.close()
        (event,) = [event async for event in events]
        assert isinstance(event, taps.EstablishmentError)
        assert event.reason is taps.Reason.LOCAL_ABORT
        with pytest.raises(taps.EstablishmentError, match="closed before it was ready"):
            await connection

    run(main, memory_network)


def test_close_before_ready_of_what_cannot_be_established_tells_whoever_waits(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        connection = world(MemoryStream(memory_network)).to("127.0.0.9:9").initiate()
        outcome = connection.send(b"never delivered")
        with pytest.raises(taps.EstablishmentError, match="refused"):
            await connection.close()
        with pytest.raises(taps.SendError, match="refused"):
            await outcome

    run(main, memory_network)


def test_close_raises_where_not_everything_could_be_delivered(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            ends.client.send_nowait(b"x" * 1_000_000)
            closing = ends.client.close()
            assert ends.client.state is taps.ConnectionState.CLOSING
            await asyncio.sleep(0)
            ends.server.abort()
            with pytest.raises(taps.ConnectionError, match="reset"):
                await closing
            assert (await ends.names())[-1] == "ConnectionError"

    run(main, memory_network)


def test_close_can_be_called_and_awaited_any_number_of_times(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            client = ends.client
            await asyncio.gather(*(_await(client.close()) for _ in range(3)))
            await client.close()
            assert (await ends.names()).count("Closed") == 1

    run(main, memory_network)


async def _await(awaitable: Any) -> None:
    await awaitable


@pytest.mark.requirement("R-9622-10-01")
def test_nothing_is_received_after_ones_own_close(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            await ends.server.send(b"in flight")
            receiving = asyncio.ensure_future(ends.client.receive())
            closing = ends.client.close()
            with pytest.raises(taps.ReceiveError) as caught:
                await receiving
            assert caught.value.reason is taps.Reason.CONNECTION_CLOSED
            with pytest.raises(taps.ReceiveError):
                await ends.client.receive()
            with pytest.raises(taps.SendError):
                await ends.client.send(b"x")
            await closing

    run(main, memory_network)


# ------------------------------------------------------------------- Abort


@pytest.mark.requirement("G-9622-10-02")
@pytest.mark.parametrize("state", list(taps.ConnectionState))
def test_abort_in_every_state(
    run: Run,
    world: Any,
    memory_network: MemoryNetwork,
    turns: Any,
    state: taps.ConnectionState,
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(framers=FRAMED) as listener:
            client = here.to(listener, framers=FRAMED).initiate()
            events = client.events()
            outcome = None
            if state is not taps.ConnectionState.ESTABLISHING:
                await client
                server = await listener.accept()
            if state is taps.ConnectionState.CLOSED:
                await client.close()
            else:
                if state is not taps.ConnectionState.ESTABLISHING:
                    await client.send(b"x" * 1_000_000)
                    await turns()  # so the stack is full
                outcome = client.send(b"x")
            if state is taps.ConnectionState.CLOSING:
                _ = client.close()
            assert client.state is state
            for _ in range(3):
                client.abort()
                assert client.state is taps.ConnectionState.CLOSED
            if outcome is not None:
                with pytest.raises(taps.SendError, match="aborted"):
                    await outcome
            await client.close()  # of what one has aborted oneself: no error
            await turns()
            last = [event async for event in events][-1]
            if state is taps.ConnectionState.CLOSED:
                assert isinstance(last, taps.Closed)
            elif state is taps.ConnectionState.ESTABLISHING:
                assert isinstance(last, taps.EstablishmentError)
                assert last.reason is taps.Reason.LOCAL_ABORT
            else:
                assert isinstance(last, taps.ConnectionError)
                assert last.reason is taps.Reason.LOCAL_ABORT
            if state is not taps.ConnectionState.ESTABLISHING:
                server.abort()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-11-03")
def test_nothing_follows_the_terminal_event(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            client = ends.client
            seen: list[Any] = []
            for kind in (taps.Event, taps.TapsError):
                client.on(kind, seen.append)
            await ends.server.send(b"x")
            client.abort()
            client.abort()
            with pytest.raises(taps.SendError):
                await client.send(b"x")
            with pytest.raises(taps.ConnectionError):
                await client.receive()
            with pytest.raises(taps.PropertyError):
                client.set_property("connPriority", 1)
            with pytest.raises(taps.CloneError):
                await client.clone()
            await turns(10)
            assert [type(event).__name__ for event in seen] == ["ConnectionError"]
            # Who subscribes now hears nothing, and a stream is at its end.
            client.on(taps.ConnectionError, seen.append)
            assert [event async for event in client.events()] == []
            assert len(seen) == 1

    run(main, memory_network)


def test_awaiting_a_connection_that_is_or_was_ready_gives_it(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            assert await ends.client is ends.client
            assert await ends.server is ends.server
            await ends.client.close()
            assert await ends.client is ends.client

    run(main, memory_network)


def test_several_can_await_one_connection(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            client = here.to(listener).initiate()
            assert await asyncio.gather(*(client._wait_ready() for _ in range(3))) == [client] * 3
            (await listener.accept()).abort()
            client.abort()
            failing = here.to("127.0.0.9:9").initiate()
            errors = await asyncio.gather(
                *(failing._wait_ready() for _ in range(3)), return_exceptions=True
            )
            assert [type(error) for error in errors] == [taps.EstablishmentError] * 3

    run(main, memory_network)


def test_an_accepted_connection_has_no_ready_event(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            assert ends.server.report == ()
            events = ends.server.events()
            ends.server.abort()
            assert [type(event) async for event in events] == [taps.ConnectionError]

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.5-01")
def test_endpoints_of_a_stack_with_one_pair_of_addresses(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            client = ends.client
            client.add_remote(client.remote_endpoint)  # known: nothing to do
            client.add_local(client.local_endpoint)
            for change in (client.add_remote, client.remove_remote):
                with pytest.raises(taps.PropertyError, match="one pair of addresses"):
                    change("127.0.0.7:7")
            assert client.state is taps.ConnectionState.ESTABLISHED
        with pytest.raises(taps.PropertyError, match="established"):
            client.add_remote("127.0.0.7:7")

    run(main, memory_network)


def test_leaving_the_block_waits_until_the_stack_has_let_go(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class SlowFlow(LayerFlow):
        released = False

        def closed(self, error: Exception | None) -> None:
            asyncio.get_running_loop().call_later(0.02, self._closed, error)

        def _closed(self, error: Exception | None) -> None:
            self.released = True
            self.receiver.closed(error)

    class Slow(MemoryStream):
        async def connect(self, request: ConnectRequest) -> Any:
            return SlowFlow(await super().connect(request))

    async def main() -> None:
        here = world(Slow(memory_network))
        async with here.listen() as listener:
            for failing in (False, True):
                flow = None
                with pytest.raises(ZeroDivisionError) if failing else _nothing():
                    async with here.to(listener).initiate() as client:
                        flow = client._flow
                        (await listener.accept()).abort()
                        client.abort()
                        if failing:
                            raise ZeroDivisionError
                assert flow.released

    run(main, memory_network)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_who_stops_waiting_for_closed_is_forgotten(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Ends(world, memory_network) as ends:
            ends.client.send_nowait(b"x" * 1_000_000)  # nobody reads it
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await ends.client.close()
            assert not ends.client._end_waiters

    run(main, memory_network)
