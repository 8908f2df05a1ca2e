"""Which path a Connection takes, by the source address that the server saw, on two links."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

import taps_core as taps
from taps_core.runtime.netlink import NetlinkSurvey
from taps_core.testing import local_identity
from tests.lab.network import ON_BOTH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator

    from taps_core.testing.fixtures import Run
    from tests.lab.network import Host, Network

pytestmark = pytest.mark.linux

#: Name → what a Preconnection of either end takes.
STACKS = ("TCP", "UDP", "TLS/TCP", "DTLS/UDP", "SCTP over UDP")
#: The kernel's SCTP, too: for what it does by itself.
ALL_STACKS = (*STACKS, pytest.param("SCTP", marks=pytest.mark.lab))
#: Those that only an Endpoint names.
PROTOCOLS = {"SCTP over UDP": "sctp-udp", "SCTP": "sctp"}
PLAIN = taps.SecurityParameters.disabled()
BOTH = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


def transport(stack: str) -> taps.TransportProperties:
    properties = taps.TransportProperties()
    return (
        properties.unreliable_datagram() if stack.endswith("/UDP") or stack == "UDP" else properties
    )


class Ends:
    """A Listener of the server's, and what the client asks for."""

    def __init__(self, network: Network, stack: str, address: str) -> None:
        self.network = network
        self.stack = stack
        self.address = address
        self.protocol = PROTOCOLS.get(stack)
        self.server, self.client = local_identity(address) if "TLS/" in stack else (PLAIN, PLAIN)
        # Each host has its own, as each machine would.
        self.systems = taps.System(), taps.System()
        self.listener: taps.Listener | None = None

    def local(self) -> taps.LocalEndpoint:
        return taps.LocalEndpoint(ip_address=self.address, port=0, protocol=self.protocol)

    def there(self, **arguments: Any) -> taps.Preconnection:
        assert self.listener is not None
        port = self.listener.local_endpoints[0].port
        remote = taps.RemoteEndpoint(ip_address=self.address, port=port, protocol=self.protocol)
        properties = transport(self.stack)
        for name, value in arguments.pop("properties", {}).items():
            properties.set(name, value)
        return taps.Preconnection(
            remote=remote,
            transport=properties,
            security=self.client,
            system=self.systems[1],
            **arguments,
        )

    async def seen(self, **arguments: Any) -> str:
        """The client's address, as the server saw it."""
        with self.network.client.use():
            connection = self.there(**arguments).initiate(timeout=10)
        opened = [connection]
        try:
            await connection
            await connection.send(b"hello")
            assert self.listener is not None
            opened.append(accepted := await self.listener.accept())
            await accepted.receive(min_incomplete_length=5, max_length=5)
            assert accepted.remote_endpoint is not None
            assert connection.local_endpoint is not None
            address = accepted.remote_endpoint.ip_address
            assert connection.local_endpoint.ip_address == address
            return str(address)
        finally:
            for each in opened:
                each.abort()


@contextlib.asynccontextmanager
async def ends(network: Network, stack: str, version: int = 4) -> AsyncIterator[Ends]:
    made = Ends(network, stack, network.shared_address(version))
    with network.server.use():
        listening = taps.Preconnection(
            local=made.local(),
            transport=transport(stack),
            security=made.server,
            system=made.systems[0],
        ).listen()
    async with listening as made.listener:
        yield made
    for system in made.systems:
        await system.close()


@pytest.mark.requirement("R-9623-4.1.3-02", "R-9622-6.2-03")
@pytest.mark.parametrize("stack", ALL_STACKS)
@BOTH
def test_the_preferred_interface_is_taken_although_routes_lead_elsewhere(
    run: Run, two_paths: Network, stack: str, version: int
) -> None:
    first, second = (two_paths.client.address(version, path) for path in (0, 1))

    async def main() -> None:
        async with ends(two_paths, stack, version) as network:
            assert await network.seen() == first
            assert await network.seen(properties={"interface": {"path2": "prefer"}}) == second
            assert await network.seen(properties={"interface": {"path1": "avoid"}}) == second

    run(main)


@pytest.mark.requirement("R-9623-4.1.3-03", "R-9623-4.1.1.2-03")
@pytest.mark.parametrize("stack", STACKS)
@BOTH
def test_a_required_or_prohibited_interface_leaves_one_path(
    run: Run, two_paths: Network, stack: str, version: int
) -> None:
    first, second = (two_paths.client.address(version, path) for path in (0, 1))

    async def main() -> None:
        async with ends(two_paths, stack, version) as network:
            assert await network.seen(properties={"interface": {"path2": "require"}}) == second
            assert await network.seen(properties={"interface": {"path1": "require"}}) == first
            assert await network.seen(properties={"interface": {"path1": "prohibit"}}) == second

    run(main)


