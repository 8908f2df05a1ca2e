"""Listeners: several of them, limits, handlers, stopping; and clones."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest

import neatpy
from neatpy import ConnectionState, ListenErrorReasons
from taps_core.testing import MemoryMessages, MemoryNetwork

from .conftest import World, called, over, received, sent, turns, until

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


def test_two_listeners_have_each_their_own_connections(run: Run, memory: World) -> None:
    """The original's second Listener stole those of the first."""

    async def main() -> None:
        first, second = await memory.listen(), await memory.listen()
        here: dict[str, list[neatpy.Connection]] = {"first": [], "second": []}
        first.HANDLE_CONNECTION_RECEIVED = here["first"].append
        second.HANDLE_CONNECTION_RECEIVED = here["second"].append
        for listener in (first, second, first):
            await memory.ready(listener)
        await until(lambda: len(here["first"]) == 2 and len(here["second"]) == 1)
        assert [each.listener for each in here["first"]] == [first, first]
        assert here["second"][0].listener is second
        here["first"][0].stop()
        await over()

    run(main)


def test_a_limit_counts_all_that_have_come(run: Run, memory: World) -> None:
    async def main() -> None:
        came: list[neatpy.Connection] = []
        listener = await memory.listen(received=came.append)
        listener.set_new_connection_limit(2)
        clients = [memory.initiate(listener) for _ in range(5)]
        await until(lambda: len(came) == 2)
        await turns()
        assert len(came) == listener.number_of_connections == 2
        listener.set_new_connection_limit(3)
        await until(lambda: len(came) == 3)
        listener.reset_connection_limit()
        assert listener.connection_limit == math.inf
        await until(lambda: len(came) == 5)
        for wrong in (-1, 1.5):
            with pytest.raises(ValueError, match="whole number"):
                listener.set_new_connection_limit(wrong)
        clients[0].stop()
        await over()

    run(main)


def test_a_limit_that_is_set_before_it_listens_holds(run: Run, memory: World) -> None:
    async def main() -> None:
        came: list[neatpy.Connection] = []
        listener = memory.preconnection(local_endpoint=memory.local()).listen()
        listener.HANDLE_CONNECTION_RECEIVED = came.append
        listener.set_new_connection_limit(1)
        await called(listener, "HANDLE_STATE_LISTENING")
        clients = [memory.initiate(listener) for _ in range(3)]
        await until(lambda: came)
        await turns()
        assert len(came) == 1
        clients[0].stop()
        await over()

    run(main)


