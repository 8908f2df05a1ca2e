"""Names by a real DNS server: unbound, with a zone of ours. Nothing leaves the machine."""

from __future__ import annotations

import asyncio
import functools
import random
from typing import TYPE_CHECKING, Any

import pytest

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.planning.derivation import MAX_ADDRESSES
from taps_core.runtime.resolver import Resolver, Terms
from tests.programs import program, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from taps_core.testing.fixtures import Run

#: Nobody is asked but its own zone; what is below ``silent.example`` is never answered.
CONF = """\
server:
  interface: 127.0.0.1
  port: {port}
  access-control: 127.0.0.0/8 allow
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  rrset-roundrobin: no
  module-config: "iterator"
  local-zone: "." static
  local-zone: "example." transparent
  local-zone: "silent.example." deny
  local-zone: "refused.example." refuse
auth-zone:
  name: "example."
  zonefile: "example.zone"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""

ZONE = """\
$ORIGIN example.
$TTL 300
@        IN SOA  ns hostmaster 1 3600 600 86400 60
@        IN NS   ns
ns       IN A    127.0.0.1
www      IN AAAA 2001:db8::1
www      IN AAAA 2001:db8::2
www      IN A    192.0.2.1
www      IN A    192.0.2.2
four     IN A    192.0.2.4
six      IN AAAA 2001:db8::6
text     IN TXT  "no address"
alias    IN CNAME alias2
alias2   IN CNAME alias3
alias3   IN CNAME www
circle   IN CNAME circle2
circle2  IN CNAME circle
dangling IN CNAME nowhere
corp     IN A    192.0.2.99
db.corp  IN A    192.0.2.50

_xmpp-client._tcp.chat IN SRV 20 0 5299 c.chat
_xmpp-client._tcp.chat IN SRV 10 0 5222 a.chat
_xmpp-client._tcp.chat IN SRV 10 9 5223 b.chat
_gone._tcp.chat        IN SRV 0 0 0 .
_stun._udp.chat        IN SRV 1 1 3479 a.chat
chat     IN A    192.0.2.66
a.chat   IN AAAA 2001:db8::a
a.chat   IN A    192.0.2.10
b.chat   IN A    192.0.2.11
c.chat   IN A    192.0.2.12

web      IN A     192.0.2.20
web      IN HTTPS 1 . alpn=h2,h3 port=8443 ipv4hint=192.0.2.20
web      IN HTTPS 2 far.web alpn=h2
far.web  IN AAAA  2001:db8::21
apex     IN A     192.0.2.30
apex     IN HTTPS 0 pool.web
pool.web IN A     192.0.2.31
pool.web IN HTTPS 1 . alpn=h2
ech      IN A     192.0.2.40
ech      IN HTTPS 1 . alpn=h2 port=444 mandatory=port
ech      IN HTTPS 2 . alpn=h2 port=445 mandatory=key9999 key9999=x
_8443._https.web IN HTTPS 1 other.web alpn=h2
other.web IN A    192.0.2.22
_dns.ns  IN SVCB  1 ns alpn=dot port=853
"""


def zone() -> str:
    lines = [ZONE]
    # More than fits into a datagram, and more than fits into any answer.
    lines += [f"many IN A 10.0.{i >> 8}.{i & 255}\n" for i in range(300)]
    lines += [f"many IN AAAA 2001:db8:1::{i:x}\n" for i in range(300)]
    lines += [f"huge IN A 10.{i >> 8}.{i & 255}.1\n" for i in range(10_000)]
    # Ten thousand addresses in answers that do fit.
    for i in range(100):
        lines.append(f"_x._tcp.wide IN SRV {i} 0 {1000 + i} t{i}.wide\n")
        lines += [f"t{i}.wide IN A 10.{i}.0.{j}\n" for j in range(50)]
        lines += [f"t{i}.wide IN AAAA 2001:db8:{i:x}::{j:x}\n" for j in range(50)]
    lines += [f"chain{i} IN CNAME chain{i + 1}\n" for i in range(40)]
    return "".join(lines)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where unbound answers."""
    executable = program("unbound")
    folder = tmp_path_factory.mktemp("unbound")
    (folder / "example.zone").write_text(zone())

    def command(port: int) -> list[str]:
        configuration = folder / "unbound.conf"
        configuration.write_text(CONF.format(port=port, directory=folder))
        return [executable, "-d", "-p", "-c", str(configuration)]

    yield from serve(command, folder / "unbound.output")


