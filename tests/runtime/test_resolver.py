"""Real dnspython against a small DNS server on loopback; nothing leaves the machine."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taps_core as taps
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError, PropertyError, Reason
from taps_core.planning.derivation import MAX_ADDRESSES, RESOLUTION_DELAY, balanced
from taps_core.runtime import name_files
from taps_core.runtime import names as module
from taps_core.runtime.names import Names
from taps_core.runtime.resolver import Resolver
from taps_core.testing import MemoryStream, MemoryTLS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

DROP = "never answered"


class NameServer(asyncio.DatagramProtocol):
    """A zone as a table: (name, type) → record texts, an rcode, or DROP.

    Names that it has nothing for do not exist; a name with another type has
    no data. Over UDP an answer above 512 bytes is truncated.
    """

    def __init__(self, zone: dict[tuple[str, str], Any]) -> None:
        self.zone = zone
        self.asked: list[tuple[str, str]] = []
        self.waiting: list[tuple[int, asyncio.Event]] = []
        self.over_tcp = 0
        self.gates: dict[tuple[str, str], asyncio.Event] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def was_asked(self, count: int) -> None:
        if len(self.asked) < count:
            event = asyncio.Event()
            self.waiting.append((count, event))
            await event.wait()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._own(asyncio.ensure_future(self._reply(data, address)))

    def _own(self, task: Any) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _reply(self, data: bytes, address: Any) -> None:
        response = await self.answer(dns.message.from_wire(data))
        if response is None:
            return
        wire = response.to_wire(max_size=65535)
        if len(wire) > 512:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        self.transport.sendto(wire, address)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.over_tcp += 1
        self._own(asyncio.current_task())
        size = int.from_bytes(await reader.readexactly(2), "big")
        response = await self.answer(dns.message.from_wire(await reader.readexactly(size)))
        assert response is not None
        wire = response.to_wire(max_size=65535)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text().lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, rdtype))
        for count, event in self.waiting:
            if len(self.asked) >= count:
                event.set()
        gate = self.gates.get((name, rdtype))
        if gate is not None:
            await gate.wait()
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        while True:
            found = self.zone.get((name, rdtype))
            if found is DROP:
                return None
            if isinstance(found, dns.rcode.Rcode):
                response.set_rcode(found)
            elif found is not None:
                response.answer.append(dns.rrset.from_text_list(name, 60, "IN", rdtype, found))
            elif (name, "CNAME") in self.zone:
                target = self.zone[name, "CNAME"]
                response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
                name = target
                continue
            elif not any(owner == name for owner, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            return response


async def ports(
    server: NameServer, address: str
) -> tuple[asyncio.Server, asyncio.DatagramTransport]:
    """One for TCP and one for UDP, of the same number."""
    loop = asyncio.get_running_loop()
    for left in reversed(range(20)):
        listener = await asyncio.start_server(server.stream, address, 0)
        server.port = listener.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: server, local_addr=(address, server.port)
            )
            break
        except OSError:
            # What was free for TCP may be taken for UDP, by somebody else.
            listener.close()
            await listener.wait_closed()
            if not left:
                raise
    return listener, transport


@asynccontextmanager
async def serving(
    zone: dict[tuple[str, str], Any], address: str = "127.0.0.1"
) -> AsyncIterator[NameServer]:
    server = NameServer(zone)
    listener, transport = await ports(server, address)
    try:
        yield server
    finally:
        for gate in server.gates.values():
            gate.set()
        listener.close()
        while server.tasks:
            await asyncio.wait(server.tasks)
        await listener.wait_closed()
        transport.close()
        await asyncio.sleep(0)


@pytest.fixture
def no_hosts(tmp_path: Path) -> Path:
    path = tmp_path / "no-hosts"
    path.write_text("")
    return path


def from_both_families(address: str) -> str:
    """Whatever this machine has: source addresses on a network with IPv6 and IPv4."""
    return "2001:db8::99" if ":" in address else "192.0.2.99"


def asking(server: NameServer, hosts: Path, **options: Any) -> Resolver:
    options = {
        "nameservers": ["127.0.0.1"],
        # Some tests count what is asked: a busy machine is not to ask again.
        "retry_after": 30.0,
        "source_of": from_both_families,
        **options,
    }
    return Resolver(port=server.port, hosts_file=hosts, **options)


def run(main: Callable[[], Coroutine[Any, Any, None]], loop: str = "asyncio") -> None:
    factory = (
        asyncio.new_event_loop
        if loop == "asyncio"
        else pytest.importorskip("uvloop").new_event_loop
    )

    async def checked() -> None:
        async with asyncio.timeout(60):
            await main()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, "a task is left"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(checked())


def remote(name: str = "www.example", **rest: Any) -> RemoteEndpoint:
    return RemoteEndpoint(hostname=name, **{"port": 443, **rest})


def addresses(found: list[RemoteEndpoint]) -> list[str | None]:
    return [endpoint.ip_address for endpoint in found]


# -- what needs no name server


@pytest.mark.parametrize(
    "endpoint",
    [
        RemoteEndpoint.parse("[2001:db8::1]:443"),
        RemoteEndpoint.parse("192.0.2.1:443"),
        RemoteEndpoint.parse("fe80::1%eth0"),
        RemoteEndpoint(hostname="www.example", ip_address="192.0.2.1", port=443),
        RemoteEndpoint(identifiers={"_unix.path": "/run/x"}),
        RemoteEndpoint(multicast_group="ff02::1", port=5353),
        LocalEndpoint(port=7000),
        LocalEndpoint(interface="eth0"),
        LocalEndpoint(),
    ],
    ids=str,
)
def test_what_needs_no_resolution_comes_back_as_it_is(endpoint: Any) -> None:
    coroutine = Resolver(hosts_file="/nonexistent").resolve(endpoint)
    with pytest.raises(StopIteration) as finished:
        coroutine.send(None)  # done at the first step: nothing was awaited
    assert finished.value.value == [endpoint]


def test_literals_localhost_and_the_hosts_file_import_no_dnspython(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 box\n")
    program = f"""
        import asyncio, sys
        from taps_core.model.endpoints import RemoteEndpoint
        from taps_core.runtime.resolver import Resolver

        async def main():
            resolver = Resolver(hosts_file={str(hosts)!r})
            for text in ("127.0.0.1:7", "[::1]:7", "localhost:7", "box:7"):
                await resolver.resolve(RemoteEndpoint.parse(text))

        asyncio.run(main())
        print(sorted(name for name in sys.modules if name.partition(".")[0] in ("dns", "ssl")))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    # asyncio itself imports ssl.
    assert "dns" not in done.stdout.replace("'ssl'", "")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "db.localhost", "a.b.localhost."])
