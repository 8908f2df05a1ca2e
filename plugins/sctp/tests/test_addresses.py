"""Associations with several addresses, on the kernel's SCTP and over paths that die."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from taps_sctp import Paths

import taps_core as taps
from taps_core.testing import local_identity
from taps_core.testing import run as run_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from taps_core.testing import Packet
    from taps_core.testing.fixtures import Run
    from tests.lab.network import Host, Network

pytestmark = pytest.mark.lab

PORT = 7000
PLAIN = taps.SecurityParameters.disabled()
#: Seconds, on paths of a short round trip: what README promises. Until what was on its way
#: goes another way; until PathChange tells of a dead path, and of one that works again.
INTERRUPTED, DEAD, BACK = 1.0, 5.0, 20.0
#: On a busy machine.
PATIENCE = 5.0
SCTP = 132
#: Kinds of chunks, and of parameters of INIT.
DATA, INIT, HEARTBEAT, ASCONF = 0, 1, 4, 0xC1
IPV4_ADDRESS, EXTENSIONS, AUTH_RANDOM = 5, 0x8008, 0x8002
MANY = {"multipath": "Active", "advertises_altaddr": True}
Connection = taps.Connection[Any]


@pytest.fixture
def run_once() -> Run:
    """On one loop, for what the kernel does by itself."""
    return functools.partial(run_on, loop="asyncio")


def on(host: Host, *versions: int, paths: tuple[int, ...] = (0, 1)) -> list[str]:
    """Its addresses, path by path."""
    return [host.address(version, path) for path in paths for version in versions or (4,)]


def preconnection(
    local: list[str] | None = None,
    remote: list[str] | None = None,
    security: taps.SecurityParameters = PLAIN,
    **properties: Any,
) -> taps.Preconnection:
    return taps.Preconnection(
        local=[
            taps.LocalEndpoint(ip_address=each, port=None if remote else PORT, protocol="sctp")
            for each in local or ()
        ],
        remote=[
            taps.RemoteEndpoint(ip_address=each, port=PORT, protocol="sctp")
            for each in remote or ()
        ],
        transport=taps.TransportProperties(**properties),
        security=security,
    )


@pytest.fixture
def two_paths(two_paths: Network) -> Network:
    """Hosts that have been there for a while.

    The kernel tells associations of an address half a second after it came up, and of 127.0.0.1
    as of others: the peer writes there, to itself, and ends what it did not begin.
    """
    time.sleep(0.6)
    return two_paths


@contextlib.asynccontextmanager
async def pair(
    network: Network,
    *,
    client: dict[str, Any] = MANY,
    server: dict[str, Any] = MANY,
    versions: tuple[int, ...] = (4,),
    ours: list[str] | None = None,
    theirs: list[str] | None = None,
    security: tuple[taps.SecurityParameters, taps.SecurityParameters] = (PLAIN, PLAIN),
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Client and server, Ready; ended in the end."""
    theirs = theirs or on(network.server, *versions)
    with network.server.use():
        listener = await preconnection(theirs, security=security[0], **server).listen()
    async with listener:
        with network.client.use():
            ours = ours or on(network.client, *versions)
            here = preconnection(ours, theirs, security[1], **client)
            one = await here.initiate()
        other = await listener.accept()
        try:
            yield one, other
        finally:
            one.abort()
            other.abort()


def peers(connection: Connection) -> set[str]:
    found = connection.find(Paths)
    assert found is not None
    return {path.address for path in found.remote}


def state(connection: Connection, address: str) -> str:
    found = connection.find(Paths)
    assert found is not None
    return next((path.state for path in found.remote if path.address == address), "")


async def until(condition: Callable[[], Any], within: float = 30.0) -> float:
    """Until it holds; the seconds that it took."""
    now = asyncio.get_running_loop().time
    began = now()
    async with asyncio.timeout(within):
        # No event: often it is the kernel's state.
        while not condition():  # noqa: ASYNC110  # a test's wait, on any loop
            await asyncio.sleep(0.01)
    return now() - began


def news(connection: Connection) -> list[str]:
    told: list[str] = []
    connection.on(taps.PathChange, lambda event: told.append(event.reason))
    return told


