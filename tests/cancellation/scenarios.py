"""One scenario for each thing that an application may await, and what must hold then.

A scenario sets up, yields what is cancelled, and looks at what is left: each
Message was received once or is still there, what was cancelled was done whole
or not at all, and whatever outlives the cancellation can be used on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import taps_core as taps
from taps_core.planning.staggering import RESOLUTION_DELAY
from taps_core.runtime.resolver import Resolver
from taps_core.runtime.survey import of_this_machine
from tests.cancellation.places import turns

if TYPE_CHECKING:
    from tests.cancellation.places import Kind, Place

__all__ = ["COVERED", "SCENARIOS", "ScenarioAt"]

Act: TypeAlias = Callable[[], Awaitable[Any]]
Connection: TypeAlias = "taps.Connection[Any]"
ScenarioAt: TypeAlias = "Callable[[Place], AbstractAsyncContextManager[Act]]"

#: What it is called → the scenario, and the kinds of stack that it is for.
SCENARIOS: dict[str, tuple[ScenarioAt, Callable[[Kind], bool]]] = {}
#: Every public coroutine that a scenario cancels, as ``Class.method``.
COVERED: set[str] = set()


def covers(
    *names: str, where: Callable[[Kind], bool] = lambda kind: True
) -> Callable[[Callable[[Place], AsyncIterator[Act]]], ScenarioAt]:
    """Register a scenario.

    Args:
        *names: The public coroutines in which it waits.
        where: The kinds of stack on which it can play.
    """

    def register(function: Callable[[Place], AsyncIterator[Act]]) -> ScenarioAt:
        made = contextlib.asynccontextmanager(function)
        SCENARIOS[function.__name__] = made, where
        COVERED.update(names)
        return made

    return register


def connected(kind: Kind) -> bool:
    return kind.connected


def in_memory(kind: Kind) -> bool:
    return kind.in_memory


def streams(kind: Kind) -> bool:
    return kind.streams


def only(name: str) -> Callable[[Kind], bool]:
    return lambda kind: kind.name == name


class Collector:
    """A handler that keeps what comes, until it is no more."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def __call__(self, connection: Connection) -> None:
        async for message in connection:
            self.got.append(message.data)


async def many(connection: Connection, number: int) -> list[bytes]:
    """So many Messages."""
    async with asyncio.timeout(10):
        return [(await connection.receive()).data for _ in range(number)]


async def up_to(connection: Connection, last: bytes) -> list[bytes]:
    """All Messages before the one with these data."""
    found: list[bytes] = []
    async with asyncio.timeout(10):
        while (data := (await connection.receive()).data) != last:
            found.append(data)
    return found


async def check_usable(client: Connection, server: Connection) -> None:
    """Messages still pass both ways."""
    await client.send(b"there")
    assert await many(server, 1) == [b"there"]
    await server.send(b"and back")
    assert await many(client, 1) == [b"and back"]


def of_clients(place: Place, listener: taps.Listener) -> list[object]:
    """What is open on the client's side: Connections, and flows below them."""
    port = listener.remote_endpoint.port
    return [
        *(each for each in place.system.runtime().connections if not each.accepted),
        *(flow for flow in place.network.flows if flow.remote_endpoint.port == port),  # type: ignore[union-attr]  # flows in memory have one
    ]


# ------------------------------------------------------------- establishment


@covers("Connection.__await__")
async def initiate(place: Place) -> AsyncIterator[Act]:
    """It is there, or nothing of it is."""
    made: list[Connection] = []

    async with place.listen(Collector()) as listener:

        async def act() -> None:
            made.append(await place.to(listener).initiate())

        yield act
        if not made:
            assert not of_clients(place, listener)
        await place.end(*made)


@covers("Connection.__await__")
async def initiate_where_the_first_address_refuses(place: Place) -> AsyncIterator[Act]:
    """A race of several, in which all but the winner are over."""
    made: list[Connection] = []

    async with place.listen(Collector()) as listener:
        async with place.listen() as gone:
            nobody = gone.remote_endpoint

        async def act() -> None:
            there = place.preconnection(remote=[nobody, listener.remote_endpoint])
            made.append(await there.initiate())

        yield act
        if not made:
            assert not of_clients(place, listener)
        await place.end(*made)


