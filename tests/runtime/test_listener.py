"""Listen: handing over, limits, handlers, stopping, several Local Endpoints (section 7.2)."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
from taps_core.plugin import Framer, LayerFlow, ListeningFlow
from taps_core.testing import MemoryDatagram, MemoryMessages, MemoryNetwork, MemoryStream, MemoryTLS
from taps_framers import LengthPrefix, Line

if TYPE_CHECKING:
    from taps_core.plugin import ListenRequest, Transport
    from taps_core.testing.fixtures import Run


class Reading:
    """Iterates over the parts of a byte stream without a word about lengths."""

    def __init__(self, connection: taps.Connection[Any]) -> None:
        self._connection = connection

    def __aiter__(self) -> Reading:
        return self

    async def __anext__(self) -> taps.Message[Any]:
        try:
            return await self._connection.receive(max_length=1 << 16)
        except taps.EndOfData:
            raise StopAsyncIteration from None


async def echo(connection: taps.Connection[Any]) -> None:
    async for message in Reading(connection):
        await connection.send(message.data)


async def clients_of(
    here: Any, listener: taps.Listener, number: int, **how: Any
) -> list[taps.Connection[Any]]:
    """So many established clients."""
    return [await here.to(listener, **how).initiate() for _ in range(number)]


def abort_all(*connections: taps.Connection[Any]) -> None:
    for connection in connections:
        connection.abort()


# ------------------------------------------------------------------- ways to get Connections


def test_it_can_be_awaited_and_stopped(run: Run, world: Any, memory_network: MemoryNetwork) -> None:
    async def main() -> None:
        listener = world(MemoryStream(memory_network)).listen()
        assert repr(listener) == "<Listener opening on 127.0.0.1:0>"
        assert listener.local_endpoints == ()
        with pytest.raises(taps.EstablishmentError, match="not listening"):
            _ = listener.remote_endpoint
        assert await listener is listener
        assert await listener is listener
        (local,) = listener.local_endpoints
        assert local.port
        assert repr(listener) == f"<Listener listening on 127.0.0.1:{local.port}>"
        listener.stop()
        listener.stop()
        await listener.stopped()
        assert listener.local_endpoints == ()

    run(main, memory_network)


@pytest.mark.requirement("R-9622-6-01")
def test_without_a_local_endpoint_listen_raises_at_once(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        preconnection = world(MemoryStream(memory_network)).preconnection()
        with pytest.raises(taps.EstablishmentError) as caught:
            preconnection.listen()
        assert caught.value.reason is taps.Reason.INVALID_CONFIGURATION
        for mistake in ({"max_connections": 0}, {"handler": "no function"}):
            with pytest.raises((ValueError, TypeError)):
                preconnection.add_local(":0").listen(**mistake)

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.2-02", "R-9623-4.7.1-01", "R-9622-6-04")
def test_accept_gives_connections_in_order_and_cancelling_loses_none(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            for cancelled in (0, 1, 2):
                waiting = [asyncio.ensure_future(listener.accept()) for _ in range(3)]
                await turns(1)
                clients = await clients_of(here, listener, 3)
                # One has its Connection in this very turn, and is cancelled.
                waiting[cancelled].cancel()
                got = await asyncio.gather(*waiting, return_exceptions=True)
                accepted = [each for each in got if isinstance(each, taps.Connection)]
                while len(accepted) < 3:
                    accepted.append(await listener.accept())
                ports = [each.remote_endpoint.port for each in accepted]
                assert sorted(ports) == sorted(c.local_endpoint.port for c in clients)
                abort_all(*clients, *accepted)
                await turns()

    run(main, memory_network)


def test_those_who_wait_in_accept_are_served_in_order(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            served: list[str] = []
            tasks = []

            async def accept(name: str) -> None:
                connection = await listener.accept()
                served.append(name)
                connection.abort()
                if name == "first":
                    # Nobody jumps the line, whoever runs at the right moment.
                    tasks.append(asyncio.ensure_future(accept("late")))

            tasks += [asyncio.ensure_future(accept(name)) for name in ("first", "second")]
            await turns(1)
            clients = await clients_of(here, listener, 3)
            while len(served) < 3:
                await turns(1)
            assert served == ["first", "second", "late"]
            await asyncio.gather(*tasks)
            abort_all(*clients)

    run(main, memory_network)


def test_iterating_ends_when_the_listener_stops(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        listener = await here.listen()
        clients = await clients_of(here, listener, 2)
        seen = 0
        async for connection in listener:
            connection.abort()
            seen += 1
            if seen == 2:
                listener.stop()
        with pytest.raises(taps.EstablishmentError, match="has stopped"):
            await listener.accept()
        abort_all(*clients)
        await listener.stopped()

    run(main, memory_network)


def test_whoever_waits_is_told_when_it_stops(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        listener = await world(MemoryStream(memory_network)).listen()
        waiting = [asyncio.ensure_future(listener.accept()) for _ in range(3)]

        async def iterate() -> list[Any]:
            return [each async for each in listener]

        iterating = asyncio.ensure_future(iterate())
        await turns()
        listener.stop()
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, taps.EstablishmentError)
        assert await iterating == []

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.2-02")
def test_a_handler_for_connection_received_takes_the_connections(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            got: list[Any] = []
            listener.on(taps.ConnectionReceived, lambda event: got.append(event.connection))
            accepting = asyncio.ensure_future(listener.accept())
            # More than may wait where nobody takes them.
            clients = await clients_of(here, listener, 300)
            await turns()
            assert len(got) == 300
            assert not accepting.done()
            assert all(each.state is taps.ConnectionState.ESTABLISHED for each in got)
            accepting.cancel()
        # Whoever was handed over lives on.
        await got[0].send(b"still here")
        assert (await clients[0].receive(max_length=100)).data == b"still here"
        abort_all(*clients, *got)

    run(main, memory_network)


@pytest.mark.parametrize("watching", ["events()", "on(Event)"])
def test_connections_told_by_events_can_be_taken_there_or_accepted(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, watching: str
) -> None:
    """A program may live on the event stream alone, or only watch it."""

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            if watching == "events()":
                events = listener.events()
            else:
                seen: list[Any] = []
                listener.on(taps.Event, seen.append)
            clients = await clients_of(here, listener, 300)
            await turns()
            accepted = await listener.accept()
            assert accepted.remote_endpoint.port == clients[0].local_endpoint.port
            clients[1].abort()
            await turns()
            again = await listener.accept()  # not the second, whose end was seen
            assert again.remote_endpoint.port == clients[2].local_endpoint.port
        if watching == "events()":
            seen = [event async for event in events]
        received = [each.connection for each in seen if isinstance(each, taps.ConnectionReceived)]
        assert len(received) == 300
        assert received[0] is accepted
        assert isinstance(seen[-1], taps.Stopped)
        await received[299].send(b"still here")
        abort_all(*clients, *received)

    run(main, memory_network)


# ------------------------------------------------------------------- limits


def test_it_says_what_its_transports_dropped_also_after_it_stopped(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryDatagram(memory_network, queue_size=10))  # not one datagram's worth
        async with here.listen() as listener:
            assert listener.dropped == {}
            clients = await clients_of(here, listener, 3)
            for client in clients:
                await client.send(b"x")
            await turns()
            assert listener.dropped == {"queue": 3}
        assert listener.dropped == {"queue": 3}
        abort_all(*clients)

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.2-01")
def test_the_limit_is_a_budget(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen() as listener:
            got: list[Any] = []
            listener.on(taps.ConnectionReceived, lambda event: got.append(event.connection))
            listener.set_new_connection_limit(2)
            clients = await clients_of(here, listener, 5)
            await turns()
            assert len(got) == 2
            abort_all(*got)  # ending some does not raise it
            await turns()
            assert len(got) == 2
            listener.set_new_connection_limit(0)
            await turns()
            assert len(got) == 2
            listener.set_new_connection_limit(1)
            await turns()
            assert len(got) == 3
            listener.set_new_connection_limit(math.inf)
            await turns()
            assert len(got) == 5
            abort_all(*clients, *got)

    run(main, memory_network)


@pytest.mark.parametrize("limit", [-1, 0.5, math.nan, -math.inf])
def test_a_limit_is_a_whole_number_or_infinite(
    run: Run, world: Any, memory_network: MemoryNetwork, limit: float
) -> None:
    async def main() -> None:
        async with world(MemoryStream(memory_network)).listen() as listener:
            with pytest.raises(ValueError, match="whole number"):
                listener.set_new_connection_limit(limit)

    run(main, memory_network)


def test_max_connections_are_open_at_a_time(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        open_now: set[Any] = set()
        most = 0

        async def handler(connection: taps.Connection[Any]) -> None:
            nonlocal most
            open_now.add(connection)
            most = max(most, len(open_now))
            await echo(connection)
            open_now.discard(connection)

        async with here.listen(handler, max_connections=3) as listener:

            async def use(number: int) -> None:
                async with here.to(listener).initiate() as client:
                    await client.send(b"%d" % number)
                    message = await client.receive_exactly(len(str(number)))
                    assert message.data == b"%d" % number

            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(use(number))
            assert most == 3

    run(main, memory_network)


def test_what_waits_is_bounded_and_then_the_transport_stops_accepting(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network, backlog=10))
        async with here.listen() as listener:
            listener.set_new_connection_limit(0)
            clients = []
            with pytest.raises(taps.EstablishmentError, match="refused"):
                for _ in range(1000):
                    clients.append(await here.to(listener).initiate())  # fails half-way
                    await turns(2)
            assert 128 <= len(clients) <= 300
            # What waited is served once it may be.
            listener.set_new_connection_limit(math.inf)
            accepted = [await listener.accept() for _ in clients]
            clients += await clients_of(here, listener, 1)
            accepted.append(await listener.accept())
            abort_all(*clients, *accepted)

    run(main, memory_network)


def test_connections_that_nobody_accepts_are_bounded_too(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network, backlog=10))
        async with here.listen() as listener:
            clients = []
            with pytest.raises(taps.EstablishmentError, match="refused"):
                for _ in range(1000):
                    clients.append(await here.to(listener).initiate())  # fails half-way
                    await turns(2)
            for _ in clients:
                (await listener.accept()).abort()
            abort_all(*clients)

    run(main, memory_network)


@pytest.mark.parametrize("framers", [None, LengthPrefix()], ids=["bare", "framed"])
def test_speak_first_peers_lose_no_byte_through_a_listener_at_limit_0(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, framers: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network, chunk=7))
        async with here.listen(framers=framers) as listener:
            listener.set_new_connection_limit(0)
            clients = await clients_of(here, listener, 20, framers=framers)
            whole = bytes(range(256)) * 200
            for client in clients:
                _ = client.send(whole)
                await client.finish()
            await turns(50)
            listener.set_new_connection_limit(math.inf)
            for client in clients:
                server = await listener.accept()
                got = b"".join([m.data for m in [await server.receive_exactly(len(whole))]])
                assert got == whole
                abort_all(client, server)

    run(main, memory_network)


def test_speak_first_peers_lose_no_byte_through_a_race(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    memory_network.blackhole("10.0.0.1")

    async def greet(connection: taps.Connection[Any]) -> None:
        await connection.send(b"220 hello\r\n")

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(greet) as listener:
            remotes = ["127.0.0.9:9", "10.0.0.1:7", listener.remote_endpoint]
            for _ in range(3):
                async with here.to(remotes, framers=Line()).initiate() as client:
                    assert [message.data async for message in client] == [b"220 hello"]

    run(main, memory_network)


# ------------------------------------------------------------------- handlers


def test_a_handlers_connection_is_closed_when_it_returns(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))

        async def greet(connection: taps.Connection[Any]) -> None:
            _ = connection.send(b"hello")  # delivered although nobody waits for it

        async with here.listen(greet) as listener, here.to(listener).initiate() as client:
            data = [message.data async for message in Reading(client)]
            assert b"".join(data) == b"hello"

    run(main, memory_network)


def test_a_handlers_exception_aborts_its_connection_and_touches_no_other(
    run: Run, world: Any, memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))

        async def fragile(connection: taps.Connection[Any]) -> None:
            async for message in connection:
                if message.data == b"boom":
                    raise ZeroDivisionError("in the handler")
                await connection.send(message.data)

        async with here.listen(fragile, framers=Line()) as listener:
            good, bad, other = await clients_of(here, listener, 3, framers=Line())
            await bad.send(b"boom")
            with pytest.raises(taps.ConnectionError):
                await bad.receive()
            for client in (good, other):
                await client.send(b"fine")
                assert (await client.receive()).data == b"fine"
                await client.close()
            (record,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
            assert record.name == "taps_core"
            assert record.exc_info is not None
            assert record.exc_info[0] is ZeroDivisionError

    run(main, memory_network)


@pytest.mark.parametrize("grouped", [False, True])
def test_what_the_peer_did_is_no_error_of_the_handler(
    run: Run,
    world: Any,
    memory_network: MemoryNetwork,
    caplog: pytest.LogCaptureFixture,
    grouped: bool,
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        here = world(MemoryStream(memory_network))

        async def handler(connection: taps.Connection[Any]) -> None:
            if grouped:
                async with asyncio.TaskGroup() as group:
                    group.create_task(echo(connection))
            else:
                await echo(connection)

        async with here.listen(handler, framers=Line()) as listener:
            (client,) = await clients_of(here, listener, 1, framers=Line())
            await client.send(b"x")
            await client.receive()
            client.abort()
        records = [each for each in caplog.records if "handler" in each.getMessage()]
        assert [each.levelno for each in records] == [logging.INFO]

    run(main, memory_network)


def test_a_misspelt_property_in_a_handler_is_an_error_of_the_handler(
    run: Run, world: Any, memory_network: MemoryNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))

        async def handler(connection: taps.Connection[Any]) -> None:
            await connection.send(b"x", lifetme=1)  # type: ignore[call-arg]  # the point

        async with here.listen(handler) as listener:
            (client,) = await clients_of(here, listener, 1)
            with pytest.raises(taps.ConnectionError):
                await client.receive(max_length=1)
        assert any(each.levelno >= logging.ERROR for each in caplog.records)

    run(main, memory_network)


def test_accept_beside_a_handler_is_a_mistake_that_is_named(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with world(MemoryStream(memory_network)).listen(echo) as listener:
            with pytest.raises(RuntimeError, match="the handler given to listen"):
                await listener.accept()

    run(main, memory_network)


def test_leaving_the_block_waits_for_handlers_then_cancels_them(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        ends: list[str] = []
        may_end = asyncio.Event()

        async def handler(connection: taps.Connection[Any]) -> None:
            kind = (await connection.receive()).data
            try:
                if kind == b"quick":
                    await may_end.wait()
                    await connection.send(b"done")
                else:
                    await asyncio.Event().wait()
                ends.append("returned")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async with here.listen(handler, framers=Line(), grace=0.3) as listener:
            quick, stuck = await clients_of(here, listener, 2, framers=Line())
            await quick.send(b"quick")
            await stuck.send(b"stuck")
            asyncio.get_running_loop().call_soon(may_end.set)
        assert sorted(ends) == ["cancelled", "returned"]
        assert (await quick.receive()).data == b"done"
        assert [message async for message in quick] == []
        with pytest.raises(taps.ConnectionError):
            await stuck.receive()
        await quick.close()

    run(main, memory_network)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_an_exception_in_the_block_gives_no_grace(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, error: type[BaseException]
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        started = asyncio.Event()

        async def handler(connection: taps.Connection[Any]) -> None:
            started.set()
            await asyncio.Event().wait()

        with pytest.raises(error):
            async with here.listen(handler, grace=1000) as listener:
                (client,) = await clients_of(here, listener, 1)
                await started.wait()
                raise error
        with pytest.raises(taps.ConnectionError):
            await client.receive(max_length=1)

    run(main, memory_network)


# ------------------------------------------------------------------- stopping


@pytest.mark.requirement("G-9622-7.2-03")
def test_connections_live_on_after_stop_and_stopped_comes_once(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        listener = await here.listen(framers=Line())
        stopped: list[Any] = []
        listener.on(taps.Stopped, stopped.append)
        events = listener.events()
        (client,) = await clients_of(here, listener, 1, framers=Line())
        server = await listener.accept()
        where = listener.remote_endpoint
        listener.stop()
        listener.stop()
        await listener.stopped()
        await turns()
        listener.stop()
        assert len(stopped) == 1
        assert [type(event) async for event in events][-1] is taps.Stopped
        assert [event async for event in listener.events()] == []
        await client.send(b"hello")
        assert (await server.receive()).data == b"hello"
        with pytest.raises(taps.EstablishmentError):
            await here.to(where).initiate()
        abort_all(client, server)

    run(main, memory_network)


def test_what_nobody_was_told_of_is_aborted_by_stop(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        listener = await here.listen()
        clients = await clients_of(here, listener, 2)
        accepted = await listener.accept()
        listener.set_new_connection_limit(0)
        clients += await clients_of(here, listener, 2)
        listener.stop()
        await listener.stopped()
        for client in clients[1:]:
            with pytest.raises(taps.ConnectionError):
                await client.receive(max_length=1)
        abort_all(clients[0], accepted)

    run(main, memory_network)


@pytest.mark.parametrize("turns_before", range(6))
def test_stop_while_it_opens_ends_it_and_frees_the_port(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, turns_before: int
) -> None:
    class Slow(MemoryStream):
        async def listen(self, request: Any) -> Any:
            await asyncio.sleep(0)
            door = await super().listen(request)
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await door.close()
                raise
            return door

    async def main() -> None:
        here = world(Slow(memory_network))
        await here.to("127.0.0.9:9").resolve()
        listener = here.listen(at="127.0.0.1:70")
        events = listener.events()
        await turns(turns_before)
        waiting = asyncio.ensure_future(listener._wait_listening())
        listener.stop()
        await listener.stopped()
        (result,) = await asyncio.gather(waiting, return_exceptions=True)
        if result is not listener:
            assert result.reason is taps.Reason.LOCAL_ABORT
        assert [type(event) async for event in events] == [taps.Stopped]
        assert memory_network.open_listeners == 0
        assert [each async for each in listener] == []

    run(main, memory_network)


@pytest.mark.parametrize("turns_before", range(6))
def test_cancelling_the_wait_for_it_stops_it(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any, turns_before: int
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))

        async def use() -> None:
            async with here.listen():
                await asyncio.Event().wait()

        task = asyncio.ensure_future(use())
        await turns(turns_before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert memory_network.open_listeners == 0

    run(main, memory_network)


# ------------------------------------------------------------------- opening


def test_what_cannot_open_is_told_to_whoever_waits(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(at="127.0.0.1:70"):
            listener = here.listen(at="127.0.0.1:70")
            events = listener.events()
            accepting = asyncio.ensure_future(listener.accept())
            with pytest.raises(taps.EstablishmentError, match="in use") as caught:
                await listener
            assert caught.value.errno == errno.EADDRINUSE
            (attempt,) = caught.value.attempts
            assert attempt.what == "MEMORY-STREAM on 127.0.0.1:70"
            assert attempt.outcome == "failed"
            assert listener.report == [attempt]
            with pytest.raises(taps.EstablishmentError, match="in use"):
                await accepting
            assert [type(event) async for event in events] == [taps.EstablishmentError]
            await listener.stopped()
            with pytest.raises(taps.EstablishmentError, match="in use"):
                async for _ in listener:
                    pass

    run(main, memory_network)


@pytest.mark.requirement("R-9622-3-01")
def test_a_listen_that_fails_and_was_never_awaited_is_reported(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(at="127.0.0.1:70"):
            for handled in (True, False):
                reports: list[Any] = []
                asyncio.get_running_loop().set_exception_handler(
                    lambda _, context, reports=reports: reports.append(context["exception"])
                )
                listener = here.listen(at="127.0.0.1:70")
                if handled:
                    listener.on(taps.EstablishmentError, lambda error: None)
                await listener.stopped()
                await turns()
                del listener
                gc.collect()
                assert len(reports) == (not handled)

    run(main, memory_network)


def test_a_bug_of_a_transport_fails_the_listener(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Broken(MemoryStream):
        async def listen(self, request: Any) -> Any:
            raise RuntimeError("a bug")

    async def main() -> None:
        with pytest.raises(taps.EstablishmentError, match="RuntimeError: a bug"):
            await world(Broken(memory_network)).listen()

    run(main, memory_network)


def test_a_framer_that_cannot_be_made_fails_the_listener_not_its_peers(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Wanting(Framer):
        def __init__(self, argument: int) -> None: ...

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        with pytest.raises(taps.EstablishmentError, match="without arguments"):
            await here.listen(framers=Wanting)
        with pytest.raises(taps.EstablishmentError, match="without arguments"):
            async with here.listen() as listener:
                await here.to(listener, framers=Wanting).initiate()

    run(main, memory_network)


@pytest.mark.requirement("R-9623-4.7-04")
def test_port_0_is_one_number_for_all_endpoints_and_stacks(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(
            MemoryStream(memory_network),
            MemoryMessages(memory_network),
            MemoryDatagram(memory_network),
        )
        async with here.listen(at=["127.0.0.1:0", "[::1]:0", "10.0.0.1:700"]) as listener:
            places = [(each.ip_address, each.port) for each in listener.local_endpoints]
            assert len(places) == 9
            assert len({port for address, port in places if address != "10.0.0.1"}) == 1
            assert places.count(("10.0.0.1", 700)) == 3
            assert {attempt.outcome for attempt in listener.report} == {"ready"}
            assert all(0 <= each.started <= each.ended for each in listener.report)

    run(main, memory_network)


def test_one_port_for_several_addresses_is_tried_anew_when_it_is_taken_somewhere(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        first = await here.listen(at="127.0.0.1:0")
        port = first.local_endpoints[0].port
        # The next numbers are taken on the other address.
        taken = [await here.listen(at=f"[::1]:{port + each}") for each in (1, 2)]
        async with here.listen(at=["127.0.0.1:0", "[::1]:0"]) as listener:
            assert [each.port for each in listener.local_endpoints] == [port + 3] * 2
            assert [each.outcome for each in listener.report].count("failed") == 2
        for each in (first, *taken):
            each.stop()
            await each.stopped()

    run(main, memory_network)


def test_a_door_may_have_several_addresses_and_the_others_get_doors_of_their_own(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    offered: list[list[str | None]] = []

    class WideDoor(ListeningFlow):
        def __init__(self, door: Any, also: tuple[Any, ...]) -> None:
            self.door, self._also = door, also

        @property
        def local_endpoint(self) -> Any:
            return self.door.local_endpoint

        @property
        def also(self) -> Any:
            return self._also

        async def close(self) -> None:
            await self.door.close()

    class Wide(MemoryStream):
        """A door at 127.0.0.1 is for all of 127.0.0.0/8 that it is told of."""

        async def listen(self, request: Any) -> Any:
            offered.append([each.ip_address for each in request.other_locals])
            near = request.local.ip_address == "127.0.0.1"
            also = [e for e in request.other_locals if near and e.ip_address.startswith("127.")]
            return WideDoor(await super().listen(request), tuple(also))

    async def main() -> None:
        here = world(Wide(memory_network))
        addresses = ["127.0.0.1", "[::1]", "127.0.0.2", "10.0.0.1", "127.0.0.3"]
        async with here.listen(at=[f"{each}:0" for each in addresses]) as listener:
            assert len(listener.report) == 3
            found = [each.ip_address for each in listener.local_endpoints]
            assert found == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "10.0.0.1"]
            assert len({each.port for each in listener.local_endpoints}) == 1
            assert offered == [["::1", "127.0.0.2", "10.0.0.1", "127.0.0.3"], ["10.0.0.1"], []]

    run(main, memory_network)


def test_a_port_that_the_application_chose_is_not_given_to_others(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(at=["127.0.0.1:70", "127.0.0.1:0", "localhost:70"]) as listener:
            ports = [(each.ip_address, each.port) for each in listener.local_endpoints]
            assert ports[0] == ("127.0.0.1", 70)
            assert ports[1][1] not in (0, 70)
            # localhost is 127.0.0.1, where it listens already, and ::1.
            assert set(ports[2:]) == {("::1", 70)}

    run(main, memory_network)


def test_the_best_stack_must_open_and_others_are_reported(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Shut(MemoryStream):
        name = "memory-shut"

        async def listen(self, request: Any) -> Any:
            raise taps.EstablishmentError("cannot listen today")

    async def main() -> None:
        # By name the first is better, so the second is only reported.
        here = world(MemoryDatagram(memory_network), Shut(memory_network))
        async with here.listen() as listener:
            assert [(each.what.split()[0], each.outcome) for each in listener.report] == [
                ("MEMORY-DATAGRAM", "ready"),
                ("MEMORY-SHUT", "failed"),
            ]
        here = world(MemoryStream(memory_network), Shut(memory_network))
        with pytest.raises(taps.EstablishmentError, match="cannot listen today"):
            await here.listen()
        assert memory_network.open_listeners == 0

    run(main, memory_network)


def test_the_remote_endpoint_leads_to_it_and_keeps_the_name(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        for at, name, address in (
            ("localhost:0", "localhost", None),
            ("127.0.0.3:0", None, "127.0.0.3"),
            ("[::1]:0", None, "::1"),
            (":0", None, "127.0.0.1"),
            ("0.0.0.0:0", None, "127.0.0.1"),
        ):
            async with here.listen(echo, at=at) as listener:
                remote = listener.remote_endpoint
                assert (remote.hostname, remote.ip_address) == (name, address)
                assert remote.port == listener.local_endpoints[0].port
                async with here.to(listener).initiate() as client:
                    await client.send(b"x")
                    assert (await client.receive(max_length=1)).data == b"x"

    run(main, memory_network)


@pytest.mark.requirement("R-9622-7.2-01", "R-9623-2-03")
def test_editing_the_preconnection_after_listen_changes_nothing(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        preconnection = here.preconnection(local="127.0.0.1:0")
        preconnection.transport.set("keepAliveTimeout", 5)
        listener = preconnection.listen()
        preconnection.add_local("127.0.0.1:70").add_remote("10.9.9.9:9").add_framer(Line())
        preconnection.transport.set("keepAliveTimeout", 99).require("multistreaming")
        async with listener:
            assert len(listener.local_endpoints) == 1
            async with here.to(listener).initiate(), await listener.accept() as server:
                assert str(server.stack) == "MEMORY-STREAM"
                assert server.properties["keepAliveTimeout"] == 5

    run(main, memory_network)


def test_remote_endpoints_filter_who_may_come(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network))
        for remotes in (["127.0.0.7", "[::1]:5"], ["127.0.0.7:4000"], [":4000"]):
            preconnection = here.preconnection(local=":0", remote=remotes)
            async with preconnection.listen() as listener:
                stranger = await here.to(listener, local="127.0.0.8:0").initiate()
                with pytest.raises(taps.ConnectionError):
                    await stranger.receive(max_length=1)
                friend = await here.to(listener, local="127.0.0.7:4000").initiate()
                server = await listener.accept()
                assert str(server.remote_endpoint) == "127.0.0.7:4000"
                abort_all(friend, server)
                await asyncio.sleep(0)

    run(main, memory_network)


def test_a_remote_endpoint_for_one_protocol_filters_that_one_alone(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network), MemoryMessages(memory_network))
        friend, other = "127.0.0.7", "127.0.0.8"
        remotes = [
            taps.RemoteEndpoint(ip_address=friend, protocol="memory-stream"),
            taps.RemoteEndpoint(ip_address=other, protocol="memory-messages"),
        ]
        async with here.preconnection(local="127.0.0.1:0", remote=remotes).listen() as listener:
            for protocol, welcome in (("memory-stream", friend), ("memory-messages", other)):
                there = listener.remote_endpoint.with_protocol(protocol)
                for address in (friend, other):
                    client = await here.to(there, local=f"{address}:0").initiate()
                    if address == welcome:
                        server = await listener.accept()
                        assert server.stack.transport.name == protocol
                        abort_all(client, server)
                    else:
                        with pytest.raises(taps.ConnectionError):
                            await client.receive(max_length=1)
            await turns()

    run(main, memory_network)


def test_a_plugins_own_identifiers_and_zones_are_filters_too(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    class Named(LayerFlow):
        remote: taps.RemoteEndpoint

        @property
        def remote_endpoint(self) -> taps.RemoteEndpoint:
            return self.remote

    class Names(MemoryStream):
        serves = frozenset({"ip", "_test.name"})
        next: Any = None

        async def listen(self, request: Any) -> Any:
            def incoming(flow: Any, admitted: Any) -> None:
                named = Named(flow)
                named.remote = self.next
                request.incoming(named, admitted)

            return await super().listen(dataclasses.replace(request, incoming=incoming))

    async def main() -> None:
        transport = Names(memory_network)
        here = world(transport)

        def named(name: str) -> taps.RemoteEndpoint:
            return taps.RemoteEndpoint(identifiers={"_test.name": name})

        def zoned(zone: str) -> taps.RemoteEndpoint:
            return taps.RemoteEndpoint(ip_address="fe80::1", interface=zone, port=9)

        for wanted, friend, stranger in (
            (named("me"), named("me"), named("you")),
            (named("me"), named("me"), zoned("eth0")),
            (zoned("eth0"), zoned("eth0"), zoned("eth1")),
        ):
            async with here.preconnection(local="127.0.0.1:0", remote=wanted).listen() as listener:
                got: list[Any] = []
                listener.on(taps.ConnectionReceived, lambda e, got=got: got.append(e.connection))
                clients = []
                for transport.next in (stranger, friend):
                    clients += await clients_of(here, listener, 1)
                    await turns()
                assert [server.remote_endpoint for server in got] == [friend]
                abort_all(*clients, *got)
                await turns()

    run(main, memory_network)


def test_each_connection_tells_by_which_stack_and_address_it_came(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryStream(memory_network), MemoryMessages(memory_network))
        async with here.listen(at=["127.0.0.1:70", "10.0.0.1:71"]) as listener:
            for place in ("127.0.0.1:70", "10.0.0.1:71"):
                for protocol in ("memory-stream", "memory-messages"):
                    there = taps.RemoteEndpoint.parse(place).with_protocol(protocol)
                    client = await here.to(there).initiate()
                    server = await listener.accept()
                    assert str(server.local_endpoint) == place
                    assert server.stack.transport.name == protocol
                    abort_all(client, server)

    run(main, memory_network)


def test_nothing_is_handed_over_before_everything_is_open(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    """A Listener that fails half-way has delivered nothing."""
    go = asyncio.Event()

    class Late(MemoryStream):
        async def listen(self, request: Any) -> Any:
            if request.local.port == 71:
                await go.wait()
                raise taps.EstablishmentError("too late")
            return await super().listen(request)

    async def main() -> None:
        here = world(Late(memory_network))
        listener = here.listen(at=["127.0.0.1:70", "10.0.0.1:71"])
        got: list[Any] = []
        listener.on(taps.ConnectionReceived, got.append)
        while not memory_network.open_listeners:
            await turns(1)
        client = await here.to("127.0.0.1:70").initiate()
        await turns()
        go.set()
        with pytest.raises(taps.EstablishmentError, match="too late"):
            await listener
        assert got == []
        with pytest.raises(taps.ConnectionError):
            await client.receive(max_length=1)

    run(main, memory_network)


# ------------------------------------------------------------------- handshakes


@pytest.mark.requirement("R-9623-4.7.1-01", "R-9621-3.4-01")
def test_a_failed_handshake_of_one_peer_touches_no_other(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        secured = world(MemoryStream(memory_network), MemoryTLS())
        bare = world(MemoryStream(memory_network))
        async with secured.listen(echo, framers=Line()) as listener:
            waiting = await clients_of(bare, listener, 1)  # says nothing at all
            garbage = await clients_of(bare, listener, 3)
            for client in garbage:
                await client.send(b"GET / HTTP/1.1\r\n\r\n")
            async with secured.to(listener, framers=Line()).initiate() as client:
                await client.send(b"fine")
                assert (await client.receive()).data == b"fine"
            for client in garbage:
                with pytest.raises(taps.ConnectionError):
                    await client.receive(max_length=1)
            assert waiting[0].state is taps.ConnectionState.ESTABLISHED
        # Stopping has ended what was shaking hands.
        with pytest.raises(taps.ConnectionError):
            await waiting[0].receive(max_length=1)

    run(main, memory_network)


def test_handshakes_run_side_by_side_under_a_cap_and_a_deadline(
    run: Run,
    world: Any,
    memory_network: MemoryNetwork,
    turns: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taps_core.runtime.listener.HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr("taps_core.runtime.listener.MAX_HANDSHAKES", 8)

    async def main() -> None:
        secured = world(MemoryStream(memory_network), MemoryTLS())
        bare = world(MemoryStream(memory_network))
        async with secured.listen(echo, framers=Line()) as listener:
            silent = await clients_of(bare, listener, 20)
            await turns()
            assert 8 <= len(listener._handshakes) < 20
            # Whoever comes behind gets through once those before timed out.
            async with secured.to(listener, framers=Line()).initiate() as client:
                await client.send(b"fine")
                assert (await client.receive()).data == b"fine"
            for each in silent:
                with pytest.raises(taps.ConnectionError):
                    await each.receive(max_length=1)

    run(main, memory_network)


class Silent(Framer):
    """Waits for a word of the peer before it is ready."""

    boundaries = False

    def start(self) -> None:
        """Says nothing."""

    def handle_received_data(self) -> None:
        parsed = self.parse(1, 1)
        if parsed is not None:
            self.advance_receive_cursor(1)
            self.start_passthrough()
            self.make_connection_ready()

    def new_sent_message(self, data: Any, context: Any, end_of_message: bool) -> None:
        self.send(data, end_of_message)


def test_framers_that_wait_for_the_peer_are_handshakes_too(
    run: Run,
    world: Any,
    memory_network: MemoryNetwork,
    turns: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taps_core.runtime.listener.HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr("taps_core.runtime.listener.MAX_HANDSHAKES", 4)

    async def main() -> None:
        here = world(MemoryStream(memory_network))
        async with here.listen(framers=Silent) as listener:
            silent = await clients_of(here, listener, 10)
            await turns()
            assert 4 <= len(listener._handshakes) < 10
            late = (await clients_of(here, listener, 1))[0]
            await late.send(b"!hello")
            server = await listener.accept()  # once those before have had their time
            assert (await server.receive(max_length=5)).data == b"hello"
            for each in silent:
                with pytest.raises(taps.ConnectionError):
                    await each.receive(max_length=1)
            # Stopping ends those that are at it, and waits for none.
            last = (await clients_of(here, listener, 1))[0]
            await turns()
            listener.stop()
            await listener.stopped()
            with pytest.raises(taps.ConnectionError):
                await last.receive(max_length=1)
            assert server.state is taps.ConnectionState.ESTABLISHED
            abort_all(late, server)

    run(main, memory_network)


def test_a_layers_bug_on_one_inbound_flow_is_reported_and_touches_no_other(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    class Fragile(MemoryTLS):
        calls = 0

        async def accept(self, lower: Any, request: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("a bug")
            return await super().accept(lower, request)

    async def main() -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reports.append(context["exception"])
        )
        here = world(MemoryStream(memory_network), Fragile())
        async with here.listen(echo) as listener:
            with pytest.raises(taps.EstablishmentError):
                await here.to(listener).initiate()
            async with here.to(listener).initiate() as client:
                await client.send(b"x")
                assert (await client.receive(max_length=1)).data == b"x"
        assert [type(each) for each in reports] == [RuntimeError]

    run(main, memory_network)


# ------------------------------------------------------------------- many


def test_2000_connections_at_once_and_every_echo_right(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    many = 2000

    async def main() -> None:
        here = world(MemoryStream(memory_network, backlog=many))
        everybody = asyncio.Barrier(many)

        async with here.listen(echo, framers=LengthPrefix()) as listener:

            async def use(number: int) -> None:
                async with here.to(listener, framers=LengthPrefix()).initiate() as client:
                    await everybody.wait()
                    for turn in range(3):
                        mine = b"%d/%d" % (number, turn)
                        await client.send(mine)
                        assert (await client.receive()).data == mine

            async with asyncio.TaskGroup() as group:
                for number in range(many):
                    group.create_task(use(number))
        await here.system.close()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.2-02")
def test_every_transport_hands_over_connections_that_are_usable_at_once(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        async with here.listen() as listener:
            got: list[Any] = []

            def welcome(event: taps.ConnectionReceived) -> None:
                event.connection.send_nowait(b"welcome")
                got.append(event.connection)

            listener.on(taps.ConnectionReceived, welcome)
            async with here.to(listener).initiate() as client:
                await client.send(b"hello")
                assert (await client.receive(max_length=7)).data == b"welcome"
                assert (await got[0].receive(max_length=5)).data == b"hello"
            got[0].abort()

    run(main, memory_network)


def test_whatever_is_cancelled_while_it_stops_every_port_is_freed(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    # As where a loop ends and cancels all that runs.
    class Slow(MemoryStream):
        async def listen(self, request: ListenRequest) -> ListeningFlow:
            door = await super().listen(request)
            close = door.close

            async def slowly() -> None:
                try:
                    await turns(3)
                finally:
                    await close()

            door.close = slowly  # type: ignore[method-assign]  # a door that takes its time
            return door

    async def main() -> None:
        here = world(Slow(memory_network))
        for turn in range(1, 8):
            listener = await here.listen(at=["127.0.0.1:0", "127.0.0.2:0"])
            events = listener.events()
            assert memory_network.open_listeners == 2
            listener.stop()
            await turns(turn)
            for task in here.system.runtime().tasks:
                task.cancel()
            await listener.stopped()
            assert [type(event) async for event in events] == [taps.Stopped]
            assert memory_network.open_listeners == 0

    run(main, memory_network)