@pytest.mark.requirement("R-9623-4.1.1.2-03")
@BOTH
def test_system_policy_chooses_the_interface_unless_the_application_does(
    run: Run, two_paths: Network, version: int
) -> None:
    first, second = (two_paths.client.address(version, path) for path in (0, 1))

    async def main() -> None:
        async with ends(two_paths, "TCP", version) as network:
            everywhere = f"{'::' if version == 6 else '0.0.0.0'}/0"
            for policy in (
                {"prefer": {"interfaces": ["path2"]}},
                {"avoid": {"interfaces": ["path1"]}},
                {"prohibit": {"interfaces": ["path1"]}},
                {"rule": [{"networks": [everywhere], "prohibit": {"interfaces": ["path1"]}}]},
            ):
                network.systems[1].policy = policy
                assert await network.seen() == second
            network.systems[1].policy = {"avoid": {"interfaces": ["path1"]}}
            assert await network.seen(properties={"interface": {"path1": "prefer"}}) == first
            network.systems[1].policy = {"pvd": {"corp": {"interfaces": ["path2"]}}}
            assert await network.seen(properties={"pvd": {"corp": "require"}}) == second

    run(main)


@pytest.mark.parametrize("stack", STACKS)
@BOTH
def test_a_local_endpoint_with_an_interface_or_an_address_is_where_it_comes_from(
    run: Run, two_paths: Network, stack: str, version: int
) -> None:
    second = two_paths.client.address(version, 1)

    async def main() -> None:
        async with ends(two_paths, stack, version) as network:
            assert await network.seen(local=taps.LocalEndpoint(interface="path2")) == second
            by_address = taps.LocalEndpoint(ip_address=second, interface="path2")
            assert await network.seen(local=by_address) == second
            # The property finds the interface of an address.
            seen = await network.seen(
                local=taps.LocalEndpoint(ip_address=second),
                properties={"interface": {"path2": "require"}},
            )
            assert seen == second

    run(main)


@BOTH
@ON_BOTH
@pytest.mark.usefixtures("kernel")
def test_the_other_interface_is_failover_when_the_preferred_one_is_dead(
    run: Run, two_paths: Network, version: int
) -> None:
    first = two_paths.client.address(version, 0)
    two_paths.paths[1].blackhole()

    async def main() -> None:
        async with ends(two_paths, "TCP", version) as network:
            assert await network.seen(properties={"interface": {"path2": "prefer"}}) == first

    run(main)