def test_localhost_is_loopback_and_nobody_is_asked(name: str, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.66 localhost db.localhost\n")  # RFC 6761 lets nobody redirect it
    resolver = Resolver(nameservers=[], hosts_file=hosts)

    async def main() -> None:
        found = await resolver.resolve(remote(name, port=7000))
        assert addresses(found) in (["::1", "127.0.0.1"], ["::1"], ["127.0.0.1"])
        assert all(it.hostname == name and it.port == 7000 for it in found)

    run(main)


@pytest.mark.parametrize("missing", ["::1", "127.0.0.1"])
def test_localhost_has_only_the_families_of_this_machine(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            if address[0] == missing:
                raise OSError("Cannot assign requested address")

    monkeypatch.setattr(socket, "socket", Socket)
    assert module._loopback() == [it for it in ("::1", "127.0.0.1") if it != missing]


# -- the hosts file


def test_the_hosts_file_goes_before_dns_and_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# a comment\n"
        "192.0.2.1   Www.Example alias  # the old one\n"
        "2001:db8::1 www.example.\n"
        "192.0.2.1   www.example\n"
        "nonsense    other.example\n"
        "192.0.2.9\n"
        "fe80::5%eth7 link.example\n"
        "\n",
    )

    async def main() -> None:
        async with serving({("other.example.", "A"): ["192.0.2.200"]}) as server:
            resolver = asking(server, hosts)
            found = await resolver.resolve(remote("WWW.example"))
            assert addresses(found) == ["192.0.2.1", "2001:db8::1"]
            assert [it.hostname for it in found] == ["WWW.example"] * 2
            assert addresses(await resolver.resolve(remote("alias"))) == ["192.0.2.1"]
            (scoped,) = await resolver.resolve(remote("link.example"))
            assert (scoped.ip_address, scoped.interface) == ("fe80::5", "eth7")
            assert server.asked == []
            assert addresses(await resolver.resolve(remote("other.example"))) == ["192.0.2.200"]

            hosts.write_text("192.0.2.77 www.example\n")
            status = hosts.stat()
            os.utime(hosts, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
            assert addresses(await resolver.resolve(remote())) == ["192.0.2.77"]
            hosts.unlink()
            with pytest.raises(EstablishmentError):
                await resolver.resolve(remote())

    run(main)


def test_a_big_hosts_file_is_read_off_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"0.0.0.0 ad{i}.example\n" for i in range(5000)))
    readers: list[int] = []
    parse = name_files.parse_hosts

    def noting(text: str, limit: int) -> Any:
        readers.append(threading.get_ident())
        return parse(text, limit)

    monkeypatch.setattr(module, "parse_hosts", noting)

    async def main() -> None:
        resolver = Resolver(hosts_file=hosts)
        assert addresses(await resolver.resolve(remote("ad4999.example"))) == ["0.0.0.0"]
        await resolver.resolve(remote("ad1.example"))
        assert len(readers) == 1
        assert readers[0] != threading.get_ident()

    run(main)