def test_stopping_is_told_and_connections_live_on(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            listener = server.listener
            assert listener is not None
            stopped = called(listener, "HANDLE_STATE_STOPPED")
            server.stop_listener()
            assert await stopped == ()
            assert listener.local_endpoints == []
            client.send(b"still here")
            assert (await received(server)).data == b"still here"
            client.stop_listener()  # it has none

    run(main)


def test_a_listener_that_is_stopped_before_it_began_never_listens(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = memory.preconnection(local_endpoint=memory.local()).listen()
        listener.HANDLE_STATE_LISTENING = lambda: pytest.fail("it was stopped")
        stopped = called(listener, "HANDLE_STATE_STOPPED")
        listener.stop()
        await stopped
        await over()

    run(main)


def test_why_it_does_not_listen_is_told(
    run: Run, memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The original called sys.exit."""

    async def main() -> None:
        first = await memory.listen()
        taken = memory.local(first.local_endpoints[0].port or 0)
        told: list[Any] = []
        preconnection = memory.preconnection(
            local_endpoint=taken, unfulfilled_handler=lambda: told.append("unfulfilled")
        )
        second = preconnection.listen()
        second.HANDLE_STATE_LISTEN_ERROR = told.append
        await until(lambda: len(told) == 2)
        assert told == [ListenErrorReasons.UNRESOLVED_LOCAL_ENDPOINT, "unfulfilled"]
        wishes = neatpy.TransportProperties(neatpy.TransportPropertyProfiles.RELIABLE_MESSAGE)
        third = memory.preconnection(
            local_endpoint=memory.local(), transport_properties=wishes
        ).listen()
        reason = await called(third, "HANDLE_STATE_LISTEN_ERROR")
        assert reason is ListenErrorReasons.UNFULFILLED_PROPERTIES
        first.stop()
        await over()

    with caplog.at_level(logging.ERROR, "neatpy"):
        run(main)
    assert "cannot listen" in caplog.text


def test_a_handler_gets_the_arguments_that_it_takes(run: Run, memory: World) -> None:
    """The documentation has handlers of one and of five arguments for the same."""
    told: list[Any] = []

    class Program:
        def method(self, connection: Any) -> None:
            told.append(("method", type(connection)))

        def __call__(self, *arguments: Any) -> None:
            told.append(("any", len(arguments)))

    async def main() -> None:
        listener = await memory.listen()

        async def one(handler: Any) -> None:
            listener.HANDLE_CONNECTION_RECEIVED = handler
            before = listener.number_of_connections
            await memory.ready(listener)
            await until(lambda: listener.number_of_connections > before)

        await one(lambda connection: told.append(("one", type(connection))))
        await one(lambda c, message, context, end, error: told.append((message, context, end)))
        await one(Program().method)
        await one(Program())
        await one(lambda: told.append("none"))
        await one(lambda connection, *, mark="default": told.append(mark))
        listener.HANDLE_CONNECTION_RECEIVED = None
        client = await memory.ready(listener)
        client.send(b"", lambda: told.append("sent"))
        client.send(b"", lambda connection: told.append(("sent", type(connection))))
        client.send(b"", lambda connection, reason=0: told.append(("sent", reason)))
        await until(lambda: len(told) >= 9)
        assert told == [
            ("one", neatpy.Connection),
            (None, None, None),
            ("method", neatpy.Connection),
            ("any", 5),
            "none",
            "default",
            "sent",
            ("sent", neatpy.Connection),
            ("sent", None),
        ]
        client.stop()
        await over()

    run(main)


def test_a_clone_is_a_connection_of_the_same_kind(run: Run, memory: World) -> None:
    async def main() -> None:
        came: list[neatpy.Connection] = []
        listener = await memory.listen(neatpy.ExampleFramer(), received=came.append)
        client = await memory.ready(listener, neatpy.ExampleFramer())
        clone = client.clone(lambda: pytest.fail("it can be cloned"))
        assert clone.parent is client
        clone.send(b"early")
        assert await called(clone, "HANDLE_STATE_READY") is clone
        await until(lambda: len(came) == 2)
        assert (await received(came[1])).data == b"early"
        client.send(b"apart")
        assert (await received(came[0])).data == b"apart"
        clone.close()
        await called(came[1], "HANDLE_STATE_CLOSED")
        assert client.state is ConnectionState.ESTABLISHED
        client.stop()
        await over()

    run(main)


def test_a_clone_of_a_clone_and_before_ready(run: Run, memory: World) -> None:
    async def main() -> None:
        came: list[neatpy.Connection] = []
        listener = await memory.listen(received=came.append)
        client = memory.initiate(listener)
        clone = client.clone(print)
        further = clone.clone(print)
        await called(further, "HANDLE_STATE_READY")
        await until(lambda: len(came) == 3)
        client.stop()
        await over()

    run(main)


def test_a_clone_that_cannot_be_is_told_with_its_parent(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair() as (client, server):
            failed = asyncio.get_running_loop().create_future()
            clone = server.clone(failed.set_result)  # whom the peer has opened
            log: list[Any] = []
            clone.HANDLE_STATE_CONNECTION_ERROR = log.append
            assert await failed is server
            assert clone.state is ConnectionState.CLOSED
            await turns()
            assert log == [clone]
            outcome, handler = sent()
            clone.send(b"nowhere", handler)
            assert await outcome is not None
            assert client.state is ConnectionState.ESTABLISHED

    run(main)


def test_properties_are_shared_with_clones_but_for_the_priority(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        client = await memory.ready(listener)
        clone = client.clone(print)
        await called(clone, "HANDLE_STATE_READY")
        timeout = neatpy.ConnectionProperties.TIMEOUT_FOR_ABORTING_CONNECTION
        priority = neatpy.ConnectionProperties.PRIORITY
        client.set_property(timeout, 30)
        client.set_property(priority, 7)
        held = clone.get_properties()["props"].connection_properties
        assert (held[timeout], held[priority]) == (30, 100)
        client.stop()
        await over()

    run(main)


def test_messages_over_a_protocol_with_streams_of_its_own(
    run: Run, memory_network: MemoryNetwork, world: Any
) -> None:
    """What the peer opens comes to the Listener, as its first Connection did."""

    async def main() -> None:
        with world(MemoryMessages(memory_network)).use() as messages:
            came: list[neatpy.Connection] = []
            listener = await messages.listen(received=came.append)
            client = await messages.ready(listener)
            clones = [client.clone(print) for _ in range(3)]
            for number, clone in enumerate(clones):
                clone.send(b"%d" % number)
            await until(lambda: len(came) == 4)
            data = await asyncio.gather(*map(received, came[1:]))
            assert sorted(each.data for each in data) == [b"0", b"1", b"2"]
            client.stop()
            await over()

    run(main)