def test_a_type_of_interface_stands_for_all_of_it(run: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with ends(two_paths, "TCP") as network:
            wired = {"interface": {"ethernet": "require"}}
            assert await network.seen(properties=wired) == two_paths.client.address(4, 0)
            with two_paths.client.use(), pytest.raises(taps.NoCandidates) as caught:
                await network.there(properties={"interface": {"Wi-Fi": "require"}}).initiate()
            assert caught.value.rejected == {
                "lo (loopback)": ("interface Wi-Fi is required",),
                "path1 (wired)": ("interface Wi-Fi is required",),
                "path2 (wired)": ("interface Wi-Fi is required",),
            }

    run(main)


@pytest.mark.parametrize(
    ("properties", "sentence"),
    [
        ({"interface": {"path2": "require"}}, r"path2 \(wired\): is down"),
        ({"interface": {"wlan0": "require"}}, r"wlan0: there is none of that name \(lo "),
        ({"interface": {"lo": "require"}}, r"no path that is left leads to .*: lo \(loopback\)"),
        ({"interface": {"wired": "prohibit"}}, r"no path that is left leads to .*: lo"),
        ({"pvd": {"corporate": "require"}}, "no such Provisioning Domain"),
        ({"use_temporary_local_address": "require"}, "which is no temporary address"),
    ],
)
def test_what_no_path_can_fulfil_is_refused_before_any_packet(
    run: Run, two_paths: Network, properties: dict[str, Any], sentence: str
) -> None:
    two_paths.paths[1].down()

    async def main() -> None:
        async with ends(two_paths, "TCP", 6) as network:
            with two_paths.client.capture("path1") as capture:
                with two_paths.client.use():
                    connection = network.there(properties=properties).initiate()
                with pytest.raises(taps.EstablishmentError, match=sentence) as caught:
                    await connection
                assert caught.value.reason is taps.Reason.NO_CANDIDATES
                assert not caught.value.attempts
                assert not capture.look(lambda packet: packet.protocol == socket.IPPROTO_TCP)

    run(main)


def test_an_interface_without_a_way_to_the_peer_is_no_candidate(
    run: Run, two_paths: Network
) -> None:
    """Linux would take everybody for a neighbour there, and ask for three seconds who has it."""
    address = two_paths.shared_address()
    two_paths.client.ip(f"route del {address} dev path2")

    async def main() -> None:
        with two_paths.client.use():
            there = taps.Preconnection(
                remote=f"{address}:9",
                security=PLAIN,
                transport=taps.TransportProperties().prefer(interface="path2"),
            )
            connection = there.initiate()
        with pytest.raises(taps.EstablishmentError):
            await connection  # nobody listens
        assert [each.what for each in connection.report] == [f"TCP to {address}:9 from path1"]

    run(main)


def test_a_source_address_is_bound_where_routes_depend_on_it(run: Run, two_paths: Network) -> None:
    client = two_paths.client
    address = two_paths.shared_address()
    client.ip(
        f"route del {address} dev path2",
        f"route add {address} via 10.0.2.2 dev path2 table 102",
        f"rule add from {client.address(4, 1)} table 102",
    )

    async def main() -> None:
        async with ends(two_paths, "UDP") as network:
            client.ip(f"route del {address} dev path2")  # ends() made it again
            required = {"interface": {"path2": "require"}}
            assert await network.seen(properties=required) == client.address(4, 1)

    run(main)


@pytest.mark.parametrize("stack", ["TCP", "SCTP over UDP"])
def test_a_clone_takes_the_same_path(run: Run, two_paths: Network, stack: str) -> None:
    async def main() -> None:
        async with ends(two_paths, stack) as network:
            with two_paths.client.use():
                required = {"interface": {"path2": "require"}}
                connection = await network.there(properties=required).initiate()
                clone = await connection.clone()
            assert clone.local_endpoint is not None
            assert clone.local_endpoint.ip_address == two_paths.client.address(4, 1)
            clone.abort()
            connection.abort()

    run(main)


def test_a_device_of_a_vpn_is_a_tunnel(two_paths: Network) -> None:
    """As its program makes it."""
    import fcntl

    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this system has no /dev/net/tun")
    with two_paths.client.call(open, "/dev/net/tun", "r+b", buffering=0) as device:
        # TUNSETIFF, IFF_TUN without a header.
        request = struct.pack("16sH22x", b"vpn0", 0x1001)
        fcntl.ioctl(device, 0x400454CA, request)
        two_paths.client.ip("link set vpn0 up", "addr add 10.99.0.1/24 dev vpn0")
        with two_paths.client.use():
            selection = taps.Preconnection(
                remote="192.0.2.1:80",
                transport=taps.TransportProperties().require(interface="VPN"),
                system=taps.System(),
            ).select()
        assert selection.paths is not None
        assert [path.shown for path in selection.paths.ranked] == ["vpn0 (tunnel)"]


# -- Provisioning Domains


@pytest.mark.parametrize("stack", STACKS)
def test_a_provisioning_domain_is_an_interface_or_an_address(
    run: Run, two_paths: Network, stack: str
) -> None:
    client = two_paths.client
    first, second = client.address(4, 0), client.address(4, 1)
    client.ip("addr add 10.0.1.77/24 dev path1")

    async def main() -> None:
        async with ends(two_paths, stack) as network:
            domains = {
                "corporate": {"interfaces": ["path2"], "kinds": ["office"]},
                "lab": {"addresses": ["10.0.1.77"]},
            }
            network.systems = network.systems[0], taps.System(provisioning_domains=domains)

            async def seen(**pvd: str) -> str:
                return await network.seen(properties={"pvd": pvd})

            assert await seen(corporate="require") == second
            assert await seen(office="prefer") == second
            assert await seen(corporate="prohibit", lab="prohibit") == first
            assert await seen(lab="require") == "10.0.1.77"
            assert await seen(nowhere="prefer") == first

    run(main)


class _NameServer(asyncio.DatagramProtocol):
    """Has one IPv4 address for every name, and says so only over TCP of long ones.

    Args:
        address: That for whoever asks.

    Attributes:
        asked: Who asked for it, in order: type of the socket and source address.
    """

    def __init__(self, address: Callable[[str], str]) -> None:
        self._address = address
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(self._answer("UDP", data, address[0]), address)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        asker = writer.get_extra_info("peername")[0]
        answer = self._answer("TCP", await reader.readexactly(size), asker)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()
        await writer.wait_closed()

    def _answer(self, kind: str, data: bytes, asker: str) -> bytes:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        question = query.question[0]
        if question.rdtype == dns.rdatatype.A:
            self.asked.append((kind, asker))
            if kind == "UDP" and question.name.to_text().startswith("long"):
                answer.flags |= dns.flags.TC
            else:
                found = self._address(asker)
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", found))
        return answer.to_wire()


@contextlib.asynccontextmanager
async def name_server(
    host: Host, at: str, address: Callable[[str], str]
) -> AsyncIterator[_NameServer]:
    """One on a host, on port 53."""
    family = socket.AF_INET6 if ":" in at else socket.AF_INET
    with host.use():
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        stream = socket.socket(family, socket.SOCK_STREAM)
    datagrams.bind((at, 53))
    stream.bind((at, 53))
    endpoint, names = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _NameServer(address), sock=datagrams
    )
    server = await asyncio.start_server(names.serve, sock=stream)
    try:
        yield names
    finally:
        server.close()
        await server.wait_closed()
        endpoint.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def to_name(
    network: Network, name: str, system: taps.System, **interface: str
) -> AsyncIterator[taps.Connection[Any]]:
    """A client's Connection to a Listener on all of the server's addresses, by name."""
    with network.server.use():
        listening = taps.Preconnection(local="0.0.0.0:0", security=PLAIN).listen()
    async with listening as listener:
        with network.client.use():
            connection = taps.Preconnection(
                remote=f"{name}:{listener.local_endpoints[0].port}",
                security=PLAIN,
                transport=taps.TransportProperties(interface=interface),
                system=system,
            ).initiate()
        try:
            yield await connection
        finally:
            connection.abort()


