"""The order of what can be tried, and what cannot be tried at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.properties import Preference
from taps_core.planning.candidates import (
    MAX_LEAVES,
    Leaf,
    build_leaves,
    companions,
    interleave,
)
from taps_core.planning.race import RacePlanner
from taps_core.planning.selection import Selector
from taps_core.planning.stacks import Installed
from taps_core.testing import MemoryNetwork, MemoryStream

IP = frozenset({"ip"})


def ranked(
    name: str, *, racing_class: Any = None, serves: frozenset[str] = IP, label: str | None = None
) -> Any:
    transport = SimpleNamespace(name=name, serves=serves)
    stack = SimpleNamespace(name=label or name.upper(), transport=transport, handshakes=True)
    return SimpleNamespace(stack=stack, racing_class=racing_class)


TCP = ranked("tcp")


def remotes(*texts: str, **more: Any) -> list[RemoteEndpoint]:
    return [RemoteEndpoint(ip_address=text, port=7, **more) for text in texts]


def build(
    stacks: list[Any],
    remote: list[RemoteEndpoint],
    local: list[LocalEndpoint] | None = None,
    **options: Any,
) -> list[Leaf]:
    options.setdefault("properties", {})
    return build_leaves(stacks, remote, local or [], **options)


def addresses(leaves: list[Leaf]) -> list[str | None]:
    return [leaf.remote.ip_address for leaf in leaves]


@pytest.mark.requirement("R-9623-4.1.2-01", "R-9623-4.1.3-01", "R-9623-4.1.1-01")
def test_leaves_are_ordered_by_stack_then_host_then_address() -> None:
    a = remotes("192.0.2.1", "2001:db8::1", hostname="a.example")
    b = remotes("192.0.2.2", "2001:db8::2", hostname="b.example")
    leaves = build([ranked("sctp"), TCP], [*a, *b])
    assert [leaf.what for leaf in leaves] == [
        "SCTP to [2001:db8::1]:7",
        "SCTP to 192.0.2.1:7",
        "SCTP to [2001:db8::2]:7",
        "SCTP to 192.0.2.2:7",
        "TCP to [2001:db8::1]:7",
        "TCP to 192.0.2.1:7",
        "TCP to [2001:db8::2]:7",
        "TCP to 192.0.2.2:7",
    ]
    assert {leaf.path for leaf in leaves} == {"default"}
    assert {leaf.group for leaf in leaves} == {0}
    assert {leaf.local for leaf in leaves} == {None}


@pytest.mark.requirement("R-9623-4.1.1.1-02")
def test_families_alternate_ipv6_first_and_each_keeps_its_order() -> None:
    leaves = build(
        [TCP],
        remotes(
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::2",
            "2001:db8::1",
            hostname="a.example",
        ),
    )
    assert addresses(leaves) == [
        "2001:db8::2",
        "192.0.2.1",
        "2001:db8::1",
        "192.0.2.2",
        "192.0.2.3",
    ]


def test_numeric_endpoints_of_the_application_race_as_one_host() -> None:
    leaves = build([TCP], remotes("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    assert addresses(leaves) == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert len({leaf.host for leaf in leaves}) == 1


@given(st.lists(st.integers(0, 2), max_size=20))
def test_interleaving_loses_nothing_and_alternates_while_it_can(kinds: list[int]) -> None:
    leaves = [
        Leaf(TCP.stack, remotes(f"2001:db8::{i}" if kind else f"192.0.2.{i}")[0])
        for i, kind in enumerate(kinds)
    ]
    for first in (6, 4):
        mixed = interleave(leaves, first=first)
        assert sorted(map(id, mixed)) == sorted(map(id, leaves))
        for family in (4, 6):
            assert [it for it in mixed if it.family == family] == [
                it for it in leaves if it.family == family
            ]
        fewest = min(sum(it.family == family for it in leaves) for family in (4, 6))
        families = [it.family for it in mixed[: 2 * fewest]]
        assert families == [first, 10 - first] * fewest


# -- what is no candidate


def test_require_temporary_local_address_leaves_no_ipv4() -> None:
    all_of_them = remotes("192.0.2.1", "2001:db8::1")
    for preference in Preference:
        leaves = build([TCP], all_of_them, properties={"useTemporaryLocalAddress": preference})
        only_v6 = preference is Preference.REQUIRE
        assert addresses(leaves) == ["2001:db8::1"] + ["192.0.2.1"] * (not only_v6)


def test_an_endpoint_for_a_protocol_counts_for_that_protocol_only() -> None:
    leaves = build(
        [ranked("quic"), TCP],
        [
            RemoteEndpoint(ip_address="192.0.2.1", port=443, protocol="TCP"),
            RemoteEndpoint(ip_address="192.0.2.2", port=8443, protocol="quic"),
            RemoteEndpoint(ip_address="192.0.2.3", port=9, protocol="sctp"),
        ],
    )
    assert [leaf.what for leaf in leaves] == ["QUIC to 192.0.2.2:8443", "TCP to 192.0.2.1:443"]


def test_an_alternate_port_for_a_protocol_takes_the_place_of_the_general_one() -> None:
    # The example of RFC 9622, section 6.1.3.
    leaves = build(
        [ranked("quic"), TCP],
        [
            RemoteEndpoint(hostname="example.com", ip_address="192.0.2.1", port=443),
            RemoteEndpoint(
                hostname="example.com", ip_address="192.0.2.1", port=8443, protocol="quic"
            ),
            RemoteEndpoint(hostname="other.example", ip_address="192.0.2.9", port=443),
        ],
    )
    assert [leaf.what for leaf in leaves] == [
        "QUIC to 192.0.2.1:8443",
        "QUIC to 192.0.2.9:443",
        "TCP to 192.0.2.1:443",
        "TCP to 192.0.2.9:443",
    ]


def test_a_stack_is_tried_only_with_what_its_transport_serves() -> None:
    path = RemoteEndpoint(identifiers={"_unix.path": "/run/x"})
    group = RemoteEndpoint(multicast_group="ff02::1", port=5)
    both = RemoteEndpoint(ip_address="192.0.2.1", port=7, identifiers={"_unix.path": "/run/y"})
    unresolved = RemoteEndpoint(hostname="a.example", port=7)
    leaves = build(
        [
            ranked("unix", serves=frozenset({"_unix.path"})),
            ranked("udp", serves=frozenset({"ip", "multicast"})),
            TCP,
        ],
        [path, group, both, unresolved, RemoteEndpoint(interface="eth0")],
    )
    assert [(leaf.stack.name, leaf.remote) for leaf in leaves] == [
        ("UNIX", path),
        ("UNIX", both),
        ("UDP", group),
        ("UDP", both),
        ("TCP", both),
    ]
    assert leaves[0].what == "UNIX to _unix.path=/run/x"
    assert leaves[2].what == "UDP to [ff02::1]:5"


def test_equal_endpoints_are_tried_once() -> None:
    leaves = build([TCP], remotes("192.0.2.1", "192.0.2.1", "192.0.2.1"))
    assert len(leaves) == 1


def test_nothing_in_nothing_out() -> None:
    assert build([], remotes("192.0.2.1")) == []
    assert build([TCP], []) == []
    assert build([TCP], [RemoteEndpoint(hostname="unresolved.example", port=1)]) == []


# -- local endpoints


@pytest.mark.requirement("R-9623-4.2.1-01")
def test_local_endpoints_go_with_remotes_of_their_family() -> None:
    v4 = LocalEndpoint(ip_address="10.0.0.1")
    v6 = LocalEndpoint(ip_address="2001:db8::a")
    any_family = LocalEndpoint(interface="eth0")
    leaves = build([TCP], remotes("192.0.2.1", "2001:db8::1"), [v4, v6, any_family])
    assert [leaf.what for leaf in leaves] == [
        "TCP to [2001:db8::1]:7 from 2001:db8::a",
        "TCP to 192.0.2.1:7 from 10.0.0.1",
        "TCP to [2001:db8::1]:7 from eth0",
        "TCP to 192.0.2.1:7 from eth0",
    ]


def test_a_local_endpoint_binds_so_what_it_does_not_fit_is_no_candidate() -> None:
    v6 = LocalEndpoint(ip_address="2001:db8::a")
    assert addresses(build([TCP], remotes("192.0.2.1", "2001:db8::1"), [v6])) == ["2001:db8::1"]
    of_udp = LocalEndpoint(port=5000, protocol="udp")
    assert build([TCP], remotes("192.0.2.1"), [of_udp]) == []
    foreign = LocalEndpoint(identifiers={"_unix.path": "/run/x"})
    assert build([TCP], remotes("192.0.2.1"), [foreign]) == []


def test_a_local_port_alone_goes_with_all() -> None:
    port = LocalEndpoint(port=5000)
    leaves = build([TCP], remotes("192.0.2.1", "2001:db8::1"), [port])
    assert [leaf.local for leaf in leaves] == [port, port]


def test_a_link_local_remote_is_in_the_zone_of_the_interface_that_is_used() -> None:
    on = [LocalEndpoint(interface="eth0"), LocalEndpoint(interface="eth1")]
    leaves = build([TCP], remotes("fe80::1", "2001:db8::1"), on)
    assert [leaf.what for leaf in leaves] == [
        "TCP to [fe80::1%eth0]:7 from eth0",
        "TCP to [fe80::1%eth1]:7 from eth1",
        "TCP to [2001:db8::1]:7 from eth0",
        "TCP to [2001:db8::1]:7 from eth1",
    ]
    (zoned,) = build([TCP], [remotes("fe80::1")[0].with_interface("eth9")], on[:1])
    assert zoned.remote.interface == "eth9"


def test_a_path_says_which_remote_is_reached_from_where() -> None:
    first, second = remotes("192.0.2.1", "2001:db8::1")
    here, there = LocalEndpoint(interface="eth0"), LocalEndpoint(ip_address="2001:db8::a")
    leaves = build([TCP], [first, second], {first: [here], second: [there]}, path="eth0")
    assert [leaf.what for leaf in leaves] == [
        "TCP to [2001:db8::1]:7 from 2001:db8::a",
        "TCP to 192.0.2.1:7 from eth0",
    ]
    assert {leaf.path for leaf in leaves} == {"eth0"}


# -- security classes


@pytest.mark.requirement("R-9621-3.3-01", "R-9623-12.2-01")
def test_each_racing_class_is_a_failover_group_in_the_order_of_the_ranking() -> None:
    best, floor = (True, "TLSv1.3"), (True, "TLSv1.2")
    leaves = build(
        [
            ranked("quic", racing_class=best),
            ranked("tcp", racing_class=floor, label="TLS/TCP"),
            ranked("sctp", racing_class=best, label="DTLS/SCTP"),
            ranked("tcp"),
        ],
        remotes("192.0.2.1"),
    )
    assert [(leaf.stack.name, leaf.group) for leaf in leaves] == [
        ("QUIC", 0),
        ("DTLS/SCTP", 0),
        ("TLS/TCP", 1),
        ("TCP", 2),
    ]


# -- bounds


@pytest.mark.requirement("R-9623-12.2-02")
def test_ten_thousand_addresses_leave_every_stack_and_both_families_their_share() -> None:
    many = remotes(*[f"10.{i >> 8 & 255}.{i & 255}.1" for i in range(10_000)], hostname="x.example")
    few = remotes("2001:db8::1", hostname="x.example")
    leaves = build([ranked("quic"), ranked("sctp"), TCP], [*many, *few])
    assert len(leaves) <= MAX_LEAVES
    for name in ("QUIC", "SCTP", "TCP"):
        of_stack = [leaf for leaf in leaves if leaf.stack.name == name]
        assert len(of_stack) == MAX_LEAVES // 3
        assert of_stack[0].family == 6


def test_each_host_gets_its_share_too() -> None:
    hosts = [
        remote
        for host in "abcd"
        for remote in remotes(*[f"10.0.0.{i}" for i in range(1, 40)], hostname=f"{host}.example")
    ]
    leaves = build([TCP], hosts, max_leaves=8)
    assert [leaf.remote.hostname for leaf in leaves] == [f"{host}.example" for host in "aabbccdd"]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 80))
def test_the_bound_holds_and_the_best_leaf_stays(
    stacks: int, hosts: int, each: int, bound: int
) -> None:
    leaves = build(
        [ranked(f"p{i}", racing_class=i % 2) for i in range(stacks)],
        [
            remote
            for host in range(hosts)
            for remote in remotes(*[f"10.0.{host}.{i}" for i in range(each)], hostname=f"h{host}")
        ],
        max_leaves=bound,
    )
    assert 1 <= len(leaves) <= bound
    assert leaves[0].what == "P0 to 10.0.0.0:7"
    assert [leaf.group for leaf in leaves] == sorted(leaf.group for leaf in leaves)


# -- what one attempt may use together


def test_an_attempt_is_told_of_the_other_addresses_of_its_host() -> None:
    host = remotes("192.0.2.1", "2001:db8::1", "192.0.2.2", hostname="a.example")
    other = remotes("192.0.2.9", hostname="b.example")
    leaves = build([TCP, ranked("sctp")], [*host, *other])
    for leaf in leaves:
        same = [each for each in host if each != leaf.remote and leaf.remote in host]
        told, locals_ = companions(leaf, leaves)
        # In the order in which they would be tried.
        assert sorted(map(str, told)) == sorted(map(str, same))
        assert locals_ == ()
    assert [str(each.ip_address) for each in companions(leaves[1], leaves)[0]] == [
        "2001:db8::1",
        "192.0.2.2",
    ]


def test_addresses_without_a_name_are_of_one_host_if_they_have_one_port() -> None:
    one, two = remotes("192.0.2.1", "192.0.2.2")
    elsewhere = two.with_port(8)
    leaves = build([TCP], [one, two, elsewhere])
    assert [companions(leaf, leaves)[0] for leaf in leaves] == [(two,), (one,), ()]
    assert companions(leaves[0], leaves[:1]) == ((), ())


def test_an_attempt_is_told_of_the_other_local_endpoints_that_fit_its_host() -> None:
    here = [LocalEndpoint(ip_address=each) for each in ("10.0.0.1", "10.0.0.2", "fd00::1")]
    leaves = build([TCP], remotes("192.0.2.1", "192.0.2.2"), here)
    assert len(leaves) == 4
    for leaf in leaves:
        told = companions(leaf, leaves)
        assert {leaf.remote.ip_address, *(each.ip_address for each in told[0])} == {
            "192.0.2.1",
            "192.0.2.2",
        }
        assert [leaf.local, *told[1]] in (here[:2], here[1::-1])


# -- with the others


def test_it_takes_what_selection_ranks_and_gives_what_the_planner_takes() -> None:
    from taps_core.model.security import SecurityParameters

    selection = Selector(Installed([MemoryStream(MemoryNetwork())])).select(
        security=SecurityParameters.disabled()
    )
    remote = RemoteEndpoint(ip_address="192.0.2.1", port=7)
    leaves = build_leaves(selection.ranked, [remote], properties={})
    assert [leaf.stack for leaf in leaves] == [place.stack for place in selection.ranked]
    assert RacePlanner(leaves).start(0.0) == leaves[:1]


def test_a_scoped_address_shows_its_zone() -> None:
    (leaf,) = build([TCP], [RemoteEndpoint.parse("fe80::1%eth0").with_port(7)])
    assert leaf.what == "TCP to [fe80::1%eth0]:7"
    assert repr(leaf) == "<Leaf TCP to [fe80::1%eth0]:7>"
    (portless,) = build([TCP], [RemoteEndpoint(ip_address="192.0.2.1")])
    assert portless.what == "TCP to 192.0.2.1"
