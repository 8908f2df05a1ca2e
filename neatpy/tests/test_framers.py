"""Framers: one object for all Connections, several on top of each other, any cut of the bytes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neatpy
from neatpy import ExampleFramer, Framer, SendErrorReason
from taps_core.testing import MemoryMessages, MemoryNetwork, MemoryStream, run

from .conftest import Log, World, called, over, received, sent, turns, until

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run


class Careless(Framer):
    """Written like those of NEATPy's time: it never looks whether there is enough."""

    def start(self, connection: Any) -> None:
        pass

    def new_sent_message(
        self, connection: Any, data: Any, context: Any, handler: Any, end: bool
    ) -> None:
        framed = len(data).to_bytes(4, "big") + data
        connection.message_framer.send(connection, framed, context, handler, end)

    def handle_received_data(self, connection: Any) -> None:
        header, context, _ = connection.message_framer.parse(connection, 4, 4)
        length = int.from_bytes(header, byteorder="big")  # a TypeError, without a header
        connection.message_framer.advance_receive_cursor(connection, 4)
        connection.message_framer.deliver_and_advance_receive_cursor(
            connection, context, length, True
        )


class FiveBytes(Framer):
    """Fixed lengths, and claims what has not arrived."""

    def start(self, connection: Any) -> None:
        pass

    def new_sent_message(
        self, connection: Any, data: Any, context: Any, handler: Any, end: bool
    ) -> None:
        connection.message_framer.send(connection, b"HEADER" + data, context, handler, end)

    def handle_received_data(self, connection: Any) -> None:
        _, context, _ = connection.message_framer.parse(connection, 6, 6)
        connection.message_framer.advance_receive_cursor(connection, 6)
        connection.message_framer.deliver_and_advance_receive_cursor(connection, context, 5, True)


class Upper(Framer):
    """Makes Messages of its own: no cursor is moved by ``deliver``."""

    def start(self, connection: Any) -> None:
        pass

    def new_sent_message(
        self, connection: Any, data: Any, context: Any, handler: Any, end: bool
    ) -> None:
        connection.message_framer.send(connection, b"<" + data + b">", context, handler, end)

    def handle_received_data(self, connection: Any) -> None:
        data, context, _ = connection.message_framer.parse(connection, 1, 10_000_000)
        closing = data.find(b">")
        if closing < 0:
            return
        connection.message_framer.advance_receive_cursor(connection, closing + 1)
        connection.message_framer.deliver(connection, context, data[1:closing].upper(), True)


class Greeting(FiveBytes):
    """Says something before the first Message, and after the last one."""

    def start(self, connection: Any) -> None:
        connection.message_framer.send(connection, b"HEADERhello", None, None, True)

    def stop(self, connection: Any) -> None:
        connection.message_framer.send(connection, b"HEADERadieu", None, None, True)


class Broken(Careless):
    def handle_received_data(self, connection: Any) -> None:
        raise RuntimeError("no Message at all")

    def new_sent_message(self, *_: Any) -> None:
        raise RuntimeError("cannot be framed")


@pytest.mark.parametrize("framer", [ExampleFramer, Careless])
def test_messages_arrive_one_by_one(run: Run, memory: World, framer: type[Framer]) -> None:
    """Also those that came together; the original's framers lost all but the first."""

    async def main() -> None:
        async with memory.pair(framer()) as (client, server):
            lines = [b"one", b"", b"three" * 1000, b"four"]
            for line in lines:
                client.send(line)
            for line in lines:
                got = await received(server)
                assert (got.data, got.end, got.error) == (line, None, None)

    run(main)


def test_what_is_on_the_wire_is_the_length_and_the_data(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen()
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await memory.ready(listener, ExampleFramer())
        client.send(b"abc")
        assert (await received((await accepted)[0], 7)).data == b"\0\0\0\3abc"
        client.stop()
        await over()

    run(main)


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=8),
    st.lists(st.integers(1, 30), min_size=1, max_size=10),
    st.sampled_from([ExampleFramer, Careless]),
)
def test_any_cut_of_the_bytes_gives_the_same_messages(
    messages: list[bytes], cuts: list[int], framer: type[Framer]
) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        with World(MemoryStream(network)).use() as memory:
            listener = await memory.listen(framer())
            accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
            client = await memory.ready(listener)
            server = (await accepted)[0]
            wire = b"".join(len(each).to_bytes(4, "big") + each for each in messages)
            step = 0
            while wire:
                size = cuts[step % len(cuts)]
                step += 1
                client.send(wire[:size])
                wire = wire[size:]
                await turns(3)
            assert [(await received(server)).data for _ in messages] == messages
            client.stop()
            await over()

    run(main)