@pytest.mark.requirement("R-9623-4.1.1.1-01")
@pytest.mark.parametrize("name", ["split.example", "long.example"])
@BOTH
def test_a_name_is_asked_for_by_its_path_and_the_answer_stays_with_it(
    run: Run, two_paths: Network, name: str, version: int
) -> None:
    """The server means another address on each: it knows the asker by the source address."""
    client, server = two_paths.client, two_paths.server
    theirs = {client.address(version, path): server.address(4, path) for path in (0, 1)}
    kinds = ["UDP", "TCP"] if name == "long.example" else ["UDP"]

    async def main() -> None:
        address = two_paths.shared_address(version)
        system = taps.System(resolver=taps.Resolver(nameservers=[address]))
        async with name_server(server, address, theirs.__getitem__) as names:
            for turn, path in enumerate((1, 0, 1, 0)):
                async with to_name(
                    two_paths, name, system, **{f"path{path + 1}": "require"}
                ) as connection:
                    own = client.address(version, path)
                    assert connection.local_endpoint is not None
                    assert connection.local_endpoint.ip_address == client.address(4, path)
                    assert connection.remote_endpoint is not None
                    assert connection.remote_endpoint.ip_address == theirs[own]
                    (asked,) = connection.report.resolutions
                    assert asked.path == f"path{path + 1}"
                    # What is known is known for this path only.
                    assert names.asked == ([(kind, own) for kind in kinds] if turn < 2 else [])
                names.asked.clear()

    run(main)


def test_a_name_is_not_asked_for_where_its_path_does_not_lead(run: Run, two_paths: Network) -> None:
    address = two_paths.shared_address()
    two_paths.client.ip(f"route del {address} dev path2")

    async def main() -> None:
        system = taps.System(resolver=taps.Resolver(nameservers=[address]))
        async with name_server(two_paths.server, address, lambda _: address) as names:
            with pytest.raises(taps.EstablishmentError) as caught:
                async with to_name(two_paths, "www.example", system, path2="require"):
                    pass
        assert str(caught.value) == (
            f"www.example on path2 cannot be resolved: {address}: path2 (wired) does not lead there"
        )
        assert caught.value.reason is taps.Reason.RESOLUTION_FAILED
        assert names.asked == []

    run(main)


def test_a_name_server_on_this_machine_is_asked_whatever_the_path(
    run: Run, two_paths: Network
) -> None:
    async def main() -> None:
        system = taps.System(resolver=taps.Resolver(nameservers=["127.0.0.1"]))
        address = two_paths.server.address(4, 1)
        async with (
            name_server(two_paths.client, "127.0.0.1", lambda _: address) as names,
            to_name(two_paths, "www.example", system, path2="require") as connection,
        ):
            assert connection.local_endpoint is not None
            assert connection.local_endpoint.ip_address == two_paths.client.address(4, 1)
            assert names.asked == [("UDP", "127.0.0.1")]
            # It would say the same for any path.
            async with to_name(two_paths, "www.example", system, path1="avoid"):
                assert names.asked == [("UDP", "127.0.0.1")]

    run(main)


def test_names_are_asked_of_the_resolvers_of_the_domain(run: Run, two_paths: Network) -> None:
    address, resolver = two_paths.shared_address(), two_paths.server.address(4, 1)

    async def main() -> None:
        with two_paths.server.use():
            listening = taps.Preconnection(local=f"{address}:0", security=PLAIN).listen()
        domains = {"corporate": {"interfaces": ["path2"], "resolvers": [resolver]}}
        async with (
            listening as listener,
            name_server(two_paths.server, resolver, lambda _: address) as names,
        ):
            with two_paths.client.use():
                connection = taps.Preconnection(
                    remote=f"only.corporate:{listener.local_endpoints[0].port}",
                    security=PLAIN,
                    transport=taps.TransportProperties().require(pvd="corporate"),
                    system=taps.System(provisioning_domains=domains),
                ).initiate()
            await connection
            assert connection.local_endpoint is not None
            assert connection.local_endpoint.ip_address == two_paths.client.address(4, 1)
            assert names.asked == [("UDP", two_paths.client.address(4, 1))]
            connection.abort()

    run(main)


