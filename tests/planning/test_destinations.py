"""The order of addresses: RFC 6724's own examples, and whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.planning.destinations import ordered

# Section 10.2: candidate → source, best first. Those that rest on rules 3, 4 and 7
# (deprecated, home and tunnelled addresses), which are the system's, are not among them.
EXAMPLES = {
    "matching scope": [("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "169.254.13.78")],
    "matching scope, the other way round": [
        ("198.51.100.121", "198.51.100.117"),
        ("2001:db8:1::1", "fe80::1"),
    ],
    "higher precedence": [("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")],
    "smaller scope": [("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")],
    "longest matching prefix": [
        ("2001:db8:1::1", "2001:db8:1::2"),
        ("2001:db8:3ffe::1", "2001:db8:1::2"),
    ],
    "matching label": [
        ("2002:c633:6401::1", "2002:c633:6401::2"),
        ("2001:db8:1::1", "2002:c633:6401::2"),
    ],
    "higher precedence of native": [
        ("2001:db8:1::1", "2001:db8:1::2"),
        ("2002:c633:6401::1", "2002:c633:6401::2"),
    ],
    "a way at all": [("192.0.2.1", "192.0.2.9"), ("2001:db8::1", None)],
    "unique local to unique local": [("fd00:1::1", "fd00:1::2"), ("2001:db8::1", "fd00:1::2")],
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_rfc(example: list[tuple[str, str | None]]) -> None:
    sources = dict(example)
    expected = [destination for destination, _ in example]
    assert ordered(expected, sources.get) == expected
    assert ordered(expected[::-1], sources.get) == expected


def test_ipv4_addresses_keep_the_order_in_which_their_server_gave_them() -> None:
    addresses = ["192.0.2.200", "10.9.9.9", "192.0.2.1", "198.51.100.7"]
    assert ordered(addresses, lambda _: "192.0.2.2") == addresses


def test_a_zone_is_part_of_the_question_and_stays() -> None:
    asked: list[str] = []

    def source_of(address: str) -> str | None:
        asked.append(address)
        return None

    assert "fe80::1%eth0" in ordered(["fe80::1%eth0", "192.0.2.1"], source_of)
    assert asked == ["fe80::1%eth0", "192.0.2.1"]


def test_one_address_needs_no_question() -> None:
    assert ordered(["192.0.2.1"], lambda _: pytest.fail("asked")) == ["192.0.2.1"]


ADDRESSES = st.ip_addresses().map(str)


@given(st.dictionaries(ADDRESSES, st.none() | ADDRESSES, max_size=12), st.randoms())
def test_it_is_a_permutation_and_the_unreachable_are_last(
    sources: dict[str, str | None], chance: object
) -> None:
    found = ordered(list(sources), sources.get)
    assert sorted(found) == sorted(sources)
    reachable = [sources[address] is not None for address in found]
    if len(found) > 1:
        assert reachable == sorted(reachable, reverse=True)


@given(st.lists(ADDRESSES, min_size=2, max_size=8, unique=True))
def test_what_is_in_order_stays_in_order(addresses: list[str]) -> None:
    same = {address: address for address in addresses}
    once = ordered(addresses, same.get)
    assert ordered(once, same.get) == once