@pytest.fixture
def resolver(port: int, tmp_path: Path) -> Callable[..., Resolver]:
    """One that asks unbound, on a network with both families."""
    hosts = tmp_path / "hosts"
    hosts.write_text("")

    def make(**options: Any) -> Resolver:
        options = {"nameservers": ["127.0.0.1"], "chance": random.Random(1), **options}
        return Resolver(
            port=port,
            hosts_file=hosts,
            source_of=lambda address: "2001:db8::99" if ":" in address else "192.0.2.99",
            **options,
        )

    return make


def shown(endpoint: RemoteEndpoint) -> str:
    protocol = "" if endpoint.protocol is None else f" by {endpoint.protocol}"
    target = "" if endpoint.target is None else f" of {endpoint.target}"
    return f"{endpoint.ip_address} {endpoint.port}{protocol}{target}"


async def found(resolver: Resolver, name: str, **more: Any) -> list[str]:
    if "service" not in more:
        more = {"port": 443, **more}
    return [shown(it) for it in await resolver.resolve(RemoteEndpoint(hostname=name, **more))]


async def streamed(resolver: Resolver, name: str, terms: Terms, **more: Any) -> list[str]:
    """All that comes, early or late."""
    if "service" not in more:
        more = {"port": 443, **more}
    first, later = await resolver.trickle(RemoteEndpoint(hostname=name, **more), terms)
    if later is not None:
        try:
            async for batch in later:
                first += batch
        finally:
            await later.aclose()
    return [shown(it) for it in first]


@pytest.mark.requirement("R-9623-4.1.1.1-01")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "www.example",
            ["2001:db8::1 443", "2001:db8::2 443", "192.0.2.1 443", "192.0.2.2 443"],
        ),
        (
            "alias.example",
            ["2001:db8::1 443", "2001:db8::2 443", "192.0.2.1 443", "192.0.2.2 443"],
        ),
        ("four.example", ["192.0.2.4 443"]),
        ("SIX.example.", ["2001:db8::6 443"]),
    ],
)
def test_addresses_of_both_families_in_order(
    name: str, expected: list[str], run: Run, resolver: Any
) -> None:
    async def main() -> None:
        names = await found(resolver(), name)
        # Of one family unbound may give them in any order.
        assert sorted(names, reverse=True) == sorted(expected, reverse=True)
        assert [":" in it for it in names] == [":" in it for it in expected]

    run(main)


@pytest.mark.parametrize(
    ("name", "detail", "transient", "said"),
    [
        ("nosuch.example", "no-such-name", False, "no such name (asked for nosuch.example.)"),
        ("dangling.example", "no-such-name", False, "no such name (asked for dangling.example.)"),
        ("text.example", "no-address", False, "no AAAA record; no A record"),
        ("x.refused.example", "server-failure", True, "REFUSED"),
        ("circle.example", "server-failure", True, "SERVFAIL"),
        ("chain0.example", "server-failure", True, "SERVFAIL"),
        (f"{'x' * 64}.example", "bad-name", False, "LabelTooLong"),
    ],
)
def test_errors_say_which_name_which_server_what_answer(
    name: str, detail: str, transient: bool, said: str, run: Run, resolver: Any, port: int
) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError) as caught:
            await resolver().resolve(RemoteEndpoint(hostname=name, port=443))
        error = caught.value
        assert error.reason is Reason.RESOLUTION_FAILED
        assert error.detail == detail
        assert error.transient is transient
        assert str(error).startswith(f"{name} cannot be resolved: ")
        assert said in str(error)
        if detail != "bad-name":
            assert f"127.0.0.1:{port}" in str(error)

    run(main)


def test_a_server_that_never_answers_is_named_when_time_is_up(
    run: Run, resolver: Any, port: int
) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError) as caught:
            await found(resolver(timeout=0.3), "x.silent.example")
        assert str(caught.value) == (
            f"x.silent.example cannot be resolved: no answer within 0.3 s from 127.0.0.1:{port}"
        )
        assert caught.value.detail == "timeout"
        assert caught.value.transient

    run(main)