# -- temporary addresses


@contextlib.contextmanager
def temporary_address(network: Network) -> Iterator[tuple[str, str]]:
    """(public, temporary) addresses of the client on its first path, as its kernel makes them."""
    client, public = network.client, "2001:db8:0:1::10"
    client.sysctl("net/ipv6/conf/path1/use_tempaddr", 1)
    client.ip(
        f"addr add {public}/64 dev path1 mngtmpaddr nodad valid_lft 3600 preferred_lft 1800",
        f"addr del {client.address(6)}/64 dev path1",
    )
    (made,) = (
        each["local"]
        for each in json.loads(client.run("ip", "-j", "addr", "show", "path1"))[0]["addr_info"]
        if each.get("temporary")
    )
    for address in (public, made):
        network.path.introduce(client, address)
    yield public, made


@pytest.mark.requirement("G-9622-6.2.13-01")
@pytest.mark.parametrize("stack", ALL_STACKS)
@pytest.mark.parametrize("named", [False, True], ids=["any interface", "its interface"])
def test_temporary_addresses_are_used_or_not_as_is_asked_for(
    run: Run, two_paths: Network, stack: str, named: bool
) -> None:
    more = {"interface": {"path1": "prefer"}} if named else {}

    async def main() -> None:
        async with ends(two_paths, stack, 6) as network:
            with temporary_address(two_paths) as (public, temporary):
                assert await network.seen(properties=more) == temporary  # the RFC's default
                for preference, expected in {
                    "require": temporary,
                    "prefer": temporary,
                    "avoid": public,
                    "prohibit": public,
                }.items():
                    wanted = {"use_temporary_local_address": preference}
                    assert await network.seen(properties={**wanted, **more}) == expected

    run(main)


