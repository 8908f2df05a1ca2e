"""Local and Remote Endpoints are values, and say what is wrong with what they are given."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import PropertyError

BOTH = pytest.mark.parametrize("kind", [LocalEndpoint, RemoteEndpoint])


@BOTH
@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("example.net:443", {"hostname": "example.net", "port": 443}),
        ("example.net:https", {"hostname": "example.net", "service": "https"}),
        ("example.net", {"hostname": "example.net"}),
        (":7000", {"port": 7000}),
        ("localhost:0", {"hostname": "localhost", "port": 0}),
        ("127.0.0.1:0", {"ip_address": "127.0.0.1", "port": 0}),
        ("192.0.2.1", {"ip_address": "192.0.2.1"}),
        ("[::1]:80", {"ip_address": "::1", "port": 80}),
        ("2001:db8::1", {"ip_address": "2001:db8::1"}),
        ("fe80::1%eth0", {"ip_address": "fe80::1", "interface": "eth0"}),
        ("[fe80::1%eth0]:5", {"ip_address": "fe80::1", "interface": "eth0", "port": 5}),
        ("_unix.path=/run/x", {"identifiers": {"_unix.path": "/run/x"}}),
    ],
)
def test_text_is_understood_and_given_back(kind, text, fields):
    endpoint = kind.parse(text)
    assert endpoint == kind(**fields)
    assert str(endpoint) == text


@BOTH
@pytest.mark.parametrize("text", ["[::1]", "[2001:DB8:0::1]:80", "2001:db8:0:0::1"])
def test_addresses_come_back_in_canonical_form(kind, text):
    endpoint = kind.parse(text)
    assert kind.parse(str(endpoint)) == endpoint
    assert endpoint.ip_address == str(ipaddress.ip_address(endpoint.ip_address))


@BOTH
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not host:port"),
        ("https://example.net/", "a URL is not an endpoint"),
        ("example.net:", "nothing follows the colon"),
        ("example.net:-1", "neither a port nor a service"),
        ("example.net:8_0", "neither a port nor a service"),
        ("example.net:70000", "port: 70000 is not"),
        ("[example.net]:80", "not an IPv6 address"),
        ("[::1", r"not \[address\]:port"),
        ("[::1]80", r"not \[address\]:port"),
        ("a:b:c", r"an IPv6 address with a port is \[address\]:port"),
        ("exa mple.net:80", "blanks"),
        ("a\0b:80", "control characters"),
    ],
)
def test_text_that_is_no_endpoint_is_refused(kind, text, sentence):
    with pytest.raises(PropertyError, match=sentence):
        kind.parse(text)


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_property_error(text):
    try:
        endpoint = RemoteEndpoint.parse(text)
    except PropertyError:
        return
    assert RemoteEndpoint.parse(str(endpoint)) == endpoint


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_and_port_survives_being_written(address, port):
    endpoint = RemoteEndpoint(ip_address=address, port=port)
    assert RemoteEndpoint.parse(str(endpoint)) == endpoint
    assert ipaddress.ip_address(endpoint.ip_address) == address
    assert RemoteEndpoint(ip_address=address.packed, port=port) == endpoint
    assert RemoteEndpoint(ip_address=str(address), port=port) == endpoint


@pytest.mark.requirement("G-9622-6.1-01")
@BOTH
def test_a_zone_is_the_interface(kind):
    endpoint = kind(ip_address="fe80::1%eth0")
    assert endpoint == kind(ip_address="fe80::1", interface="eth0")
    assert endpoint.interface == "eth0"
    with pytest.raises(PropertyError, match="zone 'eth0' contradicts interface 'eth1'"):
        kind(ip_address="fe80::1%eth0", interface="eth1")
    assert endpoint.with_ip_address("fe80::2%eth1").interface == "eth1"


@BOTH
def test_a_numeric_hostname_is_an_address(kind):
    assert kind(hostname="192.0.2.1") == kind(ip_address="192.0.2.1")
    both = kind(hostname="example.net", ip_address="192.0.2.1")
    assert (both.hostname, both.ip_address) == ("example.net", "192.0.2.1")


@pytest.mark.requirement("R-9622-6.1-02")
@BOTH
@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": ["a.example", "b.example"]},
        {"ip_address": ["192.0.2.1", "192.0.2.2"]},
        {"port": (80, 443)},
        {"service": ["http", "https"]},
        {"interface": ["eth0", "eth1"]},
    ],
)
def test_an_endpoint_never_holds_two_identifiers_of_one_type(kind, fields):
    with pytest.raises(PropertyError):
        kind(**fields)


@BOTH
@pytest.mark.parametrize(
    "fields",
    [
        {"port": -1},
        {"port": 65536},
        {"port": "80"},
        {"port": True},
        {"ip_address": "256.0.0.1"},
        {"ip_address": "1.2.3"},
        {"ip_address": b"123"},
        {"ip_address": 1},
        {"hostname": ""},
        {"hostname": 5},
        {"hop_limit": 256},
        {"hop_limit": -1},
        {"multicast_group": "192.0.2.1"},
        {"multicast_group": "2001:db8::1"},
        {"multicast_source": "192.0.2.1"},
        {"stun_server": "stun.example"},
        {"stun_server": ("stun.example", 0)},
        {"identifiers": {"path": "/run/x"}},
        {"identifiers": {"_.x": "/run/x"}},
        {"identifiers": {"unix.": "/run/x"}},
        {"identifiers": {1: "/run/x"}},
        {"identifiers": {"_unix.path": ["/run/x"]}},
    ],
)
def test_values_that_cannot_be_are_refused(kind, fields):
    (name,) = fields
    with pytest.raises(PropertyError, match=name):
        kind(**fields)


@BOTH
@pytest.mark.parametrize("group", ["224.0.0.1", "239.255.255.255", "ff02::1"])
def test_multicast_groups_are_a_kind_of_their_own(kind, group):
    endpoint = kind(multicast_group=group, port=5000, hop_limit=1)
    assert endpoint.multicast_group == group
    assert endpoint.hop_limit == 1
    assert endpoint.kinds == {"multicast"}


def test_kinds_say_what_reaches_an_endpoint():
    assert RemoteEndpoint(hostname="a.example").kinds == {"ip"}
    assert LocalEndpoint(port=0).kinds == {"ip"}
    assert LocalEndpoint().kinds == frozenset()
    assert LocalEndpoint(interface="eth0", protocol="tcp").kinds == frozenset()
    assert RemoteEndpoint(identifiers={"_unix.path": "/x"}).kinds == {"_unix.path"}
    assert RemoteEndpoint(port=1, identifiers={"_x.y": 1}).kinds == {"ip", "_x.y"}


@BOTH
def test_endpoints_are_frozen_values(kind):
    endpoint = kind(hostname="a.example", port=80, identifiers={"_x.y": 1})
    same = kind(identifiers={"_x.y": 1}, port=80, hostname="a.example")
    assert endpoint == same
    assert hash(endpoint) == hash(same)
    assert endpoint != kind(hostname="a.example", port=80)
    for name in ("hostname", "ip_address", "port", "identifiers", "kinds"):
        with pytest.raises(AttributeError):
            setattr(endpoint, name, None)
    with pytest.raises(TypeError):
        endpoint.identifiers["_x.y"] = 2


def test_a_local_endpoint_is_no_remote_endpoint():
    assert LocalEndpoint(port=80) != RemoteEndpoint(port=80)


@BOTH
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hostname", "b.example"),
        ("ip_address", "192.0.2.9"),
        ("port", 81),
        ("service", "ssh"),
        ("interface", "eth1"),
        ("protocol", "quic"),
        ("hop_limit", 3),
    ],
)
def test_with_methods_return_a_changed_copy(kind, field, value):
    before = kind(hostname="a.example", port=80, hop_limit=1, identifiers={"_x.y": 1})
    after = getattr(before, f"with_{field}")(value)
    assert getattr(after, field) == value
    assert getattr(before, field) != value
    assert getattr(after, f"with_{field}")(getattr(before, field)) == before


def test_local_endpoints_have_their_own_with_methods():
    endpoint = LocalEndpoint(port=5000)
    group = endpoint.with_single_source_multicast_group("232.0.0.1", "192.0.2.1")
    assert (group.multicast_group, group.multicast_source) == ("232.0.0.1", "192.0.2.1")
    assert group.with_any_source_multicast_group("239.0.0.1").multicast_source is None
    assert RemoteEndpoint(port=1).with_multicast_group("239.0.0.1").port == 1
    named = RemoteEndpoint().with_identifier("_a.b", 1).with_identifier("_a.c", 2)
    assert dict(named.identifiers) == {"_a.b": 1, "_a.c": 2}


def test_credentials_are_not_shown():
    endpoint = LocalEndpoint().with_stun_server("stun.example", 3478, ("user", "secret"))
    assert endpoint.stun_server == ("stun.example", 3478, ("user", "secret"))
    assert "secret" not in repr(endpoint)
    assert "stun.example" in repr(endpoint)


def test_protocols_are_compared_without_regard_to_case():
    assert RemoteEndpoint(port=1, protocol="QUIC") == RemoteEndpoint(port=1, protocol="quic")


def test_one_or_several_are_taken():
    one = RemoteEndpoint(hostname="a.example", port=80)
    assert RemoteEndpoint.coerce_all(None) == ()
    assert RemoteEndpoint.coerce_all("a.example:80") == (one,)
    assert RemoteEndpoint.coerce_all(one) == (one,)
    assert RemoteEndpoint.coerce_all([one, "b.example:80"])[1].hostname == "b.example"
    with pytest.raises(TypeError, match="RemoteEndpoint or text"):
        RemoteEndpoint.coerce(LocalEndpoint(port=80))
    with pytest.raises(TypeError):
        RemoteEndpoint.coerce_all(80)