def test_a_framer_may_claim_what_has_not_arrived(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen(FiveBytes())
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await memory.ready(listener)
        server = (await accepted)[0]
        for byte in b"HEADERFIVE!HEADERworld":
            client.send(bytes([byte]))
            await turns(2)
        assert [(await received(server)).data for _ in range(2)] == [b"FIVE!", b"world"]
        client.stop()
        await over()

    run(main)


def test_the_framer_added_last_is_nearest_the_application(run: Run, memory: World) -> None:
    """The original gave received data to one framer only."""

    async def main() -> None:
        framers = (ExampleFramer(), Upper())
        async with memory.pair(*framers) as (client, server):
            for each in (b"one", b"two"):
                client.send(each)
            assert [(await received(server)).data for _ in range(2)] == [b"ONE", b"TWO"]
        listener = await memory.listen()
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await memory.ready(listener, *framers)
        client.send(b"x")
        assert (await received((await accepted)[0], 7)).data == b"\0\0\0\3<x>"
        client.stop()
        await over()

    run(main)


def test_one_framer_serves_connections_side_by_side(run: Run, memory: World) -> None:
    async def main() -> None:
        framer = ExampleFramer()
        listener = await memory.listen(framer)
        accepted: list[neatpy.Connection] = []
        listener.HANDLE_CONNECTION_RECEIVED = accepted.append
        clients = await asyncio.gather(*(memory.ready(listener, framer) for _ in range(5)))
        await until(lambda: len(accepted) == 5)
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        data = await asyncio.gather(*map(received, accepted))
        assert sorted(each.data for each in data) == [b"%d" % number for number in range(5)]
        listener.stop()
        clients[0].stop()
        await over()

    run(main)


def test_a_framer_speaks_first_and_last(run: Run, memory: World) -> None:
    async def main() -> None:
        listener = await memory.listen(FiveBytes())
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = memory.initiate(listener, Greeting())
        client.send(b"early")
        await called(client, "HANDLE_STATE_READY")
        client.send(b"later")
        client.close()
        server = (await accepted)[0]
        data = [(await received(server)).data for _ in range(4)]
        assert data == [b"hello", b"early", b"later", b"adieu"]
        listener.stop()
        await over()

    run(main)


def test_a_sent_handler_runs_once_whatever_a_framer_makes_of_the_message(
    run: Run, memory: World
) -> None:
    class Pieces(Careless):
        def new_sent_message(
            self, connection: Any, data: Any, context: Any, handler: Any, end: bool
        ) -> None:
            framer = connection.message_framer
            framer.send(connection, len(data).to_bytes(4, "big"), None, handler, True)
            framer.send(connection, data, None, handler, True)

    class Silent(Careless):
        def new_sent_message(self, *_: Any) -> None:
            pass

    async def main() -> None:
        async with memory.pair(Pieces()) as (client, server):
            told: list[Any] = []
            client.send(b"abc", lambda _, reason: told.append(reason))
            assert (await received(server)).data == b"abc"
            await turns()
            assert told == [None]
        async with memory.pair(Silent()) as (client, _):
            outcome, handler = sent()
            client.send(b"swallowed", handler)
            assert await outcome is None
        async with memory.pair(Broken()) as (client, _):
            outcome, handler = sent()
            client.send(b"lost", handler)
            assert await outcome is SendErrorReason.FAILURE_UNDERLYING_STACK

    run(main)


def test_a_framer_that_fails_ends_its_connection_alone(
    run: Run, memory: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The original's loop ended with it."""

    async def main() -> None:
        listener = await memory.listen(Broken())
        accepted: list[neatpy.Connection] = []
        listener.HANDLE_CONNECTION_RECEIVED = accepted.append
        clients = [await memory.ready(listener) for _ in range(2)]
        await until(lambda: len(accepted) == 2)
        failed = called(accepted[0], "HANDLE_STATE_CONNECTION_ERROR")
        answer = asyncio.ensure_future(received(accepted[0]))
        await turns()
        clients[0].send(b"anything")
        assert "no Message at all" in ((await answer).error or "")
        await failed
        assert accepted[1].state is neatpy.ConnectionState.ESTABLISHED
        listener.stop()
        clients[1].stop()
        await over()

    with caplog.at_level(logging.ERROR, "neatpy"):
        run(main)
    assert "no Message at all" in caplog.text


def test_memory_is_bounded_where_a_framer_takes_nothing(
    run: Run, memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neatpy.message_framer.MAX_UNPARSED", 100_000)

    class Idle(Careless):
        def handle_received_data(self, connection: Any) -> None:
            pass

    async def main() -> None:
        listener = await memory.listen(Idle())
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await memory.ready(listener)
        failed = called((await accepted)[0], "HANDLE_STATE_CONNECTION_ERROR")
        log = Log(client)
        client.send(bytes(1_000_000))
        await failed
        await until(lambda: log.names == ["CONNECTION_ERROR"])
        listener.stop()
        await over()

    run(main)


def test_a_huge_claim_is_delivered_in_parts(
    run: Run, memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that says four gigabytes are to come costs no memory for them."""
    monkeypatch.setattr("neatpy._receiving.MAX_WHOLE", 100_000)

    async def main() -> None:
        listener = await memory.listen(ExampleFramer())
        accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
        client = await memory.ready(listener)
        server = (await accepted)[0]
        client.send(b"\xff\xff\xff\xff" + bytes(250_000))
        got = await received(server)
        assert got.end is False
        assert len(got.data) >= 100_000
        client.stop()
        await over()

    run(main)


def test_framed_messages_in_parts_and_limits(run: Run, memory: World) -> None:
    async def main() -> None:
        async with memory.pair(ExampleFramer()) as (client, server):
            client.send(b"0123456789")
            got = [await received(server, None, 6) for _ in range(2)]
            assert [(each.data, each.end) for each in got] == [(b"012345", False), (b"6789", True)]

    run(main)


def test_over_messages_a_frame_that_is_cut_off_costs_that_message(
    run: Run, memory_network: MemoryNetwork, world: Any
) -> None:
    async def main() -> None:
        with world(MemoryMessages(memory_network)).use() as messages:
            listener = await messages.listen(ExampleFramer())
            accepted = called(listener, "HANDLE_CONNECTION_RECEIVED")
            client = await messages.ready(listener)
            server = (await accepted)[0]
            client.send(b"\0\0\0\3abc")
            assert (await received(server)).data == b"abc"
            answer = asyncio.ensure_future(received(server))
            await turns()
            client.send(b"\0\0\0\x09cut")
            assert (await answer).error
            client.send(b"\0\0\0\3def")
            assert (await received(server)).data == b"def"
            client.stop()
            await over()

    run(main)


def test_values_for_a_framer_travel_in_the_context(run: Run, memory: World) -> None:
    class Marks(Careless):
        def new_sent_message(
            self, connection: Any, data: Any, context: Any, handler: Any, end: bool
        ) -> None:
            mark = context.get("mark", self) or b"-"
            super().new_sent_message(connection, mark + data, context, handler, end)

    async def main() -> None:
        framer = Marks()
        async with memory.pair(framer) as (client, server):
            context = neatpy.MessageContext()
            context.add("mark", b"+", framer)
            client.send(b"marked", None, context)
            client.send(b"not")
            assert [(await received(server)).data for _ in range(2)] == [b"+marked", b"-not"]

    run(main)


def test_only_framers_can_be_added_and_only_there_are_actions(run: Run, memory: World) -> None:
    with pytest.raises(TypeError, match="inherits Framer"):
        neatpy.Preconnection().add_framer(ExampleFramer)  # type: ignore[arg-type]  # the point

    async def main() -> None:
        async with memory.pair() as (client, _):
            with pytest.raises(AttributeError, match="no framer"):
                _ = client.message_framer
        async with memory.pair(ExampleFramer(), Upper()) as (client, _):
            with pytest.raises(RuntimeError, match="outside of an event"):
                client.message_framer.send(client, b"whose?")

    run(main)
