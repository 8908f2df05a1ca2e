"""What happens to a Connection, from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

import neatpy
import taps_core as taps
from neatpy import ConnectionState

from .conftest import Log, World, all_of, called, over, received, sent, turns, until

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


def test_nothing_fires_before_handlers_can_be_assigned(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        connection = memory.initiate(listener)
        assert connection.state is ConnectionState.ESTABLISHING
        ready = called(connection, "HANDLE_STATE_READY")
        assert not ready.done()
        assert await ready is connection
        assert connection.state is ConnectionState.ESTABLISHED
        connection.stop()
        await over()

    run(main)


def test_several_connections_of_one_preconnection_have_their_own_events(
    run: Run, memory: World
) -> None:
    async def main() -> None:
        listener = await memory.listen()
        preconnection = memory.preconnection(remote_endpoint=memory.to(listener))
        connections = [preconnection.initiate() for _ in range(3)]
        ready = [called(each, "HANDLE_STATE_READY") for each in connections]
        assert await asyncio.gather(*ready) == connections
        connections[0].stop()
        await over()

    run(main)


def test_what_was_sent_before_ready_arrives_in_order(run: Run, memory: World) -> None:
    """The original kept one such Message and lost the others."""

    async def main() -> None:
        listener = await memory.listen()
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = memory.initiate(listener)
        for number in range(100):
            client.send(b"%02d" % number)
        server = (await accepted)[0]
        assert await all_of(server, 200) == b"".join(b"%02d" % n for n in range(100))
        client.stop()
        await over()

    run(main)


def test_close_delivers_what_was_sent(run: Run, memory: World) -> None:
    """The original dropped it."""

    async def main() -> None:
        async with memory.pair() as (client, server):
            outcome, handler = sent()
            closed = called(client, "HANDLE_STATE_CLOSED")
            client.send(b"x" * 1_000_000, handler)
            client.close()
            client.close()
            assert client.state is ConnectionState.CLOSING
            assert await all_of(server, 1_000_000) == b"x" * 1_000_000
            assert await outcome is None
            assert await closed is client
            assert client.state is ConnectionState.CLOSED

    run(main)


def test_the_end_of_the_peer_closes_this_side_too(run: Run, memory: World) -> None:
    """Also if nobody has asked for more."""

    async def main() -> None:
        async with memory.pair() as (client, server):
            ended = called(server, "HANDLE_STATE_CLOSED")
            closed = called(client, "HANDLE_STATE_CLOSED")
            client.close()
            assert await ended is server
            assert await closed is client

    run(main)


def test_an_answer_to_the_peers_last_message_arrives(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            last = neatpy.MessageContext()
            last.add(neatpy.MessageProperties.FINAL, True)
            client.send(b"question", None, last)
            server.receive(lambda *_: server.send(b"answer"))
            assert (await received(client)).data == b"answer"

    run(main)


def test_abort_ends_at_once_and_is_told(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            log, there = Log(client), Log(server)
            failed = called(server, "HANDLE_STATE_CONNECTION_ERROR")
            client.abort()
            client.abort()
            await failed
            await turns()
            assert log.names == ["CONNECTION_ERROR"]
            assert there.names == []
            assert client.state is server.state is ConnectionState.CLOSED

    run(main)


def test_nothing_follows_the_last_handler(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            log = Log(client)
            client.receive(log.noting("received"))
            client.send(b"a", log.noting("sent"))
            client.close()
            server.close()
            await called(server, "HANDLE_STATE_CLOSED")
            await until(lambda: client.state is ConnectionState.CLOSED)
            client.receive(log.noting("too late"))
            client.close()
            client.abort()
            await turns()
            assert log.names == ["sent", "received", "CLOSED"]

    run(main)


def test_a_send_on_a_closed_connection_is_told_why_not(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            client.close()
            closing, handler = sent()
            client.send(b"too late", handler)
            server.close()
            await called(client, "HANDLE_STATE_CLOSED")
            closed, handler = sent()
            client.send(b"later still", handler)
            assert await closing is await closed is neatpy.SendErrorReason.CONNECTION_CLOSING

    run(main)


def test_who_cannot_be_reached_is_told_by_the_handlers_there_are(
    run: Run, memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The original stopped the loop, or the process."""

    async def main() -> None:
        listener = await memory.listen()
        remote = memory.to(listener)
        listener.stop()
        await called(listener, "HANDLE_STATE_STOPPED")
        told: list[Any] = []
        preconnection = memory.preconnection(
            remote_endpoint=remote, unfulfilled_handler=lambda: told.append("unfulfilled")
        )
        connection = preconnection.initiate()
        outcome, handler = sent()
        connection.send(b"lost", handler)
        connection.HANDLE_STATE_CONNECTION_ERROR = told.append
        assert await outcome is neatpy.SendErrorReason.FAILURE_UNDERLYING_STACK
        await over()
        assert told == ["unfulfilled", connection]
        assert connection.state is ConnectionState.CLOSED

    with caplog.at_level(logging.ERROR, "neatpy"):
        run(main)
    assert "could not be established" in caplog.text


def test_what_cannot_be_fulfilled_is_told(run: Run, memory: World) -> None:
    async def main() -> None:
        properties = neatpy.TransportProperties(neatpy.TransportPropertyProfiles.RELIABLE_MESSAGE)
        unfulfilled = asyncio.get_running_loop().create_future()
        remote = neatpy.RemoteEndpoint()
        remote.with_address("127.0.0.1")
        remote.with_port(7)
        _ = memory.preconnection(
            remote_endpoint=remote,
            transport_properties=properties,
            unfulfilled_handler=lambda: unfulfilled.set_result(None),
        ).initiate()
        await unfulfilled
        await over()

    run(main)


