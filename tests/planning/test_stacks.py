"""Composing Protocol Stacks, and folding their tables."""

import pytest

from taps_core.model.capabilities import (
    Capabilities,
    DataUnit,
    LayerCapabilities,
    Protection,
    Support,
)
from taps_core.model.layers import Availability
from taps_core.model.properties import Kind, Property, ValueType
from taps_core.planning.stacks import EVERYWHERE, Stack, compose

A, O, N = Support.ALWAYS, Support.OPTIONAL, Support.NEVER  # noqa: E741  # read as columns


def names(stacks):
    return [stack.name for stack in stacks]


def test_every_transport_gets_every_security_layer_that_fits(everything):
    assert names(compose(everything)) == [
        "DTLS/SCTP",
        "DTLS/UDP",
        "QUIC",
        "SCTP",
        "TCP",
        "TLS/TCP",
        "UDP",
    ]


def test_nothing_installed_makes_no_stack(synthetic):
    assert compose(synthetic.installed()) == []


def test_a_transport_with_security_of_its_own_gets_no_layer_on_top(usual, synthetic):
    assert names(compose(synthetic.installed([usual.quic], [usual.tls]))) == ["QUIC"]


def test_a_layer_does_not_run_over_what_lacks_its_needs(usual, synthetic):
    flaky = synthetic.transport("flaky", Capabilities.byte_stream(reliability=N))
    assert names(compose(synthetic.installed([flaky], [usual.tls]))) == ["FLAKY"]


@pytest.mark.requirement("G-9622-9.1.2.1-01")
def test_stacks_are_written_from_the_application_down_and_the_last_framer_is_on_top(
    usual, synthetic
):
    framers = (synthetic.framer("netstring"), synthetic.framer("json"))
    stack = next(
        s for s in compose(synthetic.installed([usual.tcp], [usual.tls]), framers) if s.security
    )
    assert str(stack) == "json/netstring/TLS/TCP"
    assert stack.framers == framers
    assert stack.layers == (usual.tls, *framers)


def test_a_framer_can_sit_below_security(usual, synthetic):
    proxy = synthetic.framer("proxy", boundaries=False, below_security=True)
    line = synthetic.framer("line")
    found = compose(synthetic.installed([usual.tcp], [usual.tls]), (line, proxy))
    assert names(found) == ["line/TLS/proxy/TCP", "line/proxy/TCP"]
    assert found[0].layers == (proxy, usual.tls, line)


def test_boundaries_below_security_make_messages_of_a_stream(usual, synthetic):
    inner = synthetic.framer("inner", below_security=True)
    found = compose(synthetic.installed([usual.tcp], [usual.tls, usual.dtls]), (inner,))
    # TLS needs a byte stream; DTLS takes the Messages that the framer makes.
    assert names(found) == ["DTLS/inner/TCP", "inner/TCP"]
    assert found[0].capabilities.data_unit is DataUnit.MESSAGE
    assert found[0].bare.support["preserveMsgBoundaries"] is N


def test_a_framer_gives_a_byte_stream_boundaries_for_the_application_only(usual, synthetic):
    stack = Stack(usual.tcp, usual.tcp.capabilities, framers=(synthetic.framer(),))
    assert stack.capabilities.data_unit is DataUnit.MESSAGE
    assert stack.support("preserveMsgBoundaries") is A
    assert stack.gave("preserveMsgBoundaries") == "line"
    assert stack.preserves_boundaries
    assert stack.bare.data_unit is DataUnit.BYTE_STREAM
    assert stack.bare.support["preserveMsgBoundaries"] is N
    assert stack.gave("reliability") == "TCP"


def test_a_framer_without_boundaries_changes_nothing(usual, synthetic):
    stack = Stack(usual.tcp, usual.tcp.capabilities, framers=(synthetic.framer(boundaries=False),))
    assert stack.capabilities is stack.bare
    assert not stack.preserves_boundaries


def test_a_framer_leaves_datagrams_datagrams(usual, synthetic):
    stack = Stack(usual.udp, usual.udp.capabilities, framers=(synthetic.framer(),))
    assert stack.capabilities.data_unit is DataUnit.DATAGRAM
    assert stack.gave("preserveMsgBoundaries") == "UDP"


def test_the_top_framer_decides_whether_objects_are_taken(usual, synthetic):
    framers = (synthetic.framer(), synthetic.framer("json", objects=True))
    assert Stack(usual.tcp, usual.tcp.capabilities, framers=framers).takes_objects
    assert not Stack(usual.tcp, usual.tcp.capabilities, framers=framers[:1]).takes_objects