async def exchange(one: Connection, other: Connection) -> None:
    for here, there in ((one, other), (other, one)):
        await here.send(b"hello")
        assert (await there.receive()).data == b"hello"


# -- which addresses there are


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_both_ends_use_all_addresses_of_each_other(
    run: Run, two_paths: Network, version: int
) -> None:
    async def main() -> None:
        async with pair(two_paths, versions=(version,)) as (client, server):
            await exchange(client, server)
            assert peers(client) == set(on(two_paths.server, version))
            assert peers(server) == set(on(two_paths.client, version))
            await until(lambda: {state(client, each) for each in peers(client)} == {"active"})
            await until(lambda: {state(server, each) for each in peers(server)} == {"active"})

    run(main)


@pytest.mark.parametrize("first", [0, 1], ids=["IPv4 first", "IPv6 first"])
def test_addresses_may_be_of_both_ip_versions(
    run_once: Run, two_paths: Network, first: int
) -> None:
    # Those of 10.0.0.0/8 are not named to a peer that has an address of the whole Internet.
    two_paths.client.ip("addr add 198.51.100.1/24 dev path1")
    two_paths.server.ip("addr add 198.51.100.2/24 dev path1")
    here = ["198.51.100.1", two_paths.client.address(6, 1)]
    there = ["198.51.100.2", two_paths.server.address(6, 1)]
    order = slice(None, None, -1 if first else 1)

    async def main() -> None:
        async with pair(two_paths, ours=here[order], theirs=there[order]) as (client, server):
            await exchange(client, server)
            assert peers(client) == set(there)
            assert peers(server) == set(here)

    run_once(main)


