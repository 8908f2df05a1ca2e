"""SRV, SVCB and HTTPS records: which first, which not at all."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.planning.service_records import (
    BY_SRV,
    PORTS,
    Binding,
    SrvRecord,
    is_alias,
    protocols_for,
    sorted_bindings,
    sorted_srv,
    srv_labels,
)

RECORDS = st.lists(
    st.builds(
        SrvRecord,
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.sampled_from(["a.example.", "b.example.", "."]),
    ),
    max_size=30,
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_srv_records_come_by_priority_and_none_is_lost(
    records: list[SrvRecord], chance: random.Random
) -> None:
    found = sorted_srv(records, chance)
    assert Counter(found) == Counter(records)
    priorities = [record.priority for record in found]
    assert priorities == sorted(priorities)


def test_weights_say_how_often_a_record_is_the_first() -> None:
    records = [SrvRecord(1, weight, 1, f"{weight}.example.") for weight in (0, 10, 30, 60)]
    chance = random.Random(7)
    first = Counter(sorted_srv(records, chance)[0].weight for _ in range(10_000))
    # RFC 2782: 10, 30 and 60 of 101 draws, and a very small chance for weight 0.
    assert first[10] == pytest.approx(1000, rel=0.2)
    assert first[30] == pytest.approx(3000, rel=0.1)
    assert first[60] == pytest.approx(6000, rel=0.1)
    assert 0 < first[0] < 200


def test_equal_chance_gives_an_equal_order() -> None:
    records = [SrvRecord(1, weight, 1, f"{weight}.example.") for weight in range(9)]
    once = sorted_srv(records, random.Random(3))
    assert sorted_srv(records, random.Random(3)) == once


@pytest.mark.parametrize(
    ("service", "protocol", "labels"),
    [
        ("xmpp-client", None, [("_xmpp-client._tcp", "tcp")]),
        ("XMPP-Client", None, [("_xmpp-client._tcp", "tcp")]),
        ("stun", None, [("_stun._tcp", "tcp"), ("_stun._udp", "udp")]),
        ("stun", "udp", [("_stun._udp", "udp")]),
        ("stun", "sctp", []),
        ("https", None, []),
        ("ssh", None, []),
        ("_foobar._sctp", None, [("_foobar._sctp", "sctp")]),
        ("_foobar._tcp", "udp", []),
        ("_dns", None, []),
        ("_a._b._c", None, []),
    ],
)
def test_who_is_asked_for_with_srv_records(
    service: str, protocol: str | None, labels: list[tuple[str, str]]
) -> None:
    assert list(srv_labels(service, protocol)) == labels


def test_services_by_srv_have_a_port_where_there_is_no_record() -> None:
    assert set(BY_SRV) <= set(PORTS)


@given(
    st.lists(st.builds(Binding, st.integers(0, 5), st.sampled_from(["a.", "b."])), max_size=20),
    st.randoms(use_true_random=False),
)
def test_bindings_come_by_priority_and_none_is_lost(
    bindings: list[Binding], chance: random.Random
) -> None:
    found = sorted_bindings(bindings, chance)
    assert Counter(found) == Counter(bindings)
    assert [it.priority for it in found] == sorted(it.priority for it in bindings)
    assert is_alias(found) == (bool(found) and found[0].priority == 0)


def test_bindings_of_one_priority_take_turns() -> None:
    bindings = [Binding(1, f"{name}.example.") for name in "abc"]
    chance = random.Random(1)
    first = Counter(sorted_bindings(bindings, chance)[0].target for _ in range(3000))
    assert all(count == pytest.approx(1000, rel=0.2) for count in first.values())


@given(
    st.lists(st.sampled_from(["h2", "h3", "http/1.1", "dot"]), unique=True),
    st.booleans(),
    st.lists(st.sampled_from(["h2", "h3", "http/1.1", "dot"]), unique=True),
)
def test_a_binding_is_used_for_what_both_speak(
    alpn: list[str], default: bool, offered: list[str]
) -> None:
    binding = Binding(1, ".", alpn=tuple(alpn), default_alpn=default)
    found = protocols_for(
        binding, offered=offered, default=("http/1.1",), transports={"h3": "quic"}
    )
    spoken = {*alpn, *(["http/1.1"] if default else [])}
    common = spoken & set(offered or ["http/1.1"])
    assert ("quic" in found) == ("h3" in common)
    assert (None in found) == bool(common - {"h3"})