@covers("Connection.__await__", where=in_memory)
async def initiate_across_a_distance(place: Place) -> AsyncIterator[Act]:
    """Timers of the network are steps as well."""
    made: list[Connection] = []
    place.network.delay("127.0.0.1", 0.001)
    try:
        async with place.listen(Collector()) as listener:

            async def act() -> None:
                made.append(await place.to(listener).initiate())

            yield act
            if not made:
                assert not of_clients(place, listener)
            await place.end(*made)
            # What is on the way finds nobody, but finds it in time.
            await asyncio.sleep(0.002)
    finally:
        place.network.delay("127.0.0.1", 0)


@covers("Connection.__await__")
async def initiate_while_the_candidates_change(place: Place) -> AsyncIterator[Act]:
    """What was being tried is given up as if it had been cancelled."""
    made: list[Connection] = []

    async with place.listen(Collector()) as listener:
        async with place.listen() as gone:
            nobody = gone.remote_endpoint

        async def act() -> None:
            connection = place.to(listener).initiate()

            def change(change_one: Callable[[Any], None]) -> None:
                if connection.state is taps.ConnectionState.ESTABLISHING:
                    change_one(nobody)

            loop = asyncio.get_running_loop()
            loop.call_soon(change, connection.add_remote)
            loop.call_soon(loop.call_soon, change, connection.remove_remote)
            made.append(await connection)

        yield act
        if not made:
            assert not of_clients(place, listener)
        await place.end(*made)


@covers("Connection.__await__", where=only("stream"))
async def initiate_that_loads_the_plugins(place: Place) -> AsyncIterator[Act]:
    """The first Connection of a System imports plugins in a thread."""
    made: list[Connection] = []

    async with place.listen(Collector()) as listener:
        fresh = taps.System(plugins=place.kind.plugins(place.network))

        async def act() -> None:
            there = place.preconnection(remote=listener.remote_endpoint, system=fresh)
            made.append(await there.initiate())

        yield act
        if not made:
            assert not fresh.runtime().connections
            assert not fresh.runtime().tasks
        await place.end(*made)


@covers("LoopRuntime.load_paths", where=only("tcp"))
async def initiate_that_loads_what_tells_of_paths(place: Place) -> AsyncIterator[Act]:
    """The first Connection by a path imports it in a thread."""
    made: list[Connection] = []

    async with place.listen(Collector()) as listener:
        fresh = taps.System(plugins=place.system.registry)
        of_this_machine.cache_clear()

        async def act() -> None:
            there = place.preconnection(
                remote=listener.remote_endpoint,
                system=fresh,
                transport=taps.TransportProperties().prefer(interface="loopback"),
            )
            made.append(await there.initiate())

        yield act
        if not made:
            assert not fresh.runtime().connections
            assert not fresh.runtime().tasks
        await place.end(*made)


@covers("Connection.__await__")
async def initiate_with_send(place: Place) -> AsyncIterator[Act]:
    """The early Message arrives once, or not at all."""
    made: list[Connection] = []
    peer = Collector()

    async with place.listen(peer) as listener:
        if place.kind.name == "secure":
            # The ticket for early data comes with the first one.
            async with place.to(listener).initiate():
                pass

        async def act() -> None:
            there = place.to(listener)
            made.append(await there.initiate_with_send(b"early", safely_replayable=True))

        yield act
        if made:
            await place.until(lambda: peer.got)
        else:
            assert not of_clients(place, listener)
        assert peer.got in ([], [b"early"])
        await place.end(*made)


@covers("Connection.__aenter__", "Connection.__aexit__")
async def a_block_around_a_connection(place: Place) -> AsyncIterator[Act]:
    """Of a block that was left in order all has arrived; of another nothing is left."""
    peer = Collector()
    left = False

    async with place.listen(peer) as listener:

        async def act() -> None:
            nonlocal left
            async with place.to(listener).initiate() as connection:
                for number in range(3):
                    await connection.send(b"%d" % number)
            left = True

        yield act
        assert not of_clients(place, listener)
        if left:
            await place.until(lambda: len(peer.got) == 3)
        assert peer.got == [b"0", b"1", b"2"][: len(peer.got)]


