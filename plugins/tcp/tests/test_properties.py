from __future__ import annotations

import importlib
import math
import socket
import sys

import pytest

import taps_core as taps
import taps_tcp.fast_open
import taps_tcp.options
import taps_tcp.transport
from taps_core.plugin import (
    AVAILABLE,
    DSCP,
    CapacityProfile,
    DataUnit,
    Preference,
    PropertyError,
    Support,
)
from taps_tcp import TCP, TCPInfo


def reads(bench, run, name, **properties):
    """What a fresh flow with these properties reads back."""

    async def main():
        flow, peer = await bench.pair(**properties)
        value = flow.read(name)
        flow.abort()
        peer.close()
        return value

    return run(main)


def applied(bench, run, steps, name, **properties):
    """What reads back after some ``apply`` calls, and what those returned."""

    async def main():
        flow, peer = await bench.pair(**properties)
        effects = [flow.apply(*step) for step in steps]
        value = flow.read(name)
        flow.abort()
        peer.close()
        return value, effects

    return run(main)


# -- timeouts


@pytest.mark.linux
@pytest.mark.parametrize(
    ("properties", "seconds"),
    [
        ({}, math.inf),
        ({"connTimeout": 2.5}, 2.5),
        ({"connTimeout": 0.0001}, 0.001),
        ({"connTimeout": 1e12}, (2**31 - 1) / 1000),
        ({"tcp__userTimeoutValue": 7}, math.inf),
        ({"tcp__userTimeoutEnabled": True}, 300),
        ({"tcp__userTimeoutEnabled": True, "tcp__userTimeoutValue": 7}, 7),
        ({"tcp__userTimeoutEnabled": True, "tcp__userTimeoutValue": 7, "connTimeout": 4}, 4),
    ],
)
def test_the_user_timeout_is_conn_timeout_or_else_tcps_own(tcp4, run, properties, seconds):
    assert reads(tcp4, run, "connTimeout", **properties) == seconds


@pytest.mark.linux
def test_the_timeouts_can_be_changed_on_the_connection(tcp4, run):
    steps = [("connTimeout", 5.0), ("tcp.userTimeoutValue", 9), ("tcp.userTimeoutEnabled", True)]
    assert applied(tcp4, run, steps, "connTimeout") == (5.0, [True] * 3)
    steps.append(("connTimeout", math.inf))
    assert applied(tcp4, run, steps, "connTimeout") == (9.0, [True] * 4)
    assert applied(tcp4, run, steps, "tcp.userTimeoutValue")[0] == 9
    assert applied(tcp4, run, steps, "tcp.userTimeoutEnabled")[0] is True


def test_conn_timeout_makes_the_user_timeout_unchangeable(tcp4, run):
    name = "tcp.userTimeoutChangeable"
    assert reads(tcp4, run, name) is True
    assert reads(tcp4, run, name, connTimeout=3) is False
    assert applied(tcp4, run, [("connTimeout", 3)], name)[0] is False
    assert applied(tcp4, run, [(name, False)], name) == (False, [False])


def test_the_defaults_of_the_tcp_properties_read_back(tcp4, run):
    assert reads(tcp4, run, "tcp.userTimeoutValue") == 300
    assert reads(tcp4, run, "tcp.userTimeoutEnabled") is False


# -- keep-alives

WANTED = {"keepAlive": Preference.REQUIRE}


@pytest.mark.linux
@pytest.mark.parametrize(
    ("properties", "sent"),
    [
        ({}, False),
        ({"keepAlive": Preference.REQUIRE}, True),
        ({"keepAlive": Preference.PREFER}, True),
        ({"keepAlive": Preference.NO_PREFERENCE, "keepAliveTimeout": 30}, True),
        ({"keepAlive": Preference.AVOID, "keepAliveTimeout": 30}, False),
        ({"keepAlive": Preference.PROHIBIT, "keepAliveTimeout": 30}, False),
        ({"keepAlive": Preference.REQUIRE, "keepAliveTimeout": 30, "connTimeout": 20}, False),
        ({"keepAlive": Preference.REQUIRE, "keepAliveTimeout": 30, "connTimeout": 30}, True),
    ],
)
def test_keep_alives_are_sent_when_asked_for(tcp4, run, properties, sent):
    assert reads(tcp4, run, "keepAlive", **properties) is sent