def test_a_layer_changes_the_table_and_the_stack_tells_who_did(synthetic):
    transport = synthetic.transport(
        "t", Capabilities.datagrams(keepAlive=O).but(effects={"maxSendRate": A, "connTimeout": A})
    )
    protection = Protection(protocols=("SAFEv1",))
    layer = synthetic.layer(
        "safe",
        over=frozenset({DataUnit.DATAGRAM}),
        data_unit=DataUnit.BYTE_STREAM,
        changes={"reliability": A, "keepAlive": N, "preserveMsgBoundaries": N},
        effects={"connTimeout": N},
        protection=protection,
        early_data=True,
        may_duplicate=False,
        half_close=True,
    )
    stack = Stack(transport, transport.capabilities, layer, layer.capabilities)
    assert stack.capabilities.data_unit is DataUnit.BYTE_STREAM
    assert stack.support("reliability") is A
    assert stack.support("keepAlive") is N
    assert stack.support("fullChecksumSend") is O
    assert [stack.gave(n) for n in ("reliability", "fullChecksumSend")] == ["SAFE", "T"]
    assert stack.capabilities.protection is protection
    assert stack.capabilities.early_data
    assert stack.capabilities.half_close
    assert not stack.capabilities.may_duplicate
    assert not stack.capabilities.connected
    assert stack.has_effect("maxSendRate")
    assert not stack.has_effect("connTimeout")


def test_what_a_layer_does_not_say_is_as_below(usual):
    stack = Stack(usual.udp, usual.udp.capabilities, usual.dtls, usual.dtls.capabilities)
    assert stack.capabilities.may_duplicate
    assert not stack.capabilities.half_close
    assert stack.capabilities.data_unit is DataUnit.DATAGRAM


def test_the_effective_table_goes_before_the_declared_one(usual, synthetic):
    usual.tcp.answer = Availability(
        capabilities=usual.tcp.capabilities.but(support={"keepAlive": N})
    )
    newer = LayerCapabilities(
        over=frozenset({DataUnit.BYTE_STREAM}), protection=Protection(protocols=("TLSv1.3",))
    )
    usual.tls.availability = lambda: Availability(capabilities=newer)
    _, stack = compose(synthetic.installed([usual.tcp], [usual.tls]))
    assert stack.support("keepAlive") is N
    assert stack.capabilities.protection.protocols == ("TLSv1.3",)


def test_what_is_not_in_a_table_is_never_there(synthetic):
    bare = Capabilities(data_unit=DataUnit.BYTE_STREAM, support={})
    stack = Stack(synthetic.transport("t", bare), bare)
    assert stack.support("reliability") is N


def test_what_the_connection_does_itself_has_effect_on_every_stack(usual):
    stack = Stack(usual.udp, usual.udp.capabilities)
    assert all(stack.has_effect(name) for name in EVERYWHERE)
    assert not stack.has_effect("keepAliveTimeout")


def test_protocol_specific_properties_have_effect_where_they_are_declared(synthetic):
    declared = Property("tcp.x", Kind.CONNECTION, ValueType.INTEGER, meaning="X.")
    tcp = synthetic.transport("tcp", properties=[declared])
    stack = Stack(tcp, tcp.capabilities)
    assert stack.definitions == (declared,)
    assert stack.has_effect("tcp.x")
    assert not stack.has_effect("sctp.x")


@pytest.mark.requirement("G-9622-7.4-04")
def test_a_clone_can_have_other_framers_on_the_same_stack(usual, synthetic):
    stack = Stack(usual.tcp, usual.tcp.capabilities, usual.tls, usual.tls.capabilities)
    framed = stack.with_framers((synthetic.framer(),))
    assert str(framed) == "line/TLS/TCP"
    assert framed.preserves_boundaries
    assert framed.capabilities.protection is stack.capabilities.protection
    assert str(framed.with_framers(())) == str(stack) == "TLS/TCP"


@pytest.mark.parametrize(
    ("kinds", "protocol", "served"),
    [
        (frozenset({"ip"}), None, True),
        (frozenset({"ip"}), "tcp", True),
        (frozenset({"ip"}), "quic", False),
        (frozenset({"_unix.path"}), None, False),
        (frozenset({"_unix.path", "ip"}), None, True),
        (frozenset({"multicast"}), None, False),
        (frozenset(), None, True),
    ],
)
def test_a_stack_serves_what_its_transport_reaches(usual, kinds, protocol, served):
    assert Stack(usual.tcp, usual.tcp.capabilities).serves(kinds, protocol) is served