@covers("Connection.__aexit__", where=connected)
async def leaving_a_block_while_the_peer_is_slow(place: Place) -> AsyncIterator[Act]:
    """Close delivers all that was sent; cancelled while it does, it aborts."""
    left = False
    async with place.pair() as (client, server):
        reading = asyncio.create_task(slowly(server))

        async def act() -> None:
            nonlocal left
            async with client:
                for _ in range(4):
                    client.send_nowait(bytes(LARGE))
            left = True

        yield act
        if left:
            assert await reading == [bytes(LARGE)] * 4
        else:
            client.abort()  # of a block that was never entered
            with contextlib.suppress(taps.ConnectionError):
                assert await reading == [bytes(LARGE)] * 4
        assert client.state is taps.ConnectionState.CLOSED


#: More than a stack in memory holds.
LARGE = 128 * 1024


async def slowly(connection: Connection, *, close: bool = True) -> list[bytes]:
    """All that comes; then the end of this side too."""
    found = []
    async for message in connection:
        found.append(message.data)
        await turns(2)
    if close:
        _ = connection.close()
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def meeting(place: Place, *, first: bool) -> AsyncIterator[Act]:
    """Rendezvous with a peer that is there already, or comes later."""
    one, two = free_port(), free_port()
    made: list[Connection] = []
    peers: list[Connection] = []

    def peer() -> None:
        there = place.preconnection(local=f"127.0.0.1:{two}", remote=f"127.0.0.1:{one}")
        peers.append(there.rendezvous(timeout=10))

    async def act() -> None:
        there = place.preconnection(local=f"127.0.0.1:{one}", remote=f"127.0.0.1:{two}")
        made.append(await there.rendezvous(timeout=10))

    later = None
    if first:
        later = asyncio.get_running_loop().call_later(0.005, peer)
    else:
        peer()
        await asyncio.sleep(0.005)
    yield act
    if later is not None and not peers:
        later.cancel()
    if made:
        await peers[0]
        await check_usable(made[0], peers[0])
    await place.end(*made, *peers)


@covers("Connection.__await__", where=only("tcp"))
async def rendezvous(place: Place) -> AsyncIterator[Act]:
    """There is one connection, or no socket."""
    async with meeting(place, first=False) as act:
        yield act


@covers("Connection.__await__", where=only("tcp"))
async def rendezvous_before_the_peer_comes(place: Place) -> AsyncIterator[Act]:
    """The peer's SYN finds our door; then there are two sockets for a while."""
    async with meeting(place, first=True) as act:
        yield act


class NameServer(asyncio.DatagramProtocol):
    """Knows one name: 127.0.0.1; seconds later, that there is no address of IPv6."""

    def __init__(self, late: float = 0.0) -> None:
        self.late = late
        self.answers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        import dns.message
        import dns.rdatatype
        import dns.rrset

        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        name, kind = query.question[0].name, query.question[0].rdtype
        if kind == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "127.0.0.1"))
        late = self.late if kind == dns.rdatatype.AAAA else 0.0
        loop = asyncio.get_running_loop()
        self.answers.append(
            loop.call_later(late, self.transport.sendto, response.to_wire(), address)
        )

    def connection_lost(self, error: Exception | None) -> None:
        for answer in self.answers:
            answer.cancel()