def test_where_there_is_no_server_the_next_is_asked_at_once(
    run: Run, resolver: Any, port: int
) -> None:
    async def main() -> None:
        # Without the kernel's word the first has two seconds.
        both = resolver(nameservers=["127.0.0.2", "127.0.0.1"], timeout=1.0)
        assert await found(both, "four.example") == ["192.0.2.4 443"]
        with pytest.raises(EstablishmentError) as caught:
            await found(resolver(nameservers=["127.0.0.2"]), "four.example")
        assert f"127.0.0.2:{port}: " in str(caught.value)
        assert "refused" in str(caught.value)
        assert caught.value.transient

    run(main)


@pytest.mark.requirement("R-9623-12.2-02")
def test_a_truncated_answer_is_fetched_whole_and_bounded(run: Run, resolver: Any) -> None:
    async def main() -> None:
        names = await found(resolver(), "many.example")
        assert len(names) == len(set(names)) == MAX_ADDRESSES
        assert [":" in it for it in names] == [True] * 16 + [False] * 16

    run(main)


@pytest.mark.requirement("R-9623-12.2-02")
def test_ten_thousand_addresses_of_one_service_stay_bounded_and_in_order(
    run: Run, resolver: Any
) -> None:
    async def main() -> None:
        # What has not come by then is left out.
        names = await found(resolver(timeout=50.0), "wide.example", service="_x._tcp")
        assert 8 <= len(names) <= MAX_ADDRESSES
        targets = [int(it.rpartition(" of t")[2].partition(".")[0]) for it in names]
        assert targets == sorted(targets)
        assert set(targets) == set(range(8)), "the best, each with some"

    run(main)


def test_more_addresses_than_any_answer_holds_end_in_some_or_a_clear_error(
    run: Run, resolver: Any, port: int
) -> None:
    async def main() -> None:
        try:
            assert len(await found(resolver(timeout=5.0), "huge.example")) <= MAX_ADDRESSES
        except EstablishmentError as error:
            assert f"127.0.0.1:{port}" in str(error)  # noqa: PT017  # either is right

    run(main)


def test_short_names_are_completed(run: Run, resolver: Any) -> None:
    async def main() -> None:
        there = resolver(search=["nowhere.example", "corp.example"])
        assert await found(there, "db") == ["192.0.2.50 443"]
        with pytest.raises(EstablishmentError) as caught:
            await found(there, "db2")
        assert "(asked for db2.nowhere.example., db2.corp.example., db2.)" in str(caught.value)

    run(main)


# -- SRV


def test_srv_records_say_where_a_service_is_by_priority_and_weight(run: Run, resolver: Any) -> None:
    async def main() -> None:
        names = await found(resolver(), "chat.example", service="xmpp-client")
        # b has all the weight of its priority; c is for when both are gone.
        assert names == [
            "192.0.2.11 5223 by tcp of b.chat.example",
            "2001:db8::a 5222 by tcp of a.chat.example",
            "192.0.2.10 5222 by tcp of a.chat.example",
            "192.0.2.12 5299 by tcp of c.chat.example",
        ]

    run(main)


def test_the_protocol_chooses_among_srv_records(run: Run, resolver: Any) -> None:
    async def main() -> None:
        there = resolver()
        assert await found(there, "chat.example", service="stun") == [
            "2001:db8::a 3479 by udp of a.chat.example",
            "192.0.2.10 3479 by udp of a.chat.example",
        ]
        # There are none for TCP: then it is the name, and the usual port.
        tcp = await found(there, "chat.example", service="stun", protocol="tcp")
        assert tcp == ["192.0.2.66 3478 by tcp"]

    run(main)


@pytest.mark.parametrize(
    ("service", "detail", "said"),
    [
        ("_gone._tcp", "no-service", "_gone._tcp.chat.example."),
        ("_unheard-of._tcp", "unknown-service", "give a port"),
    ],
)
def test_services_that_are_not_there_are_a_clear_error(
    service: str, detail: str, said: str, run: Run, resolver: Any
) -> None:
    async def main() -> None:
        with pytest.raises(EstablishmentError) as caught:
            await found(resolver(), "chat.example", service=service)
        assert caught.value.detail == detail
        assert said in str(caught.value)

    run(main)