@pytest.mark.linux
@pytest.mark.parametrize(
    ("timeout", "idle"), [(30, 30.0), (2.9, 2.0), (0.2, 1.0), (1e9, 32767.0), (math.inf, None)]
)
def test_the_keep_alive_timeout_is_whole_seconds_of_idleness(tcp4, run, timeout, idle):
    value = reads(tcp4, run, "keepAliveTimeout", keepAliveTimeout=timeout, **WANTED)
    if idle is None:  # the system's own period, wherever it stands
        assert math.isfinite(value)
    else:
        assert value == idle


@pytest.mark.linux
def test_keep_alives_can_be_started_and_stopped_on_the_connection(tcp4, run):
    start, stop = ("keepAliveTimeout", 40), ("keepAliveTimeout", math.inf)
    assert applied(tcp4, run, [start], "keepAliveTimeout") == (40.0, [True])
    assert applied(tcp4, run, [start, stop], "keepAliveTimeout") == (math.inf, [True, True])
    # Disabled on the Connection is said, not merely the default.
    assert applied(tcp4, run, [stop], "keepAlive", **WANTED)[0] is False
    assert applied(tcp4, run, [stop, start], "keepAliveTimeout", **WANTED)[0] == 40.0


@pytest.mark.linux
def test_a_shorter_conn_timeout_stops_keep_alives_and_a_longer_one_brings_them_back(tcp4, run):
    shorter, longer = ("connTimeout", 20), ("connTimeout", 60)
    assert applied(tcp4, run, [shorter], "keepAlive", keepAliveTimeout=30)[0] is False
    assert applied(tcp4, run, [shorter, longer], "keepAlive", keepAliveTimeout=30)[0] is True


# -- capacity


def traffic_class(flow):
    if flow.sock.family == socket.AF_INET6:
        return flow.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    return flow.sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)


@pytest.mark.requirement("R-9622-8.1.6-01", "R-9622-8.1.6-02")
@pytest.mark.requirement("R-9622-8.1.6-05", "R-9622-8.1.6-07", "R-9622-8.1.6-09")
@pytest.mark.linux
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("profile", CapacityProfile)
def test_a_capacity_profile_marks_the_packets_and_chooses_nagle(tcp, run, profile, when):
    async def main():
        if when == "before":
            flow, peer = await tcp.pair(connCapacityProfile=profile)
        else:
            flow, peer = await tcp.pair()
            assert flow.apply("connCapacityProfile", profile) is True
        assert traffic_class(flow) == DSCP[profile][0] << 2
        assert flow.read("connCapacityProfile") is profile
        no_delay = flow.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert bool(no_delay) is (
            profile not in (CapacityProfile.CAPACITY_SEEKING, CapacityProfile.SCAVENGER)
        )
        flow.abort()
        peer.close()

    run(main)


@pytest.mark.linux
def test_a_profile_can_be_taken_back(tcp, run):
    steps = [
        ("connCapacityProfile", CapacityProfile.SCAVENGER),
        ("connCapacityProfile", CapacityProfile.DEFAULT),
    ]
    value, _ = applied(tcp, run, steps, "connCapacityProfile")
    assert value is CapacityProfile.DEFAULT


@pytest.mark.linux
@pytest.mark.parametrize(
    ("rate", "in_force"), [(math.inf, math.inf), (8e6, 8e6), (15.0, 8.0), (3, 8.0), (8e30, None)]
)
def test_the_sending_rate_is_paced_by_the_kernel(tcp4, run, rate, in_force):
    expected = pytest.approx(2**64 * 8) if in_force is None else in_force
    assert reads(tcp4, run, "maxSendRate", maxSendRate=rate) == expected
    assert applied(tcp4, run, [("maxSendRate", rate)], "maxSendRate") == (expected, [True])


@pytest.mark.linux
def test_the_sending_rate_can_be_set_free_again(tcp4, run):
    steps = [("maxSendRate", 8e6), ("maxSendRate", math.inf)]
    assert applied(tcp4, run, steps, "maxSendRate")[0] == math.inf