@contextlib.asynccontextmanager
async def asking(late: float = 0.0) -> AsyncIterator[tuple[taps.Preconnection, Resolver]]:
    """A Preconnection with a name, and whom it asks: DNS, anew each time."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        functools.partial(NameServer, late), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    resolver = Resolver(nameservers=["127.0.0.1"], port=port, hosts_file="/nowhere")
    system = taps.System(plugins=[], resolver=resolver)
    there = taps.Preconnection(remote="www.example:7", system=system)
    _, found = await there.resolve()  # dnspython is imported, in a thread
    assert [endpoint.ip_address for endpoint in found] == ["127.0.0.1"]
    resolver._made[0]._cache = None
    yield there, resolver
    transport.close()
    await turns()


@covers("Preconnection.resolve", where=only("tcp"))
async def resolve(place: Place) -> AsyncIterator[Act]:
    """No socket is left."""
    async with asking() as (there, _):
        yield there.resolve


@covers("Resolver.resolve", "Resolving.resolve", where=only("tcp"))
async def resolve_for_an_isolated_session(place: Place) -> AsyncIterator[Act]:
    """Nor of those that neither use nor leave an answer."""
    async with asking() as (there, resolver):
        yield functools.partial(resolver.isolated().resolve, *there.remote_endpoints)


@covers("Resolver.trickle", "Trickle.__anext__", "Trickle.aclose", where=only("tcp"))
async def take_answers_as_they_come(place: Place) -> AsyncIterator[Act]:
    """Nor where the first answers are used, and the others waited for."""
    async with asking(RESOLUTION_DELAY * 1.2) as (there, resolver):

        async def trickle() -> None:
            first, later = await resolver.isolated().trickle(*there.remote_endpoints)
            assert [endpoint.ip_address for endpoint in first] == ["127.0.0.1"]
            if later is not None:  # always, but on a machine that is slow
                async with contextlib.aclosing(later):
                    assert [more async for more in later] == []

        yield trickle


# ------------------------------------------------------------------ receiving


@contextlib.asynccontextmanager
async def arriving(place: Place, *messages: bytes) -> AsyncIterator[tuple[Connection, list[bytes]]]:
    """A Connection to which these come; what was taken goes into the list.

    At the end: nothing was lost, nothing came twice or out of order, and the
    Connection goes on.
    """
    async with place.pair() as (client, server):
        got: list[bytes] = []

        async def send() -> None:
            for message in messages:
                await turns(2)
                await server.send(message)

        sending = asyncio.create_task(send())
        yield client, got
        await sending
        while sum(map(len, got)) < sum(map(len, messages)):
            got += await many(client, 1)
        assert b"".join(got) == b"".join(messages)
        await check_usable(client, server)


@covers("Connection.receive")
async def receive(place: Place) -> AsyncIterator[Act]:
    async with arriving(place, b"one", b"two") as (client, got):

        async def act() -> None:
            got.append((await client.receive()).data)

        yield act


@covers("Connection.receive")
async def receive_many(place: Place) -> AsyncIterator[Act]:
    """After so many the loop runs."""
    messages = [b"%d" % number for number in range(300)]
    async with place.pair() as (client, server):
        for message in messages:
            server.send_nowait(message)
        taken: list[bytes] = []

        async def act() -> None:
            for _ in messages:
                taken.append((await client.receive()).data)

        yield act
        taken += await many(client, len(messages) - len(taken))
        assert taken == messages


@covers("Connection.receive")
async def receive_a_part(place: Place) -> AsyncIterator[Act]:
    async with arriving(place, b"one and two", b"three") as (client, got):

        async def act() -> None:
            got.append((await client.receive(min_incomplete_length=2, max_length=4)).data)
            got.append((await client.receive(max_length=4)).data)

        yield act


@covers("Connection.receive")
async def receive_behind_another(place: Place) -> AsyncIterator[Act]:
    """The first in line gets the first Message, whatever becomes of the second."""
    async with arriving(place, b"one", b"two") as (client, got):
        first = asyncio.create_task(many(client, 1))
        await turns(1)
        second: list[bytes] = []

        async def act() -> None:
            second.append((await client.receive()).data)

        yield act
        got += await first
        got += second
        assert got[0] == b"one"


@contextlib.asynccontextmanager
async def another_behind(place: Place, **lengths: int) -> AsyncIterator[Act]:
    """Who stands behind moves up, and is not left waiting for the next Message."""
    async with place.pair() as (client, server):
        got: list[bytes] = []
        behind: list[asyncio.Task[list[bytes]]] = []

        async def send() -> None:
            await turns(1)
            behind.append(asyncio.create_task(many(client, 1)))
            await turns(2)
            await server.send(b"one")

        sending = asyncio.create_task(send())

        async def act() -> None:
            got.append((await client.receive(**lengths)).data)

        yield act
        await sending
        if got:
            await server.send(b"two")
        got += await behind[0]
        assert got in ([b"one"], [b"one", b"two"])
        await check_usable(client, server)


@covers("Connection.receive")
async def receive_before_another(place: Place) -> AsyncIterator[Act]:
    async with another_behind(place) as act:
        yield act


@covers("Connection.receive")
async def receive_a_part_before_another(place: Place) -> AsyncIterator[Act]:
    """In the line itself, which whoever is the only one does not stand in."""
    async with another_behind(place, max_length=10) as act:
        yield act


@covers("Connection.receive_exactly")
async def receive_exactly(place: Place) -> AsyncIterator[Act]:
    async with arriving(place, b"one and two", b"three") as (client, got):

        async def act() -> None:
            got.append((await client.receive_exactly(3)).data)
            got.append((await client.receive_exactly(8)).data)

        yield act


@covers("Connection.receive_until")
async def receive_until(place: Place) -> AsyncIterator[Act]:
    async with arriving(place, b"one\ntwo\n", b"three") as (client, got):

        async def act() -> None:
            got.append((await client.receive_until(b"\n")).data)
            got.append((await client.receive_until(b"\n")).data)

        yield act


@covers("Connection.__anext__")
async def iterate_over_a_connection(place: Place) -> AsyncIterator[Act]:
    async with arriving(place, b"one", b"two", b"three") as (client, got):

        async def act() -> None:
            async for message in client:
                got.append(message.data)
                if len(got) == 3:
                    break

        yield act


@covers("Connection.__anext__", where=connected)
async def iterate_to_the_peers_end(place: Place) -> AsyncIterator[Act]:
    """The end is there for whoever comes next, and is told as an end."""
    async with place.pair() as (client, server):
        got: list[bytes] = []

        async def send() -> None:
            await server.send(b"one")
            await turns(2)
            await server.send(b"two", final=True)

        sending = asyncio.create_task(send())

        async def act() -> None:
            async for message in client:
                got.append(message.data)

        yield act
        await sending
        async with asyncio.timeout(10):
            got += [message.data async for message in client]
        assert got == [b"one", b"two"]
        await client.send(b"still there")
        assert await many(server, 1) == [b"still there"]


# -------------------------------------------------------------------- sending


@contextlib.asynccontextmanager
async def full(place: Place) -> AsyncIterator[tuple[Connection, Connection, list[bytes]]]:
    """A pair whose client has to wait to send, until the server begins to read.

    At the end: everything that had to wait arrives, in order. What comes
    behind it goes into the list.
    """
    async with place.pair() as (client, server):
        size = LARGE if place.kind.in_memory else 4 * LARGE
        count = 0
        while not client.queued[1]:
            client.send_nowait(bytes(size))
            count += 1
            await turns(3)
        behind: list[bytes] = []

        async def read() -> None:
            await turns(2)
            assert await many(server, count) == [bytes(size)] * count
            behind.extend(await up_to(server, b"after"))

        reading = asyncio.create_task(read())
        try:
            yield client, server, behind
        finally:
            await client.send(b"after")
            await reading


@covers("Connection.send")
async def send(place: Place) -> AsyncIterator[Act]:
    """At once: it has left when it is cancelled, and arrives."""
    async with place.pair() as (client, server):
        yield lambda: client.send(b"hello")
        assert await many(server, 1) == [b"hello"]
        await check_usable(client, server)


@covers("Connection.send")
async def send_many(place: Place) -> AsyncIterator[Act]:
    """After so many the loop runs: what was handed down arrives."""
    done = 0
    async with place.pair() as (client, server):

        async def act() -> None:
            nonlocal done
            for number in range(300):
                await client.send(b"%d" % number)
                done += 1

        yield act
        await client.send(b"after")
        got = await up_to(server, b"after")
        assert got == [b"%d" % number for number in range(len(got))]
        assert len(got) - done in (0, 1)


@covers("Connection.send", where=connected)
async def send_on_a_full_stack(place: Place) -> AsyncIterator[Act]:
    """It is withdrawn whole, or delivered whole."""
    done = False
    async with full(place) as (client, _, behind):

        async def act() -> None:
            nonlocal done
            await client.send(b"under test")
            done = True

        yield act
    assert behind in ([b"under test"],) if done else behind in ([], [b"under test"])


@covers("Connection.send", where=connected)
async def send_that_a_task_drives_itself(place: Place) -> AsyncIterator[Act]:
    """What ``create_task(connection.send(…))`` was given may be cancelled before it begins."""
    async with full(place) as (client, _, behind):
        yield lambda: client.send(b"under test")
    assert behind in ([], [b"under test"])


@covers("Connection.send")
async def send_before_ready(place: Place) -> AsyncIterator[Act]:
    """A Send that waits for Ready can be withdrawn; those before and behind it leave."""
    done = False
    peer = Collector()
    async with place.listen(peer) as listener:
        client = place.to(listener).initiate()
        client.send_nowait(b"first")

        async def act() -> None:
            nonlocal done
            await client.send(b"under test")
            done = True

        yield act
        await (await client).send(b"last")
        await place.until(lambda: b"last" in peer.got)
        assert peer.got[:1] == [b"first"]
        assert (
            peer.got[1:-1] == [b"under test"]
            if done
            else peer.got[1:-1]
            in (
                [],
                [b"under test"],
            )
        )
        await place.end(client)


@covers("Connection.send")
async def send_in_a_batch(place: Place) -> AsyncIterator[Act]:
    """The batch ends with its block: nothing waits for an end that never comes."""
    done = 0
    async with place.pair() as (client, server):

        async def act() -> None:
            nonlocal done
            with client.batch():
                for number in range(3):
                    await client.send(b"%d" % number)
                    done += 1
                    await turns(1)

        yield act
        got = await many(server, done)
        assert got == [b"0", b"1", b"2"][:done]
        await check_usable(client, server)


@contextlib.asynccontextmanager
async def in_parts(
    place: Place, length: int | None, client: Connection, server: Connection
) -> AsyncIterator[Act]:
    """Whole, or not at all; if some of it has left already, the Connection ends."""
    whole = b"one two three"
    done = False

    async def act() -> None:
        nonlocal done
        async with client.sending(length) as message:
            for part in (b"one ", b"two ", b"three"):
                await message.send(part)
                await turns(1)
        done = True

    yield act
    try:
        await client.send(b"after")
        got = await up_to(server, b"after")
    except taps.ConnectionError:
        assert not done
        return
    assert got == [whole] if done else got in ([], [whole])


@covers("Sending.__aenter__", "Sending.__aexit__", "Sending.send")
async def send_in_parts(place: Place) -> AsyncIterator[Act]:
    async with place.pair() as (client, server), in_parts(place, None, client, server) as act:
        yield act


@covers("Sending.__aenter__", "Sending.__aexit__", "Sending.send")
async def send_in_parts_of_known_length(place: Place) -> AsyncIterator[Act]:
    async with place.pair() as (client, server), in_parts(place, 13, client, server) as act:
        yield act


@covers("Sending.__aexit__", "Sending.send", where=connected)
async def send_in_parts_on_a_full_stack(place: Place) -> AsyncIterator[Act]:
    """While nothing of it has left it can be given up."""
    done = False
    async with place.pair() as (client, server):
        count = 0
        while not client.queued[1]:
            client.send_nowait(bytes(LARGE))
            count += 1
            await turns(3)

        async def read() -> list[bytes]:
            await turns(2)
            assert await many(server, count) == [bytes(LARGE)] * count
            return await up_to(server, b"after")

        async def act() -> None:
            nonlocal done
            async with client.sending() as message:
                await message.send(b"one ")
                await message.send(b"two")
            done = True

        reading = asyncio.create_task(read())
        yield act
        try:
            await client.send(b"after")
            got = await reading
        except taps.ConnectionError:
            await asyncio.wait([reading])
            _ = reading.exception()
            assert not done
            return
        assert got == [b"one two"] if done else got in ([], [b"one two"])


@covers("Connection.finish", where=connected)
async def finish(place: Place) -> AsyncIterator[Act]:
    """Said behind all that waits, or withdrawn; never half."""
    done = False
    async with place.pair() as (client, server):
        for _ in range(4):
            client.send_nowait(bytes(LARGE))
        reading = asyncio.create_task(slowly(server, close=False))

        async def act() -> None:
            nonlocal done
            await client.finish()
            done = True

        yield act
        await client.finish()  # again where it was withdrawn; once is enough
        assert await reading == [bytes(LARGE)] * 4
        await server.send(b"receiving goes on")
        assert await many(client, 1) == [b"receiving goes on"]
        with contextlib.suppress(taps.SendError):
            await client.send(b"too late")
            raise AssertionError("sent behind the end")


# ---------------------------------------------------------------- termination


@covers("Connection.close", where=connected)
async def close(place: Place) -> AsyncIterator[Act]:
    """Who stops waiting for Closed stops nothing else."""
    async with place.pair() as (client, server):
        for _ in range(4):
            client.send_nowait(bytes(LARGE))
        reading = asyncio.create_task(slowly(server))

        async def act() -> None:
            await client.close()

        yield act
        await client.close()
        assert await reading == [bytes(LARGE)] * 4
        assert not client._end_waiters


@covers("Connection.close")
async def close_by_the_bare_awaitable(place: Place) -> AsyncIterator[Act]:
    async with place.pair() as (client, server):
        closing = asyncio.create_task(slowly(server)) if place.kind.connected else None
        yield client.close
        await client.close()
        assert client.state is taps.ConnectionState.CLOSED
        if closing is not None:
            await closing


@covers("Connection.close", where=streams)
async def close_the_group(place: Place) -> AsyncIterator[Act]:
    """CloseGroup returns at once; its Connections are waited for one by one."""
    async with place.pair() as (client, server):
        others = [await client.clone(), await client.clone()]
        for each in others:
            await each.send(b"hello")
        client.close_group()

        async def act() -> None:
            for each in (client, *others):
                await each.close()

        yield act
        await act()
        async with asyncio.timeout(10):
            assert [message async for message in server] == []


# --------------------------------------------------------------------- groups


@covers("Connection.__await__")
async def clone(place: Place) -> AsyncIterator[Act]:
    """The group has one more member, or is as it was."""
    made: list[Connection] = []
    async with place.pair() as (client, server):

        async def act() -> None:
            made.append(await client.clone())

        yield act
        assert client.grouped_connections() == {client, *made}
        await check_usable(client, server)
        await place.end(*made)


@covers("Connection.__await__")
async def clone_of_what_is_establishing(place: Place) -> AsyncIterator[Act]:
    """The clone is given up, and what it waits for is not."""
    made: list[Connection] = []
    async with place.listen(Collector()) as listener:
        client = place.to(listener).initiate()

        async def act() -> None:
            made.append(await client.clone())

        yield act
        await client
        assert client.grouped_connections() == {client, *made}
        await client.send(b"alive")
        await place.end(client, *made)


@covers("IncomingStreams.__anext__", "IncomingStreams.aclose", where=streams)
async def take_a_stream(place: Place) -> AsyncIterator[Act]:
    """A stream that the peer opens goes to one taker."""
    taken: list[Connection] = []
    async with place.pair() as (client, server):
        incoming = client.incoming()

        async def open_stream() -> Connection:
            await turns(2)
            stream = await server.clone()
            await stream.send(b"hello")
            return stream

        opening = asyncio.create_task(open_stream())

        async def act() -> None:
            taken.append(await anext(incoming))
            await incoming.aclose()

        yield act
        stream = await opening
        if not taken:
            taken.append(await anext(incoming))
        assert await many(taken[0], 1) == [b"hello"]
        await place.end(*taken, stream)


# --------------------------------------------------------------------- events


@covers("EventStream.__anext__")
async def events_of_a_connection(place: Place) -> AsyncIterator[Act]:
    """All of them, once and in order, to whoever reads on; nothing is kept of who did not."""
    async with place.pair() as (client, server):
        events = client.events()
        told: list[str] = []

        async def live() -> None:
            for number in range(3):
                await turns(2)
                await client.send(b"%d" % number)
            await many(server, 3)
            closing = client.close()
            if place.kind.connected:
                assert not await slowly(server)
            await closing

        living = asyncio.create_task(live())

        async def act() -> None:
            async for event in events:
                told.append(type(event).__name__)

        yield act
        assert not events._waiting
        await living
        told += [type(event).__name__ async for event in events]
        assert told == ["Sent", "Sent", "Sent", "Closed"]


@covers("EventStream.__anext__")
async def events_of_a_listener(place: Place) -> AsyncIterator[Act]:
    async with place.listen() as listener:
        events = listener.events()
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, listener.stop)

        async def act() -> None:
            async for event in events:
                told.append(type(event).__name__)

        yield act
        await listener.stopped()
        told += [type(event).__name__ async for event in events]
        assert told == ["Stopped"]


# ------------------------------------------------------------------- Listener


@covers("Listener.__await__")
async def listen(place: Place) -> AsyncIterator[Act]:
    """The port is bound, or free."""
    made: list[taps.Listener] = []

    async def act() -> None:
        made.append(await place.preconnection(local="localhost:0").listen())

    yield act
    if not made:
        assert not place.open
        assert not place.network.open_listeners
    for listener in made:
        listener.stop()
        await listener.stopped()


@covers("Listener.__aenter__", "Listener.__aexit__")
async def a_block_around_a_listener(place: Place) -> AsyncIterator[Act]:
    """Nothing is left behind it: neither the port nor a handler nor its Connection."""
    handled: list[bytes] = []

    async def handler(connection: Connection) -> None:
        handled.append((await connection.receive()).data)
        await turns(3)

    async def act() -> None:
        here = place.preconnection(local="127.0.0.1:0")
        async with (
            here.listen(handler, grace=5) as listener,
            place.to(listener).initiate() as client,
        ):
            await client.send(b"hello")
            await place.until(lambda: handled)

    yield act
    await place.until(lambda: not place.open)
    assert not place.network.open_listeners


@covers("Listener.__aexit__")
async def leaving_a_listener_whose_handlers_go_on(place: Place) -> AsyncIterator[Act]:
    """Handlers that do not end are cancelled, and seen to their end."""
    ended = begun = 0

    async def handler(connection: Connection) -> None:
        nonlocal begun, ended
        begun += 1
        try:
            await connection.receive()
            await asyncio.get_running_loop().create_future()
        finally:
            await turns(2)
            ended += 1

    async with contextlib.AsyncExitStack() as stack:
        listener = await place.listen(handler)
        client = await place.to(listener).initiate()
        await client.send(b"hello")
        await place.until(lambda: begun)

        async def act() -> None:
            async with listener:
                pass

        yield act
        listener.stop()
        await listener.stopped()
        await place.end(client)
        for task in list(listener._served.tasks):
            task.cancel()
        await place.until(lambda: ended == begun and not place.open)
        stack.pop_all()


@contextlib.asynccontextmanager
async def knocking(place: Place) -> AsyncIterator[tuple[taps.Listener, list[Connection]]]:
    """Two clients come. At the end: each was accepted once, with its Message."""
    async with place.listen() as listener:
        accepted: list[Connection] = []

        async def knock(data: bytes) -> Connection:
            await turns(2)
            client = await place.to(listener).initiate()
            await client.send(data)
            return client

        clients = [asyncio.create_task(knock(data)) for data in (b"one", b"two")]
        yield listener, accepted
        while len(accepted) < 2:
            async with asyncio.timeout(10):
                accepted.append(await listener.accept())
        assert {(await many(each, 1))[0] for each in accepted} == {b"one", b"two"}
        await place.end(*[await client for client in clients], *accepted)


@covers("Listener.accept")
async def accept(place: Place) -> AsyncIterator[Act]:
    async with knocking(place) as (listener, accepted):

        async def act() -> None:
            accepted.append(await listener.accept())

        yield act


@covers("Listener.accept")
async def accept_before_another(place: Place) -> AsyncIterator[Act]:
    """Who stands behind moves up."""
    async with knocking(place) as (listener, accepted):
        others: list[asyncio.Task[Connection]] = []
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: others.append(loop.create_task(listener.accept())))

        async def act() -> None:
            accepted.append(await listener.accept())

        yield act
        accepted.append(await others[0])


@covers("Listener.__anext__")
async def iterate_over_a_listener(place: Place) -> AsyncIterator[Act]:
    async with knocking(place) as (listener, accepted):

        async def act() -> None:
            async for connection in listener:
                accepted.append(connection)
                if len(accepted) == 2:
                    break

        yield act


@covers("Listener.stopped")
async def stopped(place: Place) -> AsyncIterator[Act]:
    """Who stops waiting does not stop the stopping."""
    listener = await place.listen()
    listener.stop()
    yield listener.stopped
    await listener.stopped()
    assert not place.open
    assert not place.network.open_listeners


# --------------------------------------------------------------------- System


@contextlib.asynccontextmanager
async def left_open(place: Place) -> AsyncIterator[None]:
    """A Listener with a handler that goes on, and a Connection to it."""
    heard: list[bytes] = []

    async def handler(connection: Connection) -> None:
        heard.append((await connection.receive()).data)
        await asyncio.get_running_loop().create_future()

    listener = await place.listen(handler)
    client = await place.to(listener).initiate()
    await client.send(b"hello")
    await place.until(lambda: heard)
    establishing = place.to(listener).initiate()
    with warnings.catch_warnings():
        # Each thing that is left open is warned of.
        warnings.simplefilter("ignore", ResourceWarning)
        yield
    if client.state is not taps.ConnectionState.CLOSED:
        # It never began: nothing was closed.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await place.system.close()
    await place.until(lambda: not place.open)
    assert client.state is establishing.state is taps.ConnectionState.CLOSED
    assert not place.network.open_listeners


@covers("System.close", "LoopRuntime.close")
async def close_a_system(place: Place) -> AsyncIterator[Act]:
    """Nothing is open afterwards, also if nobody waited for it to the end."""
    async with left_open(place):
        yield place.system.close


@covers("System.__aenter__", "System.__aexit__")
async def a_block_around_a_system(place: Place) -> AsyncIterator[Act]:
    async def act() -> None:
        async with place.system:
            await turns(1)

    async with left_open(place):
        yield act