def test_a_name_in_the_hosts_file_has_no_more_addresses_than_are_used(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"10.0.{i >> 8}.{i & 255} many\n" for i in range(1000)))

    async def main() -> None:
        assert len(await Resolver(hosts_file=hosts).resolve(remote("many"))) == MAX_ADDRESSES

    run(main)


# -- DNS


@pytest.mark.requirement("R-9623-4.1.1.1-01")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_and_aaaa_are_asked_side_by_side_and_ipv6_comes_first(loop: str, no_hosts: Path) -> None:
    async def main() -> None:
        zone = {
            ("www.example.", "A"): ["192.0.2.2", "192.0.2.1"],
            ("www.example.", "AAAA"): ["2001:db8::2", "2001:db8::1"],
        }
        async with serving(zone) as server:
            # Neither is answered before both were asked.
            gate = asyncio.Event()
            server.gates = dict.fromkeys(zone, gate)
            task = asyncio.ensure_future(
                asking(server, no_hosts).resolve(remote(protocol="tcp", hop_limit=3))
            )
            await server.was_asked(2)
            gate.set()
            found = await task
            # The server shuffles the records of each answer.
            assert set(addresses(found[:2])) == {"2001:db8::1", "2001:db8::2"}
            assert set(addresses(found[2:])) == {"192.0.2.1", "192.0.2.2"}
            assert {(it.hostname, it.port, it.protocol, it.hop_limit) for it in found} == {
                ("www.example", 443, "tcp", 3)
            }

    run(main, loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_name_server_may_have_an_ipv6_address(loop: str, no_hosts: Path) -> None:
    async def main() -> None:
        many = [f"10.0.{i}.1" for i in range(200)]
        zone = {("www.example.", "A"): ["192.0.2.1"], ("many.example.", "A"): many}
        async with serving(zone, "::1") as server:
            resolver = asking(server, no_hosts, nameservers=["::1"], timeout=5.0)
            assert addresses(await resolver.resolve(remote())) == ["192.0.2.1"]
            assert len(await resolver.resolve(remote("many.example"))) == MAX_ADDRESSES
            assert server.over_tcp == 1
            with pytest.raises(EstablishmentError, match=rf"says \[::1\]:{server.port}"):
                await resolver.resolve(remote("nosuch.example"))

    run(main, loop)


def test_a_local_endpoint_is_resolved_just_so(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("me.example.", "A"): ["127.0.0.5"]}) as server:
            found = await asking(server, no_hosts).resolve(LocalEndpoint.parse("me.example:0"))
            assert found == [LocalEndpoint(hostname="me.example", ip_address="127.0.0.5", port=0)]

    run(main)


