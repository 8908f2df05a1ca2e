"""Multipath TCP between hosts with two paths, on this machine's kernel; and plain TCP instead."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

import taps_core as taps
import taps_tcp.multipath
import taps_tcp.subflows
from taps_core.plugin import Support
from taps_core.testing import local_identity
from taps_core.testing.fixtures import missing as lacking
from taps_tcp import TCP, MultipathInfo, TCPInfo
from taps_tcp.multipath import IPPROTO_MPTCP, missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.lab.network import Network

pytestmark = pytest.mark.linux

PLAIN = taps.SecurityParameters.disabled()
ACTIVE: dict[str, Any] = {"multipath": "Active"}
PATIENCE = 30.0
#: Kinds of TCP options, and of MPTCP's.
_MPTCP, _CAPABLE, _ADD_ADDR = 30, 0, 3
SYN = 2


@pytest.fixture(autouse=True)
def _kernel_has_it() -> None:
    if why := missing():
        lacking("mptcp", why)


@pytest.fixture
def managed(two_paths: Network) -> Network:
    """The client's path manager opens a subflow on the second path to an address of both."""
    two_paths.shared_address()
    two_paths.client.ip(f"mptcp endpoint add {two_paths.client.address(4, 1)} dev path2 subflow")
    for host in (two_paths.client, two_paths.server):
        host.ip("mptcp limits set subflow 4 add_addr_accepted 4")
    return two_paths


@contextlib.asynccontextmanager
async def pair(
    network: Network,
    *,
    client: dict[str, Any] = ACTIVE,
    server: dict[str, Any] | None = None,
    version: int = 4,
    tls: bool = False,
) -> AsyncIterator[tuple[taps.Connection[Any], taps.Connection[Any]]]:
    """Client and server, Ready."""
    managed = len(network.paths) > 1 and version == 4
    address = network.shared_address() if managed else network.server.address(version)
    securities = local_identity(address) if tls else (PLAIN, PLAIN)
    local = taps.LocalEndpoint(ip_address=address, port=0)
    with network.server.use():
        listener = await taps.Preconnection(
            local=local,
            transport=taps.TransportProperties(**(server or {})),
            security=securities[0],
        ).listen()
    async with listener:
        with network.client.use():
            one = await taps.Preconnection(
                remote=taps.RemoteEndpoint(
                    ip_address=address, port=listener.local_endpoints[0].port
                ),
                transport=taps.TransportProperties(**client),
                security=securities[1],
            ).initiate()
        other = await listener.accept()
        try:
            yield one, other
        finally:
            one.abort()
            other.abort()


def told(connection: taps.Connection[Any]) -> MultipathInfo:
    found = connection.find(MultipathInfo)
    assert found is not None
    return found


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        # No event: it is the kernel's state.
        while not condition():  # noqa: ASYNC110  # a test's wait
            await asyncio.sleep(0.01)


async def read(connection: taps.Connection[Any], length: int) -> bytes:
    chunks = []
    while length:
        message = await connection.receive(min_incomplete_length=1, max_length=length)
        chunks.append(bytes(message))
        length -= len(message)
    return b"".join(chunks)


def test_both_ends_use_it_where_one_asks_and_the_other_listens(run, two_hosts):
    async def main():
        async with pair(two_hosts) as ends:
            for end in ends:
                assert end.properties["_taps.multipathInUse"] is True
                found = told(end)
                assert (found.in_use, found.reason) == (True, "")
                (subflow,) = found.subflows
                assert subflow.state == "active"
                assert subflow.local.ip_address == end.local_endpoint.ip_address
                assert subflow.remote == taps.RemoteEndpoint(
                    ip_address=end.remote_endpoint.ip_address, port=end.remote_endpoint.port
                )
                assert isinstance(subflow.info, TCPInfo)
            await ends[0].send(b"hello")
            assert await read(ends[1], 5) == b"hello"

    run(main)


@pytest.mark.requirement("G-9622-6.2.14-01")
def test_nothing_of_it_is_in_a_syn_unless_it_is_asked_for(run, two_hosts):
    async def main():
        for client, offered in (({}, False), ({"multipath": "Disabled"}, False), (ACTIVE, True)):
            with two_hosts.server.capture("path1") as capture:
                async with pair(two_hosts, client=client) as ends:
                    syn = next(each for each in capture.look() if each.tcp_flags == SYN)
                    assert (_MPTCP in kinds(syn.tcp_options)) is offered
                    assert {each.properties["_taps.multipathInUse"] for each in ends} == {offered}
                    if not client:
                        assert told(ends[0]).reason == "multipath is Disabled"
                        assert "does not speak" in told(ends[1]).reason

    run(main)