# -- HTTPS and SVCB

H2 = Terms(alpn=("h2",), secure=True)
H3 = Terms(alpn=("h2", "h3"), secure=True, transports={"h3": "quic"})


@pytest.mark.requirement("R-9623-4.1.1.1-01")
@pytest.mark.parametrize(
    ("name", "terms", "more", "expected"),
    [
        (
            "web.example",
            H2,
            {},
            [
                "192.0.2.20 8443",
                "2001:db8::21 443 of far.web.example",
                "192.0.2.20 443",
            ],
        ),
        (
            "web.example",
            H3,
            {"service": "https"},
            [
                "192.0.2.20 8443",
                "192.0.2.20 8443 by quic",
                "2001:db8::21 443 of far.web.example",
                "192.0.2.20 443",
            ],
        ),
        ("web.example", Terms(alpn=("h2",)), {}, ["192.0.2.20 443"]),
        ("web.example", Terms(secure=True), {}, ["192.0.2.20 443"]),
        (
            "web.example",
            H2,
            {"port": 8443},
            ["192.0.2.22 8443 of other.web.example", "192.0.2.20 8443"],
        ),
        (
            "apex.example",
            H2,
            {},
            ["192.0.2.31 443 of pool.web.example", "192.0.2.30 443"],
        ),
        ("ech.example", H2, {}, ["192.0.2.40 444", "192.0.2.40 443"]),
        ("ns.example", Terms(alpn=("dot",), secure=True), {"service": "_dns"}, ["127.0.0.1 853"]),
    ],
    ids=[
        "ports and targets",
        "h3 is a transport of its own",
        "not secured: not asked for",
        "no HTTP: not asked for",
        "another port",
        "an alias",
        "mandatory keys",
        "SVCB",
    ],
)
def test_https_and_svcb_records_say_where_and_how(
    name: str,
    terms: Terms,
    more: dict[str, Any],
    expected: list[str],
    run: Run,
    resolver: Any,
) -> None:
    async def main() -> None:
        # What is late may come in another order: all of it, and the best first where it is not.
        names = await streamed(resolver(), name, terms, **more)
        assert sorted(names) == sorted(expected)

    run(main)


# -- what is remembered


def test_what_is_known_needs_no_server(
    run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    executable = program("unbound")
    (tmp_path / "example.zone").write_text(ZONE)

    def command(port: int) -> list[str]:
        configuration = tmp_path / "unbound.conf"
        configuration.write_text(CONF.format(port=port, directory=tmp_path))
        return [executable, "-d", "-p", "-c", str(configuration)]

    server = serve(command, tmp_path / "unbound.output")
    there = Resolver(nameservers=["127.0.0.1"], port=next(server), hosts_file="/nonexistent")

    async def main() -> None:
        ask = functools.partial(found, there)
        before = await ask("www.example"), await ask("chat.example", service="xmpp-client")
        with pytest.raises(EstablishmentError) as missing:
            await ask("nosuch.example")
        with pytest.raises(StopIteration):
            next(server)  # it has ended
        assert await ask("www.example") == before[0]
        assert await ask("chat.example", service="xmpp-client")
        with pytest.raises(EstablishmentError) as still:
            await ask("nosuch.example")
        assert str(still.value) == str(missing.value), "also that there is none (RFC 2308)"
        with pytest.raises(EstablishmentError) as gone:
            await there.isolated().resolve(RemoteEndpoint(hostname="www.example", port=443))
        assert gone.value.transient

    run(main)


# -- nothing is left


def test_look_ups_that_are_cancelled_anywhere_leave_nothing(run: Run, resolver: Any) -> None:
    async def main() -> None:
        there = resolver()
        await found(there, "four.example")
        for turn in range(300):
            name = ("x.silent.example", "many.example", "web.example")[turn % 3]
            endpoint = RemoteEndpoint(hostname=name, port=443)
            task = asyncio.ensure_future(there.isolated().trickle(endpoint, H3))
            for _ in range(turn % 40):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, tuple):
                later = outcome[1]
                if later is not None:
                    await later.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