def test_records_of_a_service_do_not_say_where_to_listen(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {
            ("me.example.", "A"): ["127.0.0.5"],
            ("_xmpp-client._tcp.me.example.", "SRV"): ["1 1 5299 other.example."],
        }
        async with serving(zone) as server:
            (found,) = await asking(server, no_hosts).resolve(
                LocalEndpoint(hostname="me.example", service="xmpp-client")
            )
            assert (found.ip_address, found.port) == ("127.0.0.5", 5222)
            assert {rdtype for _, rdtype in server.asked} == {"A", "AAAA"}

    run(main)


def test_chains_of_cnames_are_followed(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {
            ("www.example.", "CNAME"): "cdn.example.",
            ("cdn.example.", "CNAME"): "edge.example.",
            ("edge.example.", "A"): ["192.0.2.3"],
        }
        async with serving(zone) as server:
            found = await asking(server, no_hosts).resolve(remote())
            assert addresses(found) == ["192.0.2.3"]
            assert found[0].hostname == "www.example", "the name to verify stays"

    run(main)


def test_a_name_that_does_not_exist_is_an_error_that_stays(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({}) as server:
            with pytest.raises(EstablishmentError) as caught:
                await asking(server, no_hosts).resolve(remote("nosuch.example"))
            error = caught.value
            assert str(error) == (
                "nosuch.example cannot be resolved: no such name (asked for nosuch.example.), "
                f"says 127.0.0.1:{server.port}"
            )
            assert error.reason is Reason.RESOLUTION_FAILED
            assert error.detail == "no-such-name"
            assert not error.transient

    run(main)


def test_a_name_without_addresses_says_which_records_are_missing(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("www.example.", "TXT"): ["hello"]}) as server:
            with pytest.raises(EstablishmentError) as caught:
                await asking(server, no_hosts).resolve(remote())
            assert str(caught.value) == (
                "www.example cannot be resolved: no AAAA record; no A record, "
                f"says 127.0.0.1:{server.port}"
            )
            assert caught.value.detail == "no-address"
            assert not caught.value.transient

    run(main)


def test_a_server_that_fails_is_quoted_and_may_be_better_later(no_hosts: Path) -> None:
    async def main() -> None:
        zone = dict.fromkeys([("www.example.", "A"), ("www.example.", "AAAA")], dns.rcode.SERVFAIL)
        async with serving(zone) as server:
            with pytest.raises(EstablishmentError) as caught:
                await asking(server, no_hosts).resolve(remote())
            assert str(caught.value) == (
                f"www.example cannot be resolved: 127.0.0.1:{server.port}: SERVFAIL"
            )
            assert caught.value.detail == "server-failure"
            assert caught.value.transient

    run(main)


@pytest.mark.parametrize("broken", ["A", "AAAA"])
@pytest.mark.parametrize("fault", [dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN])
def test_one_family_that_fails_does_not_harm_the_other(
    broken: str, fault: dns.rcode.Rcode, no_hosts: Path
) -> None:
    async def main() -> None:
        zone: dict[tuple[str, str], Any] = {
            ("www.example.", "A"): ["192.0.2.1"],
            ("www.example.", "AAAA"): ["2001:db8::1"],
        }
        zone["www.example.", broken] = fault
        async with serving(zone) as server:
            found = await asking(server, no_hosts).resolve(remote())
            assert addresses(found) == ["192.0.2.1" if broken == "AAAA" else "2001:db8::1"]

    run(main)


def test_a_failed_server_counts_more_than_a_missing_record(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): dns.rcode.REFUSED, ("www.example.", "TXT"): ["x"]}
        async with serving(zone) as server:
            with pytest.raises(EstablishmentError, match=r"no AAAA record; .*REFUSED") as caught:
                await asking(server, no_hosts).resolve(remote())
            assert caught.value.detail == "server-failure"
            assert caught.value.transient

    run(main)


def test_servers_that_never_answer_end_in_a_timeout(no_hosts: Path) -> None:
    async def main() -> None:
        zone = dict.fromkeys([("www.example.", "A"), ("www.example.", "AAAA")], DROP)
        async with serving(zone) as server:
            with pytest.raises(EstablishmentError, match=r"no answer within 0\.2 s") as caught:
                await asking(server, no_hosts, timeout=0.2).resolve(remote())
            assert "127.0.0.1" in str(caught.value)
            assert caught.value.detail == "timeout"
            assert caught.value.transient

    run(main)


def test_the_next_server_is_asked_when_one_does_not_answer_in_time(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(("127.0.0.2", server.port))
                both = ["127.0.0.2", "127.0.0.1"]
                patient, hasty = (
                    asking(server, no_hosts, nameservers=both, retry_after=it, timeout=1.0)
                    for it in (30.0, 0.05)
                )
                with pytest.raises(EstablishmentError, match="no answer within 1 s"):
                    await patient.resolve(remote())
                assert server.asked == []
                assert addresses(await hasty.resolve(remote())) == ["192.0.2.1"]

    run(main)


def test_aaaa_that_never_comes_holds_back_a_for_the_resolution_delay_only(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): DROP}
        async with serving(zone) as server:
            # Not the 60 s that are given to the name.
            found = await asking(server, no_hosts, timeout=120.0).resolve(remote())
            assert addresses(found) == ["192.0.2.1"]

    run(main)


def test_a_is_waited_for_when_aaaa_was_faster(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): ["2001:db8::1"]}
        async with serving(zone) as server:
            server.gates["www.example.", "A"] = asyncio.Event()
            task = asyncio.ensure_future(asking(server, no_hosts).resolve(remote()))
            await server.was_asked(2)
            await asyncio.sleep(2 * RESOLUTION_DELAY)
            assert not task.done()
            server.gates["www.example.", "A"].set()
            assert addresses(await task) == ["2001:db8::1", "192.0.2.1"]

    run(main)


@pytest.mark.requirement("R-9623-12.2-02")
def test_truncated_answers_are_fetched_over_tcp_and_capped_fairly(no_hosts: Path) -> None:
    async def main() -> None:
        many = [f"10.{i >> 8}.{i & 255}.1" for i in range(3000)]
        zone = {("www.example.", "A"): many, ("www.example.", "AAAA"): ["2001:db8::1"]}
        async with serving(zone) as server:
            found = addresses(await asking(server, no_hosts).resolve(remote()))
            assert server.over_tcp
            assert len(found) == MAX_ADDRESSES
            assert found[0] == "2001:db8::1"

    run(main)