@pytest.mark.linux
def test_a_paced_connection_still_delivers_everything(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started(maxSendRate=80e6)
        flow.send(b"x" * 1_000_000, None, True)
        flow.finish()
        assert len(await tcp4.recv_all(peer)) == 1_000_000
        await tcp4.end(flow, recorder, peer)

    run(main)


# -- figures


def test_message_sizes_have_no_limit(tcp4, run):
    assert reads(tcp4, run, "sendMsgMaxLen") == sys.maxsize
    assert reads(tcp4, run, "recvMsgMaxLen") == sys.maxsize


@pytest.mark.linux
def test_a_single_packet_has_room_for_a_segment_of_this_path(tcp4, run):
    async def main():
        flow, peer = await tcp4.pair()
        with tcp4.server() as server:
            # As a peer on a path that is narrower would ask for.
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
            narrow = await tcp4.connect(server.getsockname()[1])
            other = await tcp4.accept(server)
        name = "singularTransmissionMsgMaxLen"
        assert 0 < narrow.read(name) <= 1000 < flow.read(name)
        assert flow.read(name) < flow.find(TCPInfo).path_mtu
        for each, end in ((flow, peer), (narrow, other)):
            each.abort()
            end.close()

    run(main)


@pytest.mark.linux
def test_retransmission_figures_come_from_the_kernel(tcp4, run):
    assert reads(tcp4, run, "_taps.retransmissions") == 0

    async def main():
        flow, recorder, peer = await tcp4.started()
        info = flow.find(TCPInfo)
        assert info.state == 1
        assert info.retransmissions == info.retransmissions_in_a_row == 0
        assert 0 < info.round_trip_time < info.retransmission_timeout
        assert info.congestion_window > 0
        assert info.path_mtu > 0
        assert flow.find(type(flow)) is flow
        assert flow.find(int) is None
        await tcp4.end(flow, recorder, peer)
        assert flow.find(TCPInfo) is None

    run(main)


@pytest.mark.linux
def test_undelivered_counts_from_send_to_acknowledgement(tcp4, run):
    async def main():
        with tcp4.server() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flow = await tcp4.connect(server.getsockname()[1])
            peer = await tcp4.accept(server)
        recorder = tcp4.Recorder()
        flow.start(recorder)
        assert flow.read("_taps.undelivered") == 0
        flow.send(b"x" * 1000, None, True)
        assert flow.read("_taps.undelivered") == 1000
        flow.flush()
        await tcp4.settle()
        assert flow.read("_taps.undelivered") == 0  # acknowledged, though not read
        flow.send(b"x" * 8_000_000, None, True)
        flow.finish()
        await tcp4.settle()
        assert 1_000_000 < flow.read("_taps.undelivered") < 8_000_000
        await tcp4.recv_all(peer)
        await tcp4.until(lambda: flow.read("_taps.undelivered") == 0)
        await tcp4.end(flow, recorder, peer)

    run(main)


@pytest.mark.linux
def test_undelivered_is_a_property_of_the_connection(tcp4, run):
    async def main():
        with tcp4.server() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection = await taps.Preconnection(
                remote=f"127.0.0.1:{server.getsockname()[1]}",
                security=taps.SecurityParameters.disabled(),
            ).initiate()
            peer = await tcp4.accept(server)
        assert connection.properties["_taps.undelivered"] == 0
        await connection.send(b"x" * 8_000_000)
        await tcp4.settle()
        assert connection.properties["_taps.undelivered"] > 1_000_000
        connection.abort()
        peer.close()

    run(main)


# -- errors and other platforms


def test_an_unknown_property_has_no_effect_and_no_value(tcp4, run):
    assert applied(tcp4, run, [("multipathPolicy", "Handover")], "multipathPolicy") == (
        None,
        [False],
    )


def test_after_the_end_nothing_is_in_force_any_more(tcp4, run):
    async def main():
        flow, recorder, peer = await tcp4.started()
        await tcp4.end(flow, recorder, peer)
        assert flow.apply("connTimeout", 3.0) is False
        assert flow.read("connTimeout") is None
        assert flow.read("sendMsgMaxLen") == sys.maxsize

    run(main)


@pytest.mark.requirement("R-9623-7-03", "R-9623-7-04", "R-9623-7-05")
@pytest.mark.linux
def test_a_value_that_the_system_refuses_is_a_property_error_and_the_connection_lives(
    tcp4, run, monkeypatch
):
    # An option number that does not exist, as on a kernel that lacks it.
    monkeypatch.setattr(socket, "TCP_USER_TIMEOUT", 9999)

    async def main():
        flow, recorder, peer = await tcp4.started(connTimeout=2.0)
        with pytest.raises(PropertyError, match="connTimeout"):
            flow.apply("connTimeout", 3.0)
        assert flow.read("connTimeout") is None
        await tcp4.sendall(peer, b"alive")
        await recorder.until(lambda r: r.data == b"alive")
        await tcp4.end(flow, recorder, peer)

    run(main)


NAMES = (
    "TCP_USER_TIMEOUT",
    "TCP_KEEPIDLE",
    "TCP_KEEPALIVE",
    "TCP_INFO",
    "TCP_MAXSEG",
    "SO_BINDTODEVICE",
)


@pytest.fixture
def bare_platform(monkeypatch):
    """A socket module without the names that not every system has."""
    for name in NAMES:
        monkeypatch.delattr(socket, name, raising=False)
    monkeypatch.setattr(sys, "platform", "elsewhere")
    importlib.reload(taps_tcp.options)
    yield
    monkeypatch.undo()
    importlib.reload(taps_tcp.options)


@pytest.mark.usefixtures("bare_platform")
def test_without_the_options_of_linux_setting_has_no_effect_and_says_so(tcp4, run):
    options = taps_tcp.options
    assert options.missing() == {
        "_taps.retransmissions",
        "connTimeout",
        "keepAliveTimeout",
        "maxSendRate",
        "noFragmentation",
        "noSegmentation",
        "singularTransmissionMsgMaxLen",
        "tcp.userTimeoutEnabled",
        "tcp.userTimeoutValue",
        "softErrorNotify",
        "_taps.excessiveRetransmissions",
    }
    properties = {"connTimeout": 2, "keepAliveTimeout": 1, "maxSendRate": 8e6}
    with socket.socket() as sock:
        options.configure(sock, properties)
        for name in properties:
            assert options.SETTERS[name](sock, properties) is False
            assert options.read(sock, properties, name) is None
        assert options.read(sock, properties, "singularTransmissionMsgMaxLen") is None
        assert not options.set_whole_packets(sock)


def test_availability_tells_the_effective_table_of_this_platform(monkeypatch):
    # They have tests of their own.
    monkeypatch.setattr(taps_tcp.transport, "multipath_missing", str)
    monkeypatch.setattr(taps_tcp.fast_open, "missing", str)
    monkeypatch.setattr(taps_tcp.transport, "missing", lambda: frozenset({"maxSendRate"}))
    found = TCP().availability()
    assert found.available
    assert found.capabilities.effects["maxSendRate"] is Support.NEVER
    assert found.capabilities.effects["connTimeout"] is Support.OPTIONAL
    assert found.capabilities.support["softErrorNotify"] is Support.OPTIONAL
    absent = frozenset({"softErrorNotify", "_taps.excessiveRetransmissions"})
    monkeypatch.setattr(taps_tcp.transport, "missing", lambda: absent)
    found = TCP().availability()
    assert found.capabilities.support["softErrorNotify"] is Support.NEVER
    assert "softErrorNotify" not in found.capabilities.effects
    assert found.capabilities.effects["_taps.excessiveRetransmissions"] is Support.NEVER
    monkeypatch.setattr(taps_tcp.transport, "missing", frozenset)
    assert TCP().availability() is AVAILABLE


def test_the_table_is_that_of_a_byte_stream_without_what_is_not_built():
    table = TCP.capabilities
    assert table.data_unit is DataUnit.BYTE_STREAM
    assert table.connected
    assert table.half_close
    assert not table.may_duplicate
    assert table.early_data
    always = {name for name, support in table.support.items() if support is Support.ALWAYS}
    assert always == {
        "reliability",
        "preserveOrder",
        "fullChecksumSend",
        "fullChecksumRecv",
        "congestionControl",
        "direction",
    }
    optional = {name for name, support in table.support.items() if support is Support.OPTIONAL}
    assert optional == {
        *("keepAlive", "activeReadBeforeSend", "softErrorNotify"),
        *("multipath", "advertisesAltaddr", "zeroRttMsg"),
    }


def test_the_plugin_declares_one_transport_and_its_properties():
    (transport,) = taps_tcp.taps_transports()
    assert transport.name == "tcp"
    assert transport.label == "TCP"
    names = [definition.name for definition in transport.properties]
    assert names == [
        "tcp.userTimeoutValue",
        "tcp.userTimeoutEnabled",
        "tcp.userTimeoutChangeable",
        "_taps.retransmissions",
        "_taps.excessiveRetransmissions",
        "_taps.multipathInUse",
    ]