def test_a_timeout_ends_establishment(virtual_run: Any, virtual_network: Any) -> None:
    async def scenario(net: Any) -> None:
        net.path(loss=1.0)
        net.host("server.example")
        remote = neatpy.RemoteEndpoint()
        remote.with_hostname("server.example")
        remote.with_port(7)
        before = asyncio.get_running_loop().time()
        connection = neatpy.Preconnection(remote_endpoint=remote).initiate(timeout=3)
        await called(connection, "HANDLE_STATE_CONNECTION_ERROR")
        assert asyncio.get_running_loop().time() - before == pytest.approx(3)

    virtual_run(scenario)


@pytest.mark.parametrize("verb", ["close", "abort"])
def test_a_connection_that_is_not_ready_can_be_given_up(run: Run, memory: World, verb: str) -> None:
    async def main() -> None:
        listener = await memory.listen()
        connection = memory.initiate(listener)
        log = Log(connection)
        getattr(connection, verb)()
        listener.stop()
        await over()
        assert log.names == ["CLOSED" if verb == "close" else "CONNECTION_ERROR"]

    run(main)


def test_endpoints_are_needed_and_nothing_exits(memory: World) -> None:
    """The original called sys.exit."""
    preconnection = neatpy.Preconnection()
    for verb in ("initiate", "listen", "rendezvous"):
        with pytest.raises(taps.EstablishmentError, match="needs a"):
            getattr(preconnection, verb)()
    with pytest.raises(taps.EstablishmentError, match="Remote"):
        preconnection.initiate_with_send(b"", None)


def test_a_handler_that_raises_ends_nothing(
    run: Run, memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The original's loop ended with it."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a mistake of the program")

    async def main() -> None:
        listener = await memory.listen(received=broken)
        client = memory.initiate(listener)
        client.HANDLE_STATE_READY = broken
        client.receive(broken)
        client.send(b"a", broken)
        await until(lambda: listener.number_of_connections == 1)
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        other = await memory.ready(listener)
        other.send(b"still here")
        assert (await received((await accepted)[0])).data == b"still here"
        client.HANDLE_STATE_CLOSED = broken
        client.stop()
        await over()

    with caplog.at_level(logging.ERROR, "neatpy"):
        run(main)
    assert caplog.text.count("RuntimeError: a mistake of the program") == 5


def test_a_hundred_connections_at_a_time_keep_their_data_apart(run: Run, memory: World) -> None:
    async def main() -> None:
        def echo(connection: Any, message: Any, context: Any, end: Any, error: Any) -> None:
            if error is None:
                connection.send(message.data)
                connection.receive(echo)

        listener = await memory.listen(received=lambda connection: connection.receive(echo))
        clients = await asyncio.gather(*(memory.ready(listener) for _ in range(100)))

        async def talk(number: int, client: neatpy.Connection) -> None:
            for each in range(20):
                data = b"%03d-%03d" % (number, each)
                client.send(data)
                assert await all_of(client, len(data)) == data

        await asyncio.gather(*(talk(*each) for each in enumerate(clients)))
        assert listener.number_of_connections == 100
        listener.stop()
        clients[0].stop()
        await over()

    run(main)


def test_initiate_with_send_sends_first_and_tells(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        outcome, handler = sent()
        preconnection = memory.preconnection(remote_endpoint=memory.to(listener))
        client = preconnection.initiate_with_send(bytearray(b"first"), handler)
        client.send(b"second")
        assert await outcome is None
        assert await all_of((await accepted)[0], 11) == b"firstsecond"
        client.stop()
        await over()

    run(main)


def test_initiate_with_send_that_leads_nowhere_has_no_send_error(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        remote = memory.to(listener)
        listener.stop()
        await over()
        told: list[Any] = []
        for framers in ((), (neatpy.ExampleFramer(),)):
            preconnection = memory.preconnection(*framers, remote_endpoint=remote)
            client = preconnection.initiate_with_send(b"first", lambda *_: told.append("sent"))
            failed = called(client, "HANDLE_STATE_CONNECTION_ERROR")
            assert await failed is client
        await over()
        assert told == []

    run(main)


def test_the_properties_of_a_connection(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        client = memory.initiate(listener)
        before = client.get_properties()
        assert (before["state"], before["send"]) == (ConnectionState.ESTABLISHING, True)
        wanted = before["props"].selection_properties[neatpy.SelectionProperties.RELIABILITY]
        assert wanted is neatpy.PreferenceLevel.REQUIRE
        await called(client, "HANDLE_STATE_READY")
        props = client.get_properties()["props"]
        assert props.selection_properties[neatpy.SelectionProperties.RELIABILITY] is True
        boundaries = neatpy.SelectionProperties.PRESERVE_MSG_BOUNDARIES
        assert props.selection_properties[boundaries] is False
        assert props.connection_properties[neatpy.ConnectionProperties.PRIORITY] == 100
        last = neatpy.MessageContext()
        last.add(neatpy.MessageProperties.FINAL, True)
        client.send(b"", None, last)
        after = client.get_properties()
        assert (after["send"], after["receive"]) == (False, True)
        client.close()
        closing = client.get_properties()
        assert (closing["state"], closing["receive"]) == (ConnectionState.CLOSING, False)
        client.stop()
        await over()

    run(main)


def test_endpoints_of_a_connection_are_told(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            assert client.remote_endpoint is not None
            assert server.local_endpoint is not None
            assert client.remote_endpoint.port == server.local_endpoint.port
            server.send(b"x")
            context = (await received(client)).context
            remote = context.get_remote_endpoint()
            assert remote is not None
            assert remote.port == client.remote_endpoint.port
            assert context.get_local_endpoint() == client.local_endpoint

    run(main)