@given(st.integers(0, 100), st.integers(0, 100))
def test_the_cap_gives_each_family_its_half_if_it_needs_it(six: int, four: int) -> None:
    families = [f"6.{i}" for i in range(six)], [f"4.{i}" for i in range(four)]
    found = balanced(*families)
    assert len(found) == min(MAX_ADDRESSES, six + four)
    for family in families:
        taken = [it for it in found if it in family]
        assert taken == family[: len(taken)]
        assert len(taken) >= min(len(family), MAX_ADDRESSES // 2)


def test_answers_are_remembered_for_their_ttl(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            resolver = asking(server, no_hosts)
            first = await resolver.resolve(remote())
            asked = len(server.asked)
            assert await resolver.resolve(remote()) == first
            # A negative answer is remembered only with an SOA record that says how long.
            assert [it for it in server.asked[asked:] if it[1] == "A"] == []

    run(main)


def test_an_isolated_resolver_uses_and_leaves_no_answers(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:

            async def asks(resolver: Any) -> int:
                before = len(server.asked)
                assert [str(it.ip_address) for it in await resolver.resolve(remote())] == [
                    "192.0.2.1"
                ]
                return len([it for it in server.asked[before:] if it[1] == "A"])

            resolver = asking(server, no_hosts)
            # Before anything was asked for, and afterwards.
            assert await asks(resolver.isolated()) == 1
            assert await asks(resolver) == 1
            assert await asks(resolver) == 0
            alone = resolver.isolated()
            assert [await asks(alone), await asks(alone)] == [1, 1]
            assert await asks(resolver) == 0

    run(main)


# -- what is asked for several times at a time


def asked_for(server: NameServer, rdtype: str = "A") -> int:
    return [it[1] for it in server.asked].count(rdtype)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_is_asked_for_at_the_same_time_is_asked_once(loop: str, no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): ["2001:db8::1"]}
        async with serving(zone) as server:
            resolver = asking(server, no_hosts)
            gate = server.gates["www.example.", "A"] = asyncio.Event()
            tasks = [asyncio.ensure_future(resolver.resolve(remote(port=port))) for port in (1, 2)]
            alone = asyncio.ensure_future(resolver.isolated().resolve(remote(port=3)))
            await server.was_asked(4)
            for _ in range(20):
                await asyncio.sleep(0)
            gate.set()
            for port, task in zip((1, 2, 3), (*tasks, alone), strict=True):
                found = await task
                assert addresses(found) == ["2001:db8::1", "192.0.2.1"]
                assert {each.port for each in found} == {port}
            # Once for both, and once for the one that shares nothing.
            assert (asked_for(server, "A"), asked_for(server, "AAAA")) == (2, 2)

    run(main, loop)


@pytest.mark.parametrize("first", [True, False], ids=["who asks", "who waits"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_cancelling_one_who_asks_is_nobody_elses_matter(
    loop: str, first: bool, no_hosts: Path
) -> None:
    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            resolver = asking(server, no_hosts)
            gate = server.gates["www.example.", "A"] = asyncio.Event()
            tasks = [asyncio.ensure_future(resolver.resolve(remote()))]
            await server.was_asked(2)
            tasks += [asyncio.ensure_future(resolver.resolve(remote())) for _ in range(2)]
            for _ in range(20):
                await asyncio.sleep(0)
            gone = tasks.pop(0 if first else 1)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            gate.set()
            assert [addresses(await task) for task in tasks] == [["192.0.2.1"]] * 2
            assert asked_for(server) == (2 if first else 1)

    run(main, loop)


class Notes:
    """A resolver of the application's own."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, endpoint: Any) -> list[Any]:
        self.asked.append(endpoint.hostname)
        return [endpoint.with_ip_address("127.0.0.1")]


class Remembers(Notes):
    """One that remembers, but not for isolated sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = Notes()

    def isolated(self) -> Notes:
        return self.alone


@pytest.mark.parametrize("isolated", [False, True])
def test_isolated_sessions_leave_aside_what_a_resolver_remembers(
    isolated: bool, memory_network: Any
) -> None:
    async def main() -> None:
        for resolver in (Remembers(), Notes()):
            there = taps.Preconnection(
                local="here.example:0",
                remote="there.example:80",
                transport=taps.TransportProperties(isolate_session=isolated),
                security=taps.SecurityParameters.disabled(),
                system=taps.System(plugins=[MemoryStream(memory_network)], resolver=resolver),
            )
            await there.resolve()
            async with there.listen():
                pass
            asked = resolver.alone if isolated and isinstance(resolver, Remembers) else resolver
            # By resolve() both, by listen() the filter and where to listen.
            assert sorted(asked.asked) == ["here.example"] * 2 + ["there.example"] * 2
            if asked is not resolver:
                assert resolver.asked == []

    run(main, memory_network)


def test_short_names_are_completed_with_search_domains(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("db.corp.example.", "A"): ["192.0.2.8"]}) as server:
            resolver = asking(server, no_hosts, search=["corp.example"])
            assert addresses(await resolver.resolve(remote("db"))) == ["192.0.2.8"]
            with pytest.raises(EstablishmentError, match=r"db2\.corp\.example\., db2\.\)"):
                await resolver.resolve(remote("db2"))
            asked = len(server.asked)
            with pytest.raises(EstablishmentError):
                await resolver.resolve(remote("db."))  # absolute: not completed
            assert {name for name, _ in server.asked[asked:]} == {"db."}

    run(main)


def test_options_are_those_of_what_is_imported_for_the_first_name() -> None:
    # It is spelt out twice, so that a program without names does not import it.
    options = dict(inspect.signature(Names.__init__).parameters)
    del options["system"]  # for tests
    assert options == dict(inspect.signature(Resolver.__init__).parameters)


def test_the_systems_configuration_is_followed_when_it_changes(
    tmp_path: Path, no_hosts: Path
) -> None:
    # A resolv.conf cannot name a port: what is read is looked at, nobody is asked.
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("nameserver 192.0.2.53\nsearch corp.example\n")
    resolver = Names(resolv_conf=configuration, hosts_file=no_hosts)
    first = resolver._configuration()
    assert first is not None
    assert first.nameservers == ("192.0.2.53",)
    assert first.search == ("corp.example",)
    assert resolver._configuration() is first
    configuration.write_text("nameserver 192.0.2.54\n")
    second = resolver._configuration()
    assert second is not None
    assert second.nameservers == ("192.0.2.54",)


@pytest.mark.parametrize("text", [None, "# nothing\n"])
def test_without_a_configured_server_the_error_says_so(
    text: str | None, tmp_path: Path, no_hosts: Path
) -> None:
    configuration = tmp_path / "resolv.conf"
    if text is not None:
        configuration.write_text(text)

    async def main() -> None:
        resolver = Resolver(resolv_conf=configuration, hosts_file=no_hosts)
        with pytest.raises(EstablishmentError, match="no DNS server is configured") as caught:
            await resolver.resolve(remote())
        assert caught.value.detail == "no-nameserver"

    run(main)


def test_what_resolves_names_is_imported_in_a_thread_and_nothing_on_the_loop(
    no_hosts: Path,
) -> None:
    program = f"""
        import asyncio, sys, threading
        from importlib import abc
        from taps_core.model.endpoints import RemoteEndpoint
        from taps_core.runtime.resolver import Resolver

        class Watch(abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                # The «class» of an OPT record is a size; dnspython looks for it in vain.
                ours = name.startswith(("dns.", "taps_core."))
                if ours and not name.startswith("dns.rdtypes.CLASS"):
                    if threading.current_thread() is main_thread:
                        print("on the loop:", name)
                return None

        main_thread = threading.main_thread()
        sys.meta_path.insert(0, Watch())

        class Server(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                # The question again, one answer that points at its name, and an empty OPT.
                end = data.index(b"\\0", 12) + 5
                if data[end - 3] == 1:
                    record = bytes.fromhex("c00c00010001000000100004c0000201")
                    head = b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\1"
                else:
                    record = b""
                    head = b"\\x81\\x80\\0\\1\\0\\0\\0\\0\\0\\1"
                opt = bytes.fromhex("0000290200000000000000")
                self.transport.sendto(data[:2] + head + data[12:end] + record + opt, address)

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                Server, local_addr=("127.0.0.1", 0)
            )
            port = transport.get_extra_info("sockname")[1]
            resolver = Resolver(nameservers=["127.0.0.1"], port=port, hosts_file={str(no_hosts)!r})
            found = await resolver.resolve(RemoteEndpoint.parse("www.example:443"))
            print([endpoint.ip_address for endpoint in found])
            transport.close()

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['192.0.2.1']\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_cancelling_leaves_no_task_and_no_socket(loop: str, no_hosts: Path) -> None:
    async def main() -> None:
        zone = dict.fromkeys([("www.example.", "A"), ("www.example.", "AAAA")], DROP)
        async with serving(zone) as server:
            resolver = asking(server, no_hosts)
            before = _sockets()
            for turns in range(30):
                task = asyncio.ensure_future(resolver.resolve(remote()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns % 3 == 0:
                    await server.was_asked(1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.01)  # closing a socket takes asyncio a turn
            assert _sockets() == before
            assert resolver is not None

    run(main, loop)


def _sockets() -> int:
    directory = "/proc/self/fd"
    if not os.path.isdir(directory):
        pytest.skip("this system does not list file descriptors")
    found = 0
    for name in os.listdir(directory):
        try:
            found += os.readlink(os.path.join(directory, name)).startswith("socket:")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80))
def test_no_name_ends_in_anything_but_addresses_or_a_documented_error(name: str) -> None:
    try:
        endpoint = RemoteEndpoint(hostname=name, port=1)
    except PropertyError:
        return

    async def main() -> None:
        async with serving({}) as server:
            resolving = asking(server, Path("/nonexistent"), timeout=5.0).resolve(endpoint)
            (outcome,) = await asyncio.gather(resolving, return_exceptions=True)
            if isinstance(outcome, EstablishmentError):
                assert outcome.reason is Reason.RESOLUTION_FAILED
                assert outcome.detail in ("no-such-name", "bad-name", "server-failure")
            else:
                assert isinstance(outcome, list), outcome

    run(main)


def test_a_resolver_serves_one_loop_after_the_other(no_hosts: Path) -> None:
    resolvers: list[Resolver] = []

    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            if not resolvers:
                resolvers.append(asking(server, no_hosts))
            assert addresses(await resolvers[0].isolated().resolve(remote())) == ["192.0.2.1"]

    run(main)

    async def again() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            (names,) = resolvers[0]._made
            assert names._fixed is not None
            names._fixed = dataclasses.replace(names._fixed, port=server.port)
            assert addresses(await resolvers[0].resolve(remote())) == ["192.0.2.1"]

    run(again)


# -- answers that trickle in


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("early", "late"), [("A", "AAAA"), ("AAAA", "A")])
def test_the_family_that_is_late_comes_later(
    loop: str, early: str, late: str, no_hosts: Path
) -> None:
    async def main() -> None:
        found = {"A": "192.0.2.1", "AAAA": "2001:db8::1"}
        zone = {("www.example.", rdtype): [address] for rdtype, address in found.items()}
        async with serving(zone) as server:
            gate = server.gates["www.example.", late] = asyncio.Event()
            first, later = await asking(server, no_hosts).trickle(remote())
            assert addresses(first) == [found[early]]
            assert later is not None
            gate.set()
            batches = [addresses(list(batch)) async for batch in later]
            assert batches == [[found[late]]]
            await later.aclose()

    run(main, loop)


def test_nothing_trickles_in_where_all_is_known(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): ["2001:db8::1"]}
        async with serving(zone) as server:
            resolver = asking(server, no_hosts)
            await resolver.resolve(remote())
            asked = len(server.asked)
            coroutine = resolver.trickle(remote())
            with pytest.raises(StopIteration) as finished:
                coroutine.send(None)  # done at the first step: nothing was awaited
            found, later = finished.value.value
            assert addresses(found) == ["2001:db8::1", "192.0.2.1"]
            assert later is None
            assert len(server.asked) == asked

    run(main)


def test_a_late_answer_that_is_not_wanted_any_more_leaves_nothing(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): DROP}
        async with serving(zone) as server:
            before = _sockets()
            _, later = await asking(server, no_hosts).trickle(remote())
            assert later is not None
            await later.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await asyncio.sleep(0.01)  # closing a socket takes asyncio a turn
            assert _sockets() == before

    run(main)


# -- from a service to a Connection


@pytest.mark.requirement("R-9623-4.1.1.1-01")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connection_goes_where_the_records_of_a_service_say(
    loop: str, no_hosts: Path, memory_network: Any
) -> None:
    async def main() -> None:
        plain = {
            "security": taps.SecurityParameters.disabled(),
            "transport": taps.TransportProperties(),
        }
        system = taps.System(plugins=[MemoryStream(memory_network)])
        here = taps.Preconnection(local="127.0.0.1:0", system=system, **plain)
        async with here.listen() as listener:
            (local,) = listener.local_endpoints
            zone = {
                ("_echo._memory-stream.chat.example.", "SRV"): [
                    "10 0 9 nobody.example.",
                    f"20 0 {local.port} host.example.",
                ],
                ("nobody.example.", "A"): ["127.0.0.9"],
                ("host.example.", "A"): ["127.0.0.1"],
                ("chat.example.", "A"): ["127.0.0.8"],
            }
            async with serving(zone) as server:
                resolver = asking(server, no_hosts)
                there = taps.Preconnection(
                    remote=RemoteEndpoint(hostname="chat.example", service="_echo._memory-stream"),
                    system=taps.System(plugins=[MemoryStream(memory_network)], resolver=resolver),
                    **plain,
                )
                async with there.initiate() as connection:
                    found = connection.remote_endpoint
                    assert found.hostname == "chat.example", "the name to verify stays"
                    assert (found.ip_address, found.port) == ("127.0.0.1", local.port)
                    assert found.target == "host.example"
                    # The better one was tried before.
                    assert [each.outcome for each in connection.report] == ["failed", "ready"]
                    accepted = await listener.accept()
                    await accepted.close()

    run(main, loop)


def test_an_https_record_is_evidence_for_a_transport_and_says_where_it_is(
    no_hosts: Path, memory_network: Any
) -> None:
    class Rare(MemoryStream):
        name = "rare-stream"
        deployable = False
        alpn = ("h3",)

    async def main() -> None:
        plugins = [MemoryStream(memory_network), Rare(memory_network), MemoryTLS()]
        here = taps.Preconnection(
            local=LocalEndpoint(ip_address="127.0.0.1", port=0, protocol="rare-stream"),
            system=taps.System(plugins=plugins),
        )
        async with here.listen() as listener:
            (local,) = listener.local_endpoints
            zone = {
                ("www.example.", "HTTPS"): [f"1 . alpn=h3 port={local.port} no-default-alpn"],
                ("www.example.", "A"): ["127.0.0.1"],
            }
            for alpn, tried in ((("h3", "h2"), True), (("h2",), False)):
                async with serving(zone) as server:
                    there = taps.Preconnection(
                        remote="www.example:443",
                        security=taps.SecurityParameters(alpn=alpn),
                        system=taps.System(plugins=plugins, resolver=asking(server, no_hosts)),
                    )
                    connection = there.initiate()
                    try:
                        await connection
                    except EstablishmentError:
                        pass
                    else:
                        accepted = await listener.accept()
                        await connection.close()
                        await accepted.close()
                    attempts = [each.what for each in connection.report]
                    place = f"MEMORY-TLS/RARE-STREAM to 127.0.0.1:{local.port}"
                    assert (place in attempts) is tried, attempts
                    assert connection.report[-1].outcome == ("ready" if tried else "failed")
                    assert ("www.example.", "HTTPS") in server.asked

    run(main)


# -- networks


def test_what_was_learned_on_one_network_is_asked_anew_on_another(no_hosts: Path) -> None:
    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            networks = ["home"]
            resolver = asking(server, no_hosts, network=lambda: networks[0])

            async def asks() -> int:
                before = len(server.asked)
                await resolver.resolve(remote())
                return len([it for it in server.asked[before:] if it[1] == "A"])

            assert [await asks(), await asks()] == [1, 0]
            networks[0] = "office"
            assert [await asks(), await asks()] == [1, 0]
            networks[0] = "home"
            assert await asks() == 0, "what was known there is still known"

    run(main)


def test_a_machine_with_another_address_is_on_another_network(
    no_hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SOURCES_LAST", 0.0)

    async def main() -> None:
        async with serving({("www.example.", "A"): ["192.0.2.1"]}) as server:
            own = ["192.0.2.99"]
            resolver = asking(server, no_hosts, source_of=lambda it: None if ":" in it else own[0])

            async def asks() -> int:
                before = len(server.asked)
                await resolver.resolve(remote())
                return len([it for it in server.asked[before:] if it[1] == "A"])

            assert [await asks(), await asks()] == [1, 0]
            own[0] = "198.51.100.99"
            assert [await asks(), await asks()] == [1, 0]

    run(main)


def test_addresses_without_a_way_are_the_last(no_hosts: Path) -> None:
    async def main() -> None:
        zone = {("www.example.", "A"): ["192.0.2.1"], ("www.example.", "AAAA"): ["2001:db8::1"]}
        async with serving(zone) as server:
            resolver = asking(
                server, no_hosts, source_of=lambda it: None if ":" in it else "192.0.2.9"
            )
            found = await resolver.resolve(remote())
            assert addresses(found) == ["192.0.2.1", "2001:db8::1"]

    run(main)


# -- services


def test_machines_without_a_list_of_services_know_the_usual_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getservbyname(name: str) -> int:
        raise OSError("service/proto not found")

    monkeypatch.setattr(socket, "getservbyname", getservbyname)

    async def main() -> None:
        resolver = Resolver(hosts_file="/nonexistent")
        for service, port in (("https", 443), ("_xmpp-client._tcp", 5222), ("SSH", 22)):
            endpoint = RemoteEndpoint(ip_address="192.0.2.1", service=service)
            assert [it.port for it in await resolver.resolve(endpoint)] == [port]

    run(main)


def test_a_service_name_gives_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getservbyname(name: str) -> int:
        asked.append(name)
        return {"https": 443}[name]

    monkeypatch.setattr(socket, "getservbyname", getservbyname)

    async def main() -> None:
        resolver = Resolver(hosts_file="/nonexistent")
        for _ in range(2):
            found = await resolver.resolve(RemoteEndpoint(ip_address="192.0.2.1", service="https"))
            assert [(it.port, it.service) for it in found] == [(443, "https")]
        found = await resolver.resolve(
            RemoteEndpoint(ip_address="192.0.2.1", service="https", port=8443)
        )
        assert found[0].port == 8443
        assert asked == ["https"]

    run(main)


def test_a_service_that_nobody_knows_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def getservbyname(name: str) -> int:
        raise OSError("service/proto not found")

    monkeypatch.setattr(socket, "getservbyname", getservbyname)

    async def main() -> None:
        with pytest.raises(
            EstablishmentError, match="service 'gopher2' is not known on this machine: give a port"
        ) as caught:
            await Resolver().resolve(RemoteEndpoint(ip_address="192.0.2.1", service="gopher2"))
        assert caught.value.reason is Reason.RESOLUTION_FAILED
        assert caught.value.detail == "unknown-service"
        assert not caught.value.transient

    run(main)