def test_by_default_there_is_one_address_at_each_end(run: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with pair(two_paths, client={}, server={}) as (client, server):
            await exchange(client, server)
            assert peers(client) == {two_paths.server.address()}
            assert peers(server) == {two_paths.client.address()}

    run(main)


def test_a_listener_uses_what_the_peer_names_unless_told_otherwise(
    run_once: Run, two_paths: Network
) -> None:
    """multipath is Passive there (RFC 9622, section 6.2.14)."""

    async def main() -> None:
        async with pair(two_paths, server={}) as (client, server):
            assert peers(client) == {two_paths.server.address()}
            second = two_paths.client.address(path=1)
            await until(lambda: state(server, second) == "active")
            server.set_property("_taps.primaryPath", second)
            await exchange(client, server)

    run_once(main)


def test_without_local_endpoints_one_address_is_named_or_all(
    run_once: Run, two_paths: Network
) -> None:
    async def main() -> None:
        theirs = on(two_paths.server)
        with two_paths.server.use():
            listener = await preconnection(theirs, **MANY).listen()
        async with listener:
            assert [str(each) for each in listener.local_endpoints] == [
                f"{each}:{PORT}" for each in theirs
            ]
            for properties, named in (
                ({}, on(two_paths.client, paths=(0,))),
                ({"multipath": "Active"}, on(two_paths.client, paths=(0,))),
                ({"advertises_altaddr": True}, on(two_paths.client, paths=(0,))),
                (MANY, on(two_paths.client)),
            ):
                with two_paths.client.use():
                    client = await preconnection(remote=theirs, **properties).initiate()
                server = await listener.accept()
                assert peers(server) >= set(named)
                assert len(peers(server) - set(named)) == 0
                client.abort()
                server.abort()

    run_once(main)


def test_whoever_is_no_address_of_the_peer_is_not_used(run_once: Run, two_paths: Network) -> None:
    """Several Remote Endpoints may be several hosts: the peer says which are its own."""
    stranger = "10.0.1.77"

    async def main() -> None:
        theirs = on(two_paths.server)
        with two_paths.server.use():
            listener = await preconnection(theirs, **MANY).listen()
        async with listener:
            for remote in ([*theirs, stranger], [stranger, *theirs], [theirs[1], stranger]):
                with two_paths.client.use():
                    client = await preconnection(remote=remote, **MANY).initiate()
                server = await listener.accept()
                await exchange(client, server)
                assert peers(client) == set(theirs)
                assert client.remote_endpoint is not None
                assert client.remote_endpoint.ip_address in theirs
                client.abort()
                server.abort()

    run_once(main)


def parameters(packet: Packet) -> dict[int, bytes]:
    """Of the INIT that a packet holds."""
    chunk = packet.payload[12:]
    assert chunk[0] == INIT
    rest, found = chunk[20 : int.from_bytes(chunk[2:4])], {}
    while rest:
        length = int.from_bytes(rest[2:4])
        found[int.from_bytes(rest[:2])] = rest[4:length]
        rest = rest[length + -length % 4 :]
    return found


def has(kind: int) -> Callable[[Packet], bool]:
    return lambda packet: packet.protocol == SCTP and packet.payload[12] == kind


@pytest.mark.parametrize(
    ("properties", "can_change"), [({}, False), (MANY, True)], ids=["by default", "many"]
)
def test_init_names_addresses_and_offers_changes_only_where_asked_for(
    run_once: Run, two_paths: Network, properties: dict[str, Any], can_change: bool
) -> None:
    """Who does not ask for it pays nothing, and shows nothing (RFC 9622, section 6.2.15)."""

    async def main() -> None:
        with two_paths.server.capture("path1") as capture:
            async with pair(two_paths, client=properties):
                (init,) = capture.look(has(INIT))
        found = parameters(init)
        assert (IPV4_ADDRESS in found) is can_change
        assert (AUTH_RANDOM in found) is can_change
        assert (ASCONF in found[EXTENSIONS]) is can_change

    run_once(main)


def test_a_listener_takes_the_addresses_that_the_kernel_gives_it(
    run: Run, two_paths: Network
) -> None:
    """One door for those that it can have, and the usual error for one that it cannot."""
    theirs = on(two_paths.server)

    async def main() -> None:
        with two_paths.server.use():
            with pytest.raises(taps.EstablishmentError, match=r"10\.0\.9\.9") as caught:
                await preconnection([theirs[0], "10.0.9.9"], **MANY).listen()
            assert caught.value.detail == "EADDRNOTAVAIL"
            listener = await preconnection(theirs, **MANY).listen()
            with pytest.raises(taps.EstablishmentError):
                await preconnection(theirs[1:]).listen()
            assert len(listener.report) == 1
            listener.stop()
            await listener.stopped()
            # Both are free again.
            listener = await preconnection(theirs, multipath="Disabled").listen()
            assert len(listener.report) == 2
            listener.stop()
            await listener.stopped()

    run(main)


def test_a_first_address_that_is_dead_is_left_within_a_second(
    run_once: Run, two_paths: Network
) -> None:
    """Each address is tried by itself, too; and INIT that is sent again goes to the next."""
    two_paths.path.blackhole()

    async def echo(connection: Connection) -> None:
        await connection.send((await connection.receive()).data)
        await connection.receive()

    async def main() -> None:
        theirs = on(two_paths.server)
        with two_paths.server.use():
            listener = await preconnection(theirs, **MANY).listen(echo)
        async with listener:
            began = asyncio.get_running_loop().time()
            with two_paths.client.use():
                client = await preconnection(on(two_paths.client), theirs, **MANY).initiate()
            assert asyncio.get_running_loop().time() - began < INTERRUPTED + PATIENCE
            await client.send(b"hello")
            assert (await client.receive()).data == b"hello"
            assert client.remote_endpoint is not None
            assert client.remote_endpoint.ip_address == theirs[1]
            client.abort()

    run_once(main)


def test_a_plain_socket_with_several_addresses_is_a_peer_like_any_other(
    run_once: Run, two_paths: Network
) -> None:
    """Of this kernel, as it comes: it has all addresses, and lets none be changed (RFC 5061)."""

    async def main() -> None:
        with two_paths.server.use():
            door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
        with door:
            door.bind(("0.0.0.0", PORT))
            door.listen()
            door.settimeout(PATIENCE)
            with two_paths.client.use():
                there = [two_paths.server.address()]
                client = await preconnection(remote=there, **MANY).initiate()
            peer, _ = door.accept()
            with peer:
                peer.settimeout(PATIENCE)
                assert peers(client) >= set(on(two_paths.server))
                with pytest.raises(taps.PropertyError, match="RFC 5061"):
                    client.add_local("10.0.9.9")
                await until(lambda: state(client, two_paths.server.address(path=1)) == "active")
                two_paths.path.blackhole()
                await client.send(b"hello")
                assert peer.recv(10) == b"hello"
                peer.send(b"hello")
                assert (await client.receive()).data == b"hello"
            client.abort()

    run_once(main)


# -- paths that die


@pytest.mark.requirement("R-9623-7.2-02")
@pytest.mark.parametrize("how", ["blackhole", "down"])
def test_a_transfer_survives_the_death_of_its_path(run: Run, two_paths: Network, how: str) -> None:
    two_paths.paths[0].set(latency=0.005)
    two_paths.paths[1].set(latency=0.005)
    number = 3000

    async def main() -> None:
        async with pair(two_paths) as (client, server):
            theirs = on(two_paths.server)
            await until(lambda: state(client, theirs[1]) == "active")
            told = news(client)
            got: list[bytes] = []

            async def receive() -> None:
                while len(got) < number:
                    got.append((await server.receive()).data)

            receiving = asyncio.create_task(receive())
            for index in range(number):
                if index == number // 4:
                    getattr(two_paths.paths[0], how)()
                    died = asyncio.get_running_loop().time()
                await client.send(index.to_bytes(4) * 100)
                if index % 10 == 0:
                    await asyncio.sleep(0.01)
            await until(lambda: f"{theirs[0]} is unreachable" in told)
            assert asyncio.get_running_loop().time() - died < DEAD + PATIENCE
            await receiving
            assert got == [index.to_bytes(4) * 100 for index in range(number)]
            assert state(client, theirs[0]) == "inactive"
            if how == "blackhole":
                two_paths.path.up()
                await until(lambda: f"{theirs[0]} is available" in told, BACK + PATIENCE)
            await exchange(client, server)
            assert client.state is taps.ConnectionState.ESTABLISHED

    run(main)


def test_a_transfer_waits_a_moment_for_another_path(run_once: Run, two_paths: Network) -> None:
    """What was on its way goes another way after one timeout, long before the path is given up."""
    two_paths.paths[0].set(latency=0.005)
    two_paths.paths[1].set(latency=0.005)

    async def main() -> None:
        async with pair(two_paths) as (client, server):
            await until(lambda: state(client, two_paths.server.address(path=1)) == "active")
            for _ in range(5):
                await exchange(client, server)
            now = asyncio.get_running_loop().time
            two_paths.path.blackhole()
            began = now()
            await exchange(client, server)
            assert now() - began < INTERRUPTED + PATIENCE

    run_once(main)


def test_an_idle_path_is_found_dead_by_heartbeats(run_once: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with pair(two_paths) as (client, _):
            there = two_paths.server.address(path=1)
            await until(lambda: state(client, there) == "active")
            told = news(client)
            two_paths.paths[1].blackhole()
            # Four probes in a row are lost; the first one is soon.
            client.set_property("keepAliveTimeout", 0.3)
            await until(lambda: f"{there} is unreachable" in told, 10 + PATIENCE)
            two_paths.paths[1].up()
            await until(lambda: f"{there} is available" in told, 10 + PATIENCE)

    run_once(main)


@pytest.mark.parametrize("who", ["client", "server"])
def test_with_multipath_disabled_nothing_goes_another_way(
    run_once: Run, two_paths: Network, who: str
) -> None:
    """The peer's further addresses are known from its INIT or INIT ACK, and never used."""
    ends = {"client": MANY, "server": MANY, who: {"multipath": "Disabled"}}

    async def main() -> None:
        # Whoever has several paths may use them: for this end's choice alone the other names
        # addresses, and sends nothing.
        async with pair(two_paths, **ends) as (client, server):
            here, there = (client, server) if who == "client" else (server, client)
            host = two_paths.server if who == "client" else two_paths.client
            await exchange(here, there)
            assert host.address(path=1) in peers(here)
            with host.capture("path2") as capture:
                two_paths.path.blackhole()
                await here.send(b"after all")
                await asyncio.sleep(3)
                assert not capture.look(has(DATA))
                assert not capture.look(has(HEARTBEAT))
                assert state(here, host.address(path=1)) == "unconfirmed"
                two_paths.path.up()
                assert (await there.receive()).data == b"after all"

    run_once(main)


# -- addresses that come and go


@pytest.mark.parametrize("who", ["client", "server"])
def test_an_address_is_added_and_another_removed_while_data_flows(
    run: Run, two_paths: Network, who: str
) -> None:
    host = getattr(two_paths, who)
    old, new = on(host)

    async def main() -> None:
        first = {"ours": [old]} if who == "client" else {"theirs": [old]}
        async with pair(two_paths, **first) as ends:
            here, there = ends if who == "client" else ends[::-1]
            mine, told = news(here), news(there)
            assert peers(there) == {old}
            here.add_local(new)
            await until(lambda: state(there, new) == "active")
            await until(lambda: f"{new} is added" in told)
            await until(lambda: any(new in each for each in mine))
            here.add_local(new)  # known: nothing happens
            there.set_property("_taps.primaryPath", new)
            await exchange(here, there)
            here.remove_local(old)
            await until(lambda: peers(there) == {new})
            await until(lambda: f"{old} is removed" in told)
            assert there.remote_endpoint is not None
            assert there.remote_endpoint.ip_address == new
            assert here.local_endpoint is not None
            assert here.local_endpoint.ip_address == new
            two_paths.path.blackhole()
            await exchange(here, there)
            with pytest.raises(taps.PropertyError, match="did not remove"):
                here.remove_local(new)
            await exchange(here, there)

    run(main)


def test_secured_connections_change_addresses_and_paths_as_well(
    run_once: Run, two_paths: Network
) -> None:
    """DTLS goes on over any path, and its keys authenticate the change (RFC 6083)."""
    old, new = on(two_paths.client)

    async def main() -> None:
        async with pair(
            two_paths,
            client={**MANY, "preserve_msg_boundaries": "require"},
            server={**MANY, "preserve_msg_boundaries": "require"},
            ours=[old],
            security=local_identity(two_paths.server.address()),
        ) as (client, server):
            assert str(client.stack) == "DTLS/SCTP"
            told = news(server)
            client.add_local(new)
            await until(lambda: f"{new} is added" in told)
            await until(lambda: state(server, new) == "active")
            two_paths.path.blackhole()
            for _ in range(20):
                await exchange(client, server)

    run_once(main)


@pytest.mark.parametrize("who", ["client", "server"])
def test_without_local_endpoints_addresses_come_and_go_as_the_machine_has_them(
    run_once: Run, two_paths: Network, who: str
) -> None:
    async def main() -> None:
        with two_paths.server.use():
            listener = await taps.Preconnection(
                local=taps.LocalEndpoint(port=PORT, protocol="sctp"),
                transport=taps.TransportProperties(**MANY),
                security=PLAIN,
            ).listen()
        async with listener:
            with two_paths.client.use():
                there = [two_paths.server.address()]
                client = await preconnection(remote=there, **MANY).initiate()
            server = await listener.accept()
            other, host = (
                (server, two_paths.client) if who == "client" else (client, two_paths.server)
            )
            assert "10.0.3.1" not in peers(other)
            host.ip("addr add 10.0.3.1/24 dev path2")
            await until(lambda: "10.0.3.1" in peers(other))
            host.ip("addr del 10.0.3.1/24 dev path2")
            await until(lambda: "10.0.3.1" not in peers(other))
            await exchange(client, server)
            client.abort()
            server.abort()

    run_once(main)


@pytest.mark.parametrize(
    ("client", "server", "why"),
    [
        ({}, MANY, "one pair of addresses"),
        ({"multipath": "Active"}, MANY, "advertisesAltaddr is False"),
        (MANY, {"multipath": "Disabled"}, "RFC 5061"),
    ],
    ids=["disabled", "not to be named", "the peer cannot"],
)
def test_an_address_that_cannot_be_added_is_refused_with_the_reason(
    run_once: Run, two_paths: Network, client: dict[str, Any], server: dict[str, Any], why: str
) -> None:
    async def main() -> None:
        one = on(two_paths.client, paths=(0,))
        async with pair(two_paths, client=client, server=server, ours=one) as (here, there):
            with pytest.raises(taps.PropertyError, match=why):
                here.add_local(two_paths.client.address(path=1))
            await exchange(here, there)

    run_once(main)


def test_the_peer_says_which_addresses_it_has(run_once: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with pair(two_paths) as (client, server):
            client.add_remote(f"{two_paths.server.address(path=1)}:{PORT}")  # has no effect
            client.remove_remote(f"10.0.9.9:{PORT}")  # likewise
            with pytest.raises(taps.PropertyError, match="for it to say"):
                client.add_remote(f"10.0.9.9:{PORT}")
            with pytest.raises(taps.PropertyError, match="for it to say"):
                client.remove_remote(f"{two_paths.server.address(path=1)}:{PORT}")
            for wrong in (f"{two_paths.client.address(path=1)}:9", "example.net"):
                with pytest.raises(taps.PropertyError, match="one port"):
                    client.add_local(wrong)
            with pytest.raises(taps.PropertyError, match=r"did not add 10\.0\.9\.9"):
                client.add_local("10.0.9.9")
            await exchange(client, server)

    run_once(main)


# -- the primary path


def test_the_primary_path_is_read_and_set(run_once: Run, two_paths: Network) -> None:
    first, second = on(two_paths.server)

    async def main() -> None:
        async with pair(two_paths) as (client, server):
            assert client.properties["_taps.primaryPath"] == first
            clone = await client.clone()
            await until(lambda: state(client, second) == "active")
            clone.set_property("_taps.primaryPath", second)
            assert client.properties["_taps.primaryPath"] == second
            found = client.find(Paths)
            assert found is not None
            assert [path.address for path in found.remote if path.primary] == [second]
            assert set(found.local) == set(on(two_paths.client))
            with two_paths.server.capture("path2") as capture:
                await client.send(b"x" * 50)
                await server.receive()
                assert capture.look(has(DATA))
            with pytest.raises(taps.PropertyError, match=second):
                client.set_property("_taps.primaryPath", "10.0.9.9")
            with pytest.raises(taps.PropertyError, match=first):
                client.set_property("_taps.primaryPath", "nonsense")
            assert client.properties["_taps.primaryPath"] == second
            clone.abort()

    run_once(main)


def test_the_primary_path_can_be_chosen_before(run_once: Run, two_paths: Network) -> None:
    async def main() -> None:
        theirs = on(two_paths.server)
        for wanted, found in ((theirs[1], theirs[1]), ("10.0.9.9", theirs[0])):
            properties = {**MANY, "_taps.primaryPath": wanted}
            async with pair(two_paths, client=properties) as (client, _):
                assert client.properties["_taps.primaryPath"] == found

    run_once(main)


def test_one_path_at_a_time_is_the_only_policy(run_once: Run, two_paths: Network) -> None:
    async def main() -> None:
        properties = {**MANY, "multipath_policy": "Aggregate"}
        async with pair(two_paths, client=properties) as (client, _):
            assert client.properties["multipathPolicy"] is taps.MultipathPolicy.HANDOVER
            client.set_property("multipathPolicy", "Handover")
            for policy in ("Interactive", "Aggregate"):
                with pytest.raises(taps.PropertyError, match=policy):
                    client.set_property("multipathPolicy", policy)

    run_once(main)


def test_keep_alive_probes_the_paths_that_may_be_used_and_no_other(
    run_once: Run, two_paths: Network
) -> None:
    async def main() -> None:
        for properties, both in ((MANY, True), ({"multipath": "Disabled"}, False)):
            async with pair(two_paths, client=properties) as (client, _):
                client.set_property("keepAliveTimeout", 0.2)
                with (
                    two_paths.server.capture("path1") as first,
                    two_paths.server.capture("path2") as second,
                ):
                    await first.packet(has(HEARTBEAT))
                    if both:
                        await second.packet(has(HEARTBEAT))
                    else:
                        await asyncio.sleep(0.5)
                        assert not second.look(has(HEARTBEAT))

    run_once(main)
