"""The seam: one program for every kind of transport, and what layers and streams add to it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import taps_core as taps
from taps_core.plugin import Framer, Transport
from taps_core.testing import (
    MemoryCookies,
    MemoryDatagram,
    MemoryMessages,
    MemoryNetwork,
    MemorySecure,
    MemoryStream,
    MemoryTLS,
)
from taps_framers import LengthPrefix, Line

if TYPE_CHECKING:
    from taps_core.testing.fixtures import Run

FRAMED = LengthPrefix(2)


async def ended(connection: taps.Connection[Any]) -> list[Any]:
    """Every event that is left, to the last."""
    return [event async for event in connection.events()]


async def next_member(listener: taps.Listener, known: taps.Connection[Any]) -> Any:
    """What the peer's Clone makes here: a stream of the group, or a Connection of its own."""
    streams = known.incoming()
    tasks = [asyncio.ensure_future(anext(streams)), asyncio.ensure_future(listener.accept())]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.wait(tasks)
    return done.pop().result()


# -------------------------------------------------------- one body for all four transports


@pytest.mark.requirement("G-9622-7.2-02", "R-9621-3.1-01")
def test_initiate_and_listen(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        async with (
            here.listen(framers=FRAMED) as listener,
            here.to(listener, framers=FRAMED).initiate() as client,
        ):
            await client.send(b"question")
            async with await listener.accept() as server:
                assert (await server.receive()).data == b"question"
                await server.send(b"answer")
                assert (await client.receive()).data == b"answer"
                assert str(client.stack) == f"length-prefix/{memory_transport.label}"
                assert client.remote_endpoint.port == server.local_endpoint.port
                assert server.accepted
                assert not client.accepted

    run(main, memory_network)


@pytest.mark.requirement("G-9622-9.2.2-01", "G-9622-11-02")
def test_initiate_with_send(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        async with here.listen(framers=FRAMED) as listener:
            for _ in range(2):  # the second time there may be a ticket for early data
                client = here.to(listener, framers=FRAMED).initiate_with_send(
                    b"first", safely_replayable=True
                )
                events = client.events()
                client.send_nowait(b"second", priority=0)
                async with client, await listener.accept() as server:
                    assert (await server.receive()).data == b"first"
                    assert (await server.receive()).data == b"second"
                    server.abort()
                seen = [type(event).__name__ async for event in events]
                assert seen[:3] == ["Ready", "Sent", "Sent"]
                assert "Sent" not in seen[3:]

    run(main, memory_network)


@pytest.mark.requirement("G-9622-9.1.3.5-01")
def test_final(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        async with (
            here.listen(framers=FRAMED) as listener,
            here.to(listener, framers=FRAMED).initiate() as client,
        ):
            await client.send(b"last", final=True)
            with pytest.raises(taps.SendError):
                await client.send(b"more")
            assert not client.properties["canSend"]
            async with await listener.accept() as server:
                assert (await server.receive()).data == b"last"
                await server.send(b"answer")
                assert (await client.receive()).data == b"answer"
                if memory_transport.capabilities.half_close:
                    assert [message async for message in server] == []
                    assert server.properties["receivedFinal"]

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.4-04", "G-9622-10-03")
def test_clone(
    run: Run, world: Any, memory_transport: Transport, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        async with (
            here.listen(framers=FRAMED) as listener,
            here.to(listener, framers=FRAMED).initiate() as client,
        ):
            await client.send(b"x")
            server = await listener.accept()
            async with client.clone() as clone:
                assert client.grouped_connections() == {client, clone}
                await clone.send(b"y")
                other = await next_member(listener, server)
                assert (await other.receive()).data == b"y"
                await other.send(b"z")
                assert (await clone.receive()).data == b"z"
            # One member's end is not the others'.
            other.abort()
            assert client.grouped_connections() == {client}
            await client.send(b"again")
            assert [(await server.receive()).data for _ in "12"] == [b"x", b"again"]
            await client.close()
            server.abort()

    run(main, memory_network)


@pytest.mark.requirement("G-9622-10-01", "G-9622-10-02")
@pytest.mark.parametrize("action", ["close_group", "abort_group"])
def test_close_group_and_abort_group(
    run: Run,
    world: Any,
    memory_transport: Transport,
    memory_network: MemoryNetwork,
    action: str,
) -> None:
    async def main() -> None:
        here = world(memory_transport)
        received: list[bytes] = []
        all_there = asyncio.Event()

        async def read(connection: taps.Connection[Any]) -> None:
            async with connection:
                async for message in connection:
                    received.append(message.data)
                    if len(received) == 3:
                        all_there.set()

        async def serve(connection: taps.Connection[Any]) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(read(connection))
                async for stream in connection.incoming():
                    group.create_task(read(stream))

        async with here.listen(serve, framers=FRAMED, grace=0) as listener:
            client = await here.to(listener, framers=FRAMED).initiate()
            members = [client, await client.clone(), await client.clone()]
            ends = [asyncio.ensure_future(ended(member)) for member in members]
            await asyncio.sleep(0)
            for member in members:
                member.send_nowait(b"x" * 1000)
            getattr(client, action)()
            for end in await asyncio.gather(*ends):
                if action == "close_group":
                    assert isinstance(end[-1], taps.Closed)
                else:
                    assert isinstance(end[-1], taps.ConnectionError)
                    assert end[-1].reason is taps.Reason.LOCAL_ABORT
            assert client.grouped_connections() == set()
            if action == "close_group":
                await all_there.wait()

    run(main, memory_network)


def test_the_core_names_no_protocol() -> None:
    """No protocol branch: what the core knows of protocols is hints, and words in comments."""
    core = Path(taps.__file__).parent
    named = re.compile(r"""["'](tcp|mptcp|udp|sctp|quic|d?tls|memory-\w+)\b""", re.IGNORECASE)
    found = [
        f"{path.relative_to(core)}: {line.strip()}"
        for layer in ("model", "planning", "runtime")
        for path in sorted((core / layer).glob("*.py"))
        if path.name != "conflicts.py"  # hints such as «install taps-quic»
        for line in re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL).splitlines()
        if named.search(line.partition("#")[0])
    ]
    assert found == []


# ------------------------------------------------------------------------ layers


class Knock(Framer):
    """Both sides knock in plaintext, then it is out of the way: as before STARTTLS."""

    below_security = True
    boundaries = False

    def start(self) -> None:
        self.send(b"KNOCK", end_of_message=False)

    def handle_received_data(self) -> None:
        if (knock := self.parse(5, 5)) is not None:
            assert knock.data == b"KNOCK"
            self.advance_receive_cursor(5)
            self.make_connection_ready()
            self.start_passthrough()


@pytest.mark.requirement("R-9621-3.3-03", "G-9622-9.1.2.1-01")
def test_a_framer_can_stand_below_security_and_others_above_it(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    wire: list[bytes] = []
    memory_network.wiretap = wire.append
    framers = [Knock, FRAMED, Line()]

    async def main() -> None:
        here = world(MemoryStream(memory_network), MemoryTLS())
        async with (
            here.listen(framers=framers) as listener,
            here.to(listener, framers=framers).initiate() as client,
        ):
            await client.send(b"secret")
            async with await listener.accept() as server:
                assert (await server.receive()).data == b"secret"
                assert str(server.stack) == "line/length-prefix/MEMORY-TLS/Knock/MEMORY-STREAM"

    run(main, memory_network)
    assert wire[:2] == [b"KNOCK"] * 2
    assert wire[2].startswith(b"memory-tls hello")
    # Two bytes alone would be there by chance now and then, in a checksum.
    for hidden in (b"secret", b"secret\n", b"\x00\x07s"):
        assert hidden not in b"".join(wire[4:])


@pytest.mark.requirement("R-9621-3.3-03", "R-9622-6.3-01", "R-9623-4.4.1-01")
@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_no_plaintext_passes_below_a_security_layer(
    run: Run, world: Any, memory_network: MemoryNetwork, kind: str
) -> None:
    wire: list[bytes] = []
    memory_network.wiretap = wire.append

    async def main() -> None:
        if kind == "stream":
            here = world(MemoryStream(memory_network), MemoryTLS())
        else:
            here = world(MemoryDatagram(memory_network), MemoryCookies())
        async with here.listen(framers=FRAMED) as listener:
            client = here.to(listener, framers=FRAMED).initiate_with_send(
                b"secret", safely_replayable=True
            )
            _ = client.send(b"secret, too")
            async with client, await listener.accept() as server:
                assert (await server.receive()).data == b"secret"
                assert (await server.receive()).data == b"secret, too"
                await server.send(b"a secret back")
                assert (await client.receive()).data == b"a secret back"

    run(main, memory_network)
    assert wire
    assert not any(b"secret" in each for each in wire)


@pytest.mark.requirement("R-9623-4.7.2-02")
def test_the_door_of_a_datagram_listener_keeps_nothing_of_strangers(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        secured = world(MemoryDatagram(memory_network), MemoryCookies())
        bare = world(MemoryDatagram(memory_network))
        async with secured.listen() as listener:
            strangers = [await bare.to(listener).initiate() for _ in range(50)]
            for stranger in strangers:
                await stranger.send(b"let me in")
            await asyncio.sleep(0)
            assert memory_network.open_flows == 50  # theirs alone
            async with secured.to(listener).initiate() as client:
                await client.send(b"hello")
                async with await listener.accept() as server:
                    assert (await server.receive()).data == b"hello"
            for stranger in strangers:
                stranger.abort()

    run(main, memory_network)


# ------------------------------------------------------------------------ early data


class Early:
    """A server on ``memory-secure`` that knows the client, so that early data may travel."""

    def __init__(self, world: Any, network: MemoryNetwork, **how: Any) -> None:
        self.here = world(MemorySecure(network, **how))
        self.network = network

    async def exchange(
        self, framers: Any = None, **properties: Any
    ) -> tuple[list[str], taps.Message[Any]]:
        """Events of the client, and the first Message at the server."""
        async with self.here.listen(framers=framers) as listener:
            remote = listener.remote_endpoint
            self.network.tickets.add((remote.ip_address, remote.port))
            preconnection = self.here.to(listener, framers=framers)
            client = preconnection.initiate_with_send(b"early", **properties)
            events = client.events()
            async with client, await listener.accept() as server:
                message = await server.receive(max_length=5)
                server.abort()
            return [type(event).__name__ async for event in events], message


@pytest.mark.requirement("G-9622-9.2.2-01")
@pytest.mark.parametrize("framers", [None, FRAMED], ids=["bare", "framed"])
def test_early_data_is_taken_sent_once_and_marked_at_the_peer(
    run: Run, world: Any, memory_network: MemoryNetwork, framers: Any
) -> None:
    async def main() -> None:
        early = Early(world, memory_network)
        events, message = await early.exchange(framers, safely_replayable=True)
        assert message.data == b"early"
        assert message.context.early_data
        # Not before Ready: only the winner of a race decides what was sent.
        assert [name for name in events if name in ("Ready", "Sent")] == ["Ready", "Sent"]

    run(main, memory_network)


@pytest.mark.parametrize("how", [{"accepts_early": False}, {"most_early": 4}], ids=str)
@pytest.mark.parametrize("framers", [None, FRAMED], ids=["bare", "framed"])
def test_refused_early_data_is_sent_after_the_handshake(
    run: Run, world: Any, memory_network: MemoryNetwork, how: Any, framers: Any
) -> None:
    async def main() -> None:
        early = Early(world, memory_network, **how)
        events, message = await early.exchange(framers, safely_replayable=True)
        assert message.data == b"early"
        assert not message.context.early_data
        assert events.count("Sent") == 1

    run(main, memory_network)


@pytest.mark.requirement("R-9622-9.1.3.4-01")
def test_what_is_not_safely_replayable_is_never_early_data(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        early = Early(world, memory_network)
        # The Preconnection says that Messages are, by default; this one is not.
        _, message = await early.exchange(safely_replayable=False)
        assert not message.context.early_data
        _, message = await early.exchange()
        assert message.context.early_data

    run(main, memory_network)


@pytest.mark.requirement("G-9622-9.1.3.5-01")
@pytest.mark.parametrize("accepts_early", [True, False])
def test_an_early_message_can_be_the_final_one(
    run: Run, world: Any, memory_network: MemoryNetwork, accepts_early: bool
) -> None:
    async def main() -> None:
        here = world(MemorySecure(memory_network, accepts_early=accepts_early))
        async with here.listen(framers=FRAMED) as listener:
            remote = listener.remote_endpoint
            memory_network.tickets.add((remote.ip_address, remote.port))
            client = here.to(listener, framers=FRAMED).initiate_with_send(
                b"all", safely_replayable=True, final=True
            )
            with pytest.raises(taps.SendError):
                await client.send(b"more")
            async with client, await listener.accept() as server:
                assert [message.data async for message in server] == [b"all"]
                await server.send(b"answer")
                assert (await client.receive()).data == b"answer"

    run(main, memory_network)


def test_a_stack_that_takes_no_early_data_is_offered_none(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    offered: list[Any] = []

    class Curious(MemoryStream):
        async def connect(self, request: Any) -> Any:
            offered.append(request.early)
            return await super().connect(request)

    async def main() -> None:
        here = world(Curious(memory_network), MemoryTLS())
        async with here.listen() as listener:
            client = here.to(listener).initiate_with_send(b"x", safely_replayable=True)
            async with client, await listener.accept() as server:
                assert (await server.receive(max_length=1)).data == b"x"

    run(main, memory_network)
    assert offered == [None]


# ------------------------------------------------------------------------ streams of the peer


class Association:
    """Two ends of an association: ``client`` clones, ``server`` gets streams."""

    def __init__(self, world: Any, network: MemoryNetwork) -> None:
        self._here = world(MemoryMessages(network))
        self.client: Any = None
        self.server: Any = None

    async def __aenter__(self) -> Self:
        self._listener = await self._here.listen()
        self.client = await self._here.to(self._listener).initiate()
        self.server = await self._listener.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.abort_group()
        self.server.abort_group()
        self._listener.stop()
        await self._listener.stopped()

    async def streams(self, number: int) -> list[taps.Connection[Any]]:
        """Clones of the client, each with its number as first Message."""
        clones = [await self.client.clone() for _ in range(number)]
        for number, clone in enumerate(clones):
            await clone.send(b"%d" % number)
        return clones


@pytest.mark.requirement("R-9623-10.6-01")
def test_streams_of_the_peer_join_the_group(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        async with Association(world, memory_network) as both:
            streams = both.server.incoming()
            await both.streams(3)
            for number in range(3):
                stream = await anext(streams)
                assert stream.accepted
                assert stream.stack is both.server.stack
                assert (await stream.receive()).data == b"%d" % number
                assert {both.server, stream} <= both.server.grouped_connections()
            both.server.abort_group()
            with pytest.raises(StopAsyncIteration):
                await anext(streams)

    run(main, memory_network)


@pytest.mark.requirement("G-9622-7.2-02")
def test_a_handler_of_any_member_can_take_the_streams(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Association(world, memory_network) as both:
            taken: list[Any] = []
            both.server.on(taps.ConnectionReceived, lambda event: taken.append(event.connection))
            await both.streams(2)
            await turns()
            assert [(await stream.receive()).data for stream in taken] == [b"0", b"1"]
            # The first stream's handler does as well as the others'.
            taken[0].on(taps.ConnectionReceived, lambda event: taken.append("by the stream"))
            both.client.send_nowait(b"x")
            await both.streams(1)
            await turns()
            assert "by the stream" in taken

    run(main, memory_network)


def test_streams_can_be_wanted_before_the_connection_is_ready(
    run: Run, world: Any, memory_network: MemoryNetwork
) -> None:
    async def main() -> None:
        here = world(MemoryMessages(memory_network))
        async with here.listen() as listener:
            client = here.to(listener).initiate()
            streams = client.incoming()
            await client
            server = await listener.accept()
            clone = await server.clone()  # also the side that was called can open streams
            await clone.send(b"from the server")
            stream = await anext(streams)
            assert (await stream.receive()).data == b"from the server"
            client.abort_group()
            server.abort_group()

    run(main, memory_network)


def test_a_cancelled_wait_for_a_stream_loses_none_and_keeps_the_order(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Association(world, memory_network) as both:
            streams = both.server.incoming()
            first, second = (asyncio.ensure_future(anext(streams)) for _ in range(2))
            await turns()
            await both.streams(2)
            first.cancel()  # in the turn in which the stream may have been given to it
            assert (await (await second).receive()).data == b"0"
            assert (await (await anext(streams)).receive()).data == b"1"
            with pytest.raises(asyncio.CancelledError):
                await first

    run(main, memory_network)


def test_the_peer_may_open_as_many_streams_as_group_conn_limit_says(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Association(world, memory_network) as both:
            both.server.set_property("groupConnLimit", 2)
            streams = both.server.incoming()
            await both.streams(2)
            with pytest.raises(taps.CloneError) as caught:
                await both.client.clone()
            assert caught.value.reason is taps.Reason.NOT_CLONEABLE
            assert caught.value.transient
            await turns()  # the server takes what is there
            both.server.set_property("group_conn_limit", 1)
            await both.streams(1)
            assert [(await (await anext(streams)).receive()).data for _ in range(3)] == [
                b"0",
                b"1",
                b"0",
            ]

    run(main, memory_network)


def test_streams_that_nobody_can_know_of_end_with_the_group(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        here = world(MemoryMessages(memory_network))
        async with here.listen() as listener:
            client = await here.to(listener).initiate()
            server = await listener.accept()
            server.incoming()  # wanted, and dropped again
            clone = await client.clone()
            await clone.send(b"for nobody")
            await turns()
            assert len(server.grouped_connections()) == 2
            server.abort()
            assert server.grouped_connections() == set()
            with pytest.raises(taps.ConnectionError):
                await clone.receive()
            client.abort()
        await here.system.close()  # would warn of what is open

    run(main, memory_network)


def test_a_stream_that_waits_is_kept_while_somebody_iterates(
    run: Run, world: Any, memory_network: MemoryNetwork, turns: Any
) -> None:
    async def main() -> None:
        async with Association(world, memory_network) as both:
            streams = both.server.incoming()
            await both.streams(1)
            await turns()
            both.server.abort()
            stream = await anext(streams)
            assert (await stream.receive()).data == b"0"
            stream.abort()
            assert [each async for each in streams] == []

    run(main, memory_network)