@pytest.mark.requirement("R-9623-7.2-03")
@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS/TCP"])
@pytest.mark.parametrize("how", ["down", "blackhole"])
def test_a_transfer_survives_the_loss_of_a_path(run, managed, how, tls):
    size = 3_000_000

    async def main():
        changes: list[str] = []
        others: list[Any] = []
        async with pair(managed, tls=tls) as (client, server):
            client.on(taps.PathChange, lambda event: changes.append(event.reason))
            client.on(taps.SoftError, others.append)
            await client.send(b"x")
            assert await read(server, 1) == b"x"
            await until(lambda: len(told(client).subflows) == 2)
            await until(lambda: any("was added" in each for each in changes))
            reading = asyncio.create_task(read(server, size))
            data = bytes(range(256)) * (size // 256 + 1)
            await client.send(data[: size // 2])
            getattr(managed.path, how)()
            await client.send(data[size // 2 : size])
            async with asyncio.timeout(PATIENCE):
                assert await reading == data[:size]
            await until(lambda: any("is unreachable" in each for each in changes))
            managed.path.up()
            await client.send(b"y" * 200_000)
            await read(server, 200_000)
            assert not others
            assert client.state is server.state is taps.ConnectionState.ESTABLISHED

    run(main)


def test_a_path_that_is_taken_away_is_told(run, managed):
    async def main():
        changes = []
        async with pair(managed) as (client, server):
            client.on(taps.PathChange, lambda event: changes.append(event))
            await client.send(b"x")
            assert await read(server, 1) == b"x"
            await until(lambda: len(told(client).subflows) == 2)
            await until(lambda: changes)
            managed.client.ip("mptcp endpoint flush")
            await until(lambda: len(told(client).subflows) == 1)
            await client.send(b"x")
            await until(lambda: len(changes) == 2)
        added, gone = changes
        second, there = managed.client.address(4, 1), managed.shared_address()
        assert added.reason == f"{there} from {second} was added"
        assert gone.reason == f"{there} from {second} is gone"
        assert [each.ip_address for each in (*gone.local, *gone.remote)] == [second, there]

    run(main)


@pytest.mark.parametrize("loops", ["client", "server"])
def test_with_a_peer_of_plain_tcp_it_falls_back_and_says_so(run, two_hosts, loops):
    ends = {"client": {}, "server": {"multipath": "Disabled"}}
    ends |= {loops: {"multipath": "Active" if loops == "client" else "Passive"}}

    async def main():
        async with pair(two_hosts, **ends) as both:
            for end in both:
                assert end.properties["_taps.multipathInUse"] is False
                assert not told(end).subflows
            asked = both[0] if loops == "client" else both[1]
            assert told(asked).reason == taps_tcp.multipath.NOT_SPOKEN
            # It has what plain TCP has.
            asked.set_property("connTimeout", 7)
            assert asked.properties["connTimeout"] == 7
            await both[0].send(b"hello")
            assert await read(both[1], 5) == b"hello"

    run(main)


def test_what_something_on_the_path_drops_is_missed_by_nobody_but_those_who_ask(run, two_hosts):
    def drop_options() -> None:
        for host in (two_hosts.client, two_hosts.server):
            lines = [
                "table inet strict {",
                "chain arriving {",
                "type filter hook prerouting priority -300;",
                "tcp flags syn accept",
                "reset tcp option mptcp",
                "}",
                "}",
            ]
            host.run("nft", "-f", "-", text="\n".join(lines) + "\n")

    async def main():
        changes: list[Any] = []
        async with pair(two_hosts) as (client, server):
            for end in (client, server):
                end.on(taps.PathChange, changes.append)
                assert told(end).in_use
            drop_options()
            await client.send(b"hello")
            assert await read(server, 5) == b"hello"
            await server.send(b"hello")
            assert await read(client, 5) == b"hello"
            await until(lambda: not told(client).in_use and not told(server).in_use)
            await asyncio.sleep(3 * taps_tcp.subflows.FIRST)
            assert not changes

    run(main)


def test_options_that_it_lacks_are_set_when_it_has_fallen_back(run, two_hosts):
    async def main():
        disabled = {"multipath": "Disabled"}
        async with pair(two_hosts, client={**ACTIVE, "connTimeout": 7}, server=disabled) as ends:
            assert ends[0].properties["connTimeout"] == 7

    run(main)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"connTimeout": 7}, "only plain TCP has connTimeout"),
        ({"maxSendRate": 8e6}, "only plain TCP has maxSendRate"),
        ({"softErrorNotify": "prefer"}, "only plain TCP has softErrorNotify"),
        ({"noFragmentation": True}, "only plain TCP has noFragmentation"),
        ({"interface": {"path1": "require"}}, "interface path1 is required"),
        ({"interface": {"path2": "prohibit"}}, "interface path2 is prohibited"),
    ],
)
def test_passive_gives_way_to_what_only_plain_tcp_has(run, two_paths, asked, why):
    async def main():
        passive = {"multipath": "Passive", **asked}
        async with pair(two_paths, client=passive, server={"connTimeout": 7}) as ends:
            found = told(ends[0])
            assert not found.in_use
            assert found.reason.startswith(why)
            assert "connTimeout" in told(ends[1]).reason
            if "connTimeout" in asked:
                assert ends[0].properties["connTimeout"] == 7
            assert ends[1].properties["connTimeout"] == 7

    run(main)


@pytest.mark.parametrize("allowed", [False, True])
def test_no_address_is_announced_unless_that_is_allowed(run, managed, allowed):
    managed.server.ip(f"mptcp endpoint add {managed.server.address(4, 1)} dev path2 signal")

    async def main():
        with managed.client.capture("path1") as capture:
            async with pair(managed, server={"advertisesAltaddr": allowed}) as (client, server):
                await client.send(b"x")
                assert await read(server, 1) == b"x"
                assert client.properties["_taps.multipathInUse"] is allowed
                if allowed:
                    await until(lambda: len(told(server).subflows) >= 2)
                else:
                    assert "advertisesAltaddr is False" in told(server).reason
                announced = [
                    each for each in capture.look() if _ADD_ADDR in subtypes(each.tcp_options)
                ]
                assert bool(announced) is allowed

    run(main)


@pytest.mark.parametrize("backup", [False, True])
def test_the_policy_is_that_of_the_path_manager_and_another_one_is_refused(run, managed, backup):
    here = managed.client.address(4, 1)
    if backup:
        managed.client.ip(
            "mptcp endpoint flush", f"mptcp endpoint add {here} dev path2 subflow backup"
        )
    there = taps.MultipathPolicy.HANDOVER if backup else taps.MultipathPolicy.AGGREGATE

    async def main():
        async with pair(managed, client={**ACTIVE, "multipathPolicy": "Interactive"}) as ends:
            with managed.client.use():
                assert ends[0].properties["multipathPolicy"] is there
                ends[0].set_property("multipathPolicy", there)
                for other in taps.MultipathPolicy:
                    if other is not there:
                        with pytest.raises(taps.PropertyError, match="ip mptcp endpoint"):
                            ends[0].set_property("multipathPolicy", other)
                assert ends[0].properties["multipathPolicy"] is there

    run(main)


def test_no_connection_adds_or_removes_paths_of_its_own(run, managed):
    second = taps.LocalEndpoint(ip_address=managed.client.address(4, 1))

    async def main():
        async with pair(managed) as (client, _):
            for change in (client.add_local, client.remove_local):
                with pytest.raises(taps.PropertyError, match="ip mptcp endpoint"):
                    change(second)

    run(main)


@pytest.mark.parametrize("version", [4, 6])
def test_both_versions_of_ip(run, two_hosts, version):
    async def main():
        async with pair(two_hosts, version=version) as ends:
            for end in ends:
                (subflow,) = told(end).subflows
                assert subflow.local.ip_address == end.local_endpoint.ip_address
                assert subflow.remote.ip_address == end.remote_endpoint.ip_address

    run(main)


def test_a_kernel_without_it_has_plain_tcp_and_says_so(run, two_hosts):
    for host in (two_hosts.client, two_hosts.server):
        host.sysctl("net/mptcp/enabled", 0)

    async def main():
        async with pair(two_hosts, server=ACTIVE) as ends:
            for end in ends:
                assert told(end).reason == (
                    "Multipath TCP is switched off here: sysctl net.mptcp.enabled=1"
                )
                assert not end.properties["_taps.multipathInUse"]

    run(main)


def test_availability_says_why_there_is_none(monkeypatch):
    real = socket.socket

    def without(family: int, kind: int, number: int) -> socket.socket:
        if number == IPPROTO_MPTCP:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
        return real(family, kind, number)

    monkeypatch.setattr(socket, "socket", without)
    found = TCP().availability()
    assert found.available
    assert found.capabilities.support["multipath"] is Support.NEVER
    assert found.capabilities.notes["multipath"] == "the kernel has no Multipath TCP"


def test_the_end_of_one_is_in_order_and_an_abort_is_seen(run, two_hosts):
    async def main():
        async with pair(two_hosts) as (client, server):
            await client.send(b"hello", final=True)
            assert await read(server, 5) == b"hello"
            end = await server.receive(max_length=1)
            assert (bytes(end), end.end_of_message) == (b"", True)
            await server.send(b"goodbye")
            closing = server.close()
            assert await read(client, 7) == b"goodbye"
            await client.close()
            await closing
        async with pair(two_hosts) as (client, server):
            client.abort()
            with pytest.raises(taps.ConnectionError) as caught:
                await server.receive(max_length=1)
            assert caught.value.reason is taps.Reason.CONNECTION_ABORTED

    run(main)


def kinds(options: bytes) -> list[int]:
    return [kind for kind, _ in _options(options)]


def subtypes(options: bytes) -> list[int]:
    return [value[0] >> 4 for kind, value in _options(options) if kind == _MPTCP]


def _options(options: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        found.append((options[at], options[at + 2 : at + options[at + 1]]))
        at += options[at + 1]
    return found