def test_whether_the_address_is_temporary_can_be_read(run: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with ends(two_paths, "UDP", 6) as network:
            with temporary_address(two_paths), two_paths.client.use():
                for preference in ("prefer", "avoid"):
                    asked = {"use_temporary_local_address": preference}
                    connection = await network.there(properties=asked).initiate()
                    properties = connection.properties
                    is_used = properties["useTemporaryLocalAddress"]
                    assert is_used is (preference == "prefer")
                    assert properties.effect("useTemporaryLocalAddress") is None
                    connection.abort()
        async with ends(two_paths, "UDP", 4) as network:
            with two_paths.client.use():
                connection = await network.there().initiate()
                assert connection.properties["useTemporaryLocalAddress"] is False
                sentence = connection.properties.effect("useTemporaryLocalAddress")
                assert sentence == "no effect on UDP: IPv4 has no temporary addresses"
                connection.abort()

    run(main)


def test_a_temporary_address_that_is_required_but_not_there_is_told_before_any_packet(
    run: Run, two_paths: Network
) -> None:
    async def main() -> None:
        async with ends(two_paths, "TCP", 6) as network:
            own = two_paths.client.address(6)
            with two_paths.client.use(), pytest.raises(taps.NoCandidates) as caught:
                await network.there(
                    properties={"use_temporary_local_address": "require"}
                ).initiate()
            assert f"would be sent from {own}, which is no temporary address" in str(caught.value)

    run(main)


# -- link-local addresses


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_a_link_local_address_is_reached_by_its_zone_or_by_the_required_interface(
    run: Run, two_paths: Network, stack: str
) -> None:
    def link_local(host: Host) -> str:
        """The kernel makes it when it sees the cable, which may be a moment later."""
        for _ in range(100):
            shown = json.loads(host.run("ip", "-j", "addr", "show", "path2"))[0]["addr_info"]
            for each in shown:
                if each["scope"] == "link" and not each.get("tentative"):
                    return str(each["local"])
            time.sleep(0.1)
        raise AssertionError("path2 has no link-local address")

    theirs, own = link_local(two_paths.server), link_local(two_paths.client)

    async def main() -> None:
        # The server listens at all of its addresses.
        made = Ends(two_paths, stack, "::")
        made.server, made.client = local_identity(theirs) if "TLS" in stack else (PLAIN, PLAIN)
        with two_paths.server.use():
            listening = taps.Preconnection(
                local=made.local(),
                transport=transport(stack),
                security=made.server,
                system=made.systems[0],
            ).listen()
        async with listening as made.listener:
            made.address = f"{theirs}%path2"
            assert await made.seen() == own
            made.address = theirs
            assert await made.seen(properties={"interface": {"path2": "require"}}) == own
            assert await made.seen(local=taps.LocalEndpoint(interface="path2")) == own
            made.address = theirs
            with pytest.raises(taps.EstablishmentError, match="an address on a link: say on which"):
                await made.seen()
            made.address = f"{theirs}%path1"
            with pytest.raises(taps.EstablishmentError, match="no path that is left leads to"):
                await made.seen(properties={"interface": {"path2": "require"}})

    run(main)


# -- listening


@pytest.mark.requirement("R-9623-4.7-02", "G-9622-6.1.2-01")
@pytest.mark.parametrize("stack", ["TCP", "UDP"])
@pytest.mark.parametrize(
    "wanted", [{"path2": "require"}, {"path1": "prohibit", "lo": "prohibit"}], ids=str
)
def test_a_listener_is_reached_on_the_paths_that_are_left_and_on_no_other(
    run: Run, two_paths: Network, stack: str, wanted: dict[str, str]
) -> None:
    server = two_paths.server

    async def main() -> None:
        properties = transport(stack).set("interface", wanted)
        with server.use():
            listening = taps.Preconnection(
                local=":0", transport=properties, security=PLAIN, system=taps.System()
            ).listen()
        async with listening as listener:
            assert {each.interface for each in listener.local_endpoints} == {"path2"}
            with server.use():
                assert listener.remote_endpoint.ip_address == server.address(4, 1)
            port = listener.local_endpoints[0].port
            for path, reached in ((1, True), (0, False)):
                with two_paths.client.use():
                    connection = taps.Preconnection(
                        remote=f"{server.address(4, path)}:{port}",
                        transport=transport(stack),
                        security=PLAIN,
                        system=taps.System(),
                    ).initiate()
                if stack == "TCP" and not reached:
                    with pytest.raises(taps.EstablishmentError, match="refused"):
                        await connection
                    continue
                await connection
                await connection.send(b"hello")
                if reached:
                    (await listener.accept()).abort()
                else:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await listener.accept()
                connection.abort()

    run(main)


@pytest.mark.requirement("R-9623-4.7-03")
@pytest.mark.parametrize("stack", ["TCP", "UDP"])
def test_a_listener_is_reached_at_addresses_that_came_later(
    run: Run, two_paths: Network, stack: str
) -> None:
    async def main() -> None:
        with two_paths.server.use():
            listening = taps.Preconnection(
                local=":0", transport=transport(stack), security=PLAIN
            ).listen()
        async with listening as listener:
            port = listener.local_endpoints[0].port
            two_paths.server.ip("addr add 10.0.2.99/24 dev path2")
            with two_paths.client.use():
                connection = taps.Preconnection(
                    remote=f"10.0.2.99:{port}", transport=transport(stack), security=PLAIN
                ).initiate()
            await connection
            await connection.send(b"hello")
            (await listener.accept()).abort()
            connection.abort()

    run(main)


@pytest.mark.requirement("R-9623-4.7-03")
@pytest.mark.parametrize("stack", ["TCP", "UDP"])
def test_a_listener_follows_the_paths_that_it_may_use(
    run: Run, two_paths: Network, stack: str
) -> None:
    client, server = two_paths.client, two_paths.server
    two_paths.paths[1].down()

    async def main() -> None:
        properties = transport(stack).prohibit(interface=["loopback", "path1"])
        with server.use():
            listening = taps.Preconnection(
                local=":0", transport=properties, security=PLAIN, system=taps.System()
            ).listen()
        with pytest.raises(taps.NoCandidates, match=r"path2 \(wired\): is down"):
            await listening
        properties.no_preference(interface="path1")
        with server.use():
            listening = taps.Preconnection(
                local=":0", transport=properties, security=PLAIN, system=taps.System()
            ).listen()
        async with listening as listener:
            port = listener.local_endpoints[0].port

            async def interfaces(wanted: set[str]) -> None:
                async with asyncio.timeout(10):
                    while {each.interface for each in listener.local_endpoints} != wanted:
                        await asyncio.sleep(0.01)

            await interfaces({"path1"})
            two_paths.paths[1].up()
            await interfaces({"path1", "path2"})
            assert {each.port for each in listener.local_endpoints} == {port}
            with client.use():
                connection = taps.Preconnection(
                    remote=f"{server.address(4, 1)}:{port}",
                    transport=transport(stack),
                    security=PLAIN,
                    system=taps.System(),
                ).initiate()
            await connection
            await connection.send(b"hello")
            (await listener.accept()).abort()
            connection.abort()
            # Down is not gone.
            two_paths.paths[1].down()
            server.ip("link del path1")
            await interfaces({"path2"})

    run(main)


# -- what becomes of paths


@contextlib.asynccontextmanager
async def watched(
    network: Network, stack: str, version: int, path: int
) -> AsyncIterator[tuple[taps.Connection[Any], list[taps.PathChange]]]:
    """A Connection of the client's on one path, and the PathChanges that it gets."""
    changes: list[taps.PathChange] = []
    async with ends(network, stack, version) as made:
        with network.client.use():
            properties = {"interface": {f"path{path + 1}": "require"}}
            connection = await made.there(properties=properties).initiate()
            connection.on(taps.PathChange, changes.append)
        await connection.send(b"hello")
        assert made.listener is not None
        accepted = await made.listener.accept()
        yield connection, changes
        connection.abort()
        accepted.abort()


async def until(changes: list[taps.PathChange], count: int) -> str:
    async with asyncio.timeout(10):
        while len(changes) < count:
            await asyncio.sleep(0.01)
    return changes[-1].reason


@pytest.mark.requirement("R-9623-7.2-01", "R-9623-7.2-02")
@pytest.mark.parametrize("stack", ALL_STACKS)
@BOTH
def test_a_path_that_goes_and_comes_back_is_told_and_ends_nothing(
    run: Run, two_paths: Network, stack: str, version: int
) -> None:
    async def main() -> None:
        async with watched(two_paths, stack, version, 1) as (connection, changes):
            two_paths.paths[1].down()
            assert await until(changes, 1) == "path2 is down"
            two_paths.paths[1].up()
            assert await until(changes, 2) == "path2 is up again"
            own = two_paths.client.address(version, 1)
            assert changes[0].local == (taps.LocalEndpoint(ip_address=own, interface="path2"),)
            assert connection.state is taps.ConnectionState.ESTABLISHED
            # It works as before.
            await connection.send(b"again")

    run(main)


@BOTH
def test_an_address_that_goes_or_a_smaller_mtu_is_told(
    run: Run, two_paths: Network, version: int
) -> None:
    own = two_paths.client.address(version, 1)
    length = 24 if version == 4 else 64

    async def main() -> None:
        async with watched(two_paths, "UDP", version, 1) as (_, changes):
            two_paths.client.ip("link set path2 mtu 1400")
            assert await until(changes, 1) == "the MTU of path2 is 1400 bytes now"
            two_paths.client.ip(f"addr del {own}/{length} dev path2")
            assert await until(changes, 2) == f"path2 has lost {own}"
            two_paths.client.ip(f"addr add {own}/{length} dev path2")
            assert await until(changes, 3) == f"path2 has got {own}"

    run(main)


def test_who_is_on_another_path_hears_nothing(run: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with (
            watched(two_paths, "UDP", 4, 0) as (_, untouched),
            watched(two_paths, "TCP", 4, 1) as (_, changes),
        ):
            two_paths.paths[1].down()
            await until(changes, 1)
            assert not untouched

    run(main)


def test_nothing_is_watched_that_nobody_asked_about_and_all_of_it_ends(
    run: Run, two_paths: Network
) -> None:
    """What is left open would fail the test: ``run`` looks."""

    async def main() -> None:
        async with ends(two_paths, "TCP") as made:
            with two_paths.client.use():
                connection = await made.there().initiate()
                runtime = made.systems[1].runtime()
                assert runtime.monitor is None
                events = connection.events()
                assert runtime.monitor is not None
                while not runtime.monitor.watching:  # what asks the kernel is imported in a thread
                    await asyncio.sleep(0.01)
            connection.abort()
            while runtime.monitor.watching:  # the socket closes in a later turn
                await asyncio.sleep(0)
            assert [type(event) async for event in events] == [taps.ConnectionError]
            assert made.listener is not None

    run(main)


def test_an_event_log_has_path_changes_too(run: Run, two_paths: Network) -> None:
    async def main() -> None:
        async with ends(two_paths, "UDP") as made:
            made.systems = made.systems[0], taps.System(event_log=10)
            with two_paths.client.use():
                connection = await made.there().initiate()
            two_paths.paths[0].down()
            async with asyncio.timeout(10):
                while [each["event"] for each in connection.event_log][-1] != "PathChange":
                    await asyncio.sleep(0.01)
            connection.abort()

    run(main)


# -- what there is


def ip_says(host: Host) -> dict[str, tuple[Any, ...]]:
    """Name → index, MTU, whether it is up, addresses: as iproute2 has it."""
    return {
        link["ifname"]: (
            link["ifindex"],
            link["mtu"],
            {"UP", "LOWER_UP"} <= set(link["flags"]),
            {
                (each["local"], each["prefixlen"], "temporary" in each, "deprecated" in each)
                for each in link["addr_info"]
                if not {"tentative", "dadfailed"} & set(each)
            },
        )
        for link in json.loads(host.run("ip", "-json", "address", "show"))
    }


def test_interfaces_and_addresses_are_those_that_iproute2_tells_of(two_paths: Network) -> None:
    host = two_paths.client
    host.sysctl("net/ipv6/conf/path2/use_tempaddr", 2)
    host.ip(
        "link add pair1 type veth peer name pair2",
        "link add bridge1 type bridge",
        "link set pair1 up mtu 1400",
        "link set bridge1 up",
        "address add 203.0.113.1 peer 203.0.113.2 dev pair1",
        "address add 203.0.113.9/28 dev pair1",
        "address add 203.0.113.10/28 dev pair1",  # a secondary one
        "address add 2001:db8:77::1/64 dev pair1 nodad preferred_lft 0",
        "address add 2001:db8:78::1/64 dev pair1 nodad",
        "address add 2001:db8:79::1 peer 2001:db8:79::2 dev pair1 nodad",
        "address add 2001:db8:80::1/64 dev path2 mngtmpaddr",
        *(f"link add many{number} type veth peer name others{number}" for number in range(40)),
    )
    with host.use():
        survey = NetlinkSurvey()
        said: dict[str, tuple[Any, ...]] = {}
        until = time.monotonic() + 10
        # The kernel gives itself addresses for a while.
        while said != ip_says(host) and time.monotonic() < until:
            said = {
                each.name: (
                    each.index,
                    each.mtu,
                    each.up,
                    {
                        (of.address, of.prefix_length, of.temporary, of.deprecated)
                        for of in each.addresses or ()
                    },
                )
                for each in survey.interfaces()
            }
        assert said == ip_says(host)
    flags = {each[2:] for _, _, _, addresses in said.values() for each in addresses}
    assert flags == {(False, False), (True, False), (False, True)}


def test_a_network_is_known_by_the_addresses_from_which_the_machine_goes_out(
    two_paths: Network,
) -> None:
    host = two_paths.client
    paths = taps.System().paths

    def network() -> Hashable:
        paths.changed()
        with host.use():
            return paths.network

    def of(path: int) -> Hashable:
        return frozenset({str(ipaddress.ip_network(f"{host.address(4, path)}/24", strict=False))})

    assert network() == frozenset()
    host.ip("route add default dev path1")
    assert network() == of(0)
    host.ip("route replace default dev path2")
    assert network() == of(1)
    # Another lease, or another privacy address, is no other network.
    near = str(ipaddress.ip_address(host.address(4, 0)) + 100)
    host.ip(f"address add {near}/24 dev path1", f"route replace default dev path1 src {near}")
    assert network() == of(0)


def test_routes_are_those_that_iproute2_tells_of(two_paths: Network) -> None:
    host = two_paths.client
    host.ip(
        "route add 198.51.100.0/24 dev path2",
        "route add 2001:db8:9::/48 dev path2",
        "route add unreachable 198.51.100.128/25",
    )
    with host.use():
        survey = NetlinkSurvey()
        names = {each.index: each.name for each in survey.interfaces()}
        for address in (
            *("198.51.100.1", "198.51.100.129", "203.0.113.200", "224.0.0.251", "127.0.0.2"),
            *("2001:db8:9::1", "2001:db8:ffff::1", "ff02::fb", "::1"),
        ):
            answer = subprocess.run(
                ["ip", "-json", "route", "get", "fibmatch", address],
                capture_output=True,
                text=True,
                check=False,
            )
            routes = json.loads(answer.stdout or "[]") if answer.returncode == 0 else []
            usual = survey.usual(address)
            # What stays here is no way to anybody.
            leads = [each for each in routes if each.get("type") not in ("local", "unreachable")]
            assert names.get(usual or 0) == (leads[0]["dev"] if leads else None), address


# -- explanations


def test_select_explains_the_paths(two_paths: Network) -> None:
    two_paths.paths[0].down()
    with two_paths.client.use():
        selection = taps.Preconnection(
            remote="192.0.2.1:80",
            security=PLAIN,
            transport=taps.TransportProperties()
            .prefer(interface="path2")
            .prohibit(interface="loopback")
            .avoid(pvd="corporate"),
            system=taps.System(),
        ).select()
    assert str(selection).endswith(
        "paths:\n"
        "  1. path2 (wired): interface path2 is preferred\n"
        "  not lo (loopback): interface loopback is prohibited\n"
        "  not path1 (wired): is down\n"
        "  pvd corporate: system policy has no such Provisioning Domain (there is none)"
    )
    said = selection.as_json()["paths"]
    assert [each["path"] for each in said["ranked"]] == ["path2"]
    assert [each["path"] for each in said["rejected"]] == ["lo (loopback)", "path1 (wired)"]
    assert not said["system_chooses"]


def test_where_no_preference_makes_a_difference_the_system_chooses(
    run: Run, two_paths: Network
) -> None:
    async def main() -> None:
        async with ends(two_paths, "TCP") as made:
            wanted = {"interface": {"wifi": "prefer", "cellular": "prohibit"}}
            with two_paths.client.use():
                there = made.there(properties=wanted)
                assert "the system's choice" in str(there.select())
                connection = await there.initiate()
            (attempt,) = connection.report
            assert attempt.what == f"TCP to {made.address}:{made.listener.local_endpoints[0].port}"
            connection.abort()

    run(main)
