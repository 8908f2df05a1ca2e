"""UDP-Lite: what the checksum covers, as plain sockets see it."""

from __future__ import annotations

import math
import socket

import pytest

import taps_core as taps
from taps_core.plugin import Preference, PropertyError
from taps_core.testing import run
from taps_udp import UDPLite

AVAILABILITY = UDPLite().availability()
pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(not AVAILABILITY.available, reason=AVAILABILITY.reason),
]
PROTOCOL = 136
SEND_COVERAGE, RECEIVE_COVERAGE = (PROTOCOL, 10), (PROTOCOL, 11)
#: The application does not insist on full coverage.
FREE = {
    "fullChecksumSend": Preference.NO_PREFERENCE,
    "fullChecksumRecv": Preference.NO_PREFERENCE,
}


def demand(peer, length):
    """Drop what the checksum covers less of, header included."""
    peer.setsockopt(*RECEIVE_COVERAGE, length)


def cover(peer, length):
    peer.setsockopt(*SEND_COVERAGE, length)


@pytest.fixture(params=["127.0.0.1", "::1"])
def peer(udp, request):
    """A plain UDP-Lite socket."""
    return udp.peer(request.param, protocol=PROTOCOL)


async def dialogue(udp, peer, **properties):
    end = await udp.connect(peer, transport=UDPLite(), **FREE, **properties)
    return end, end.flow.local_endpoint


def address_of(local):
    return (local.ip_address, local.port)


def test_datagrams_go_both_ways(udp, peer):
    async def main():
        end, local = await dialogue(udp, peer)
        end.send(b"hello", b"", b"there")
        assert [(await udp.recv(peer))[0] for _ in range(3)] == [b"hello", b"", b"there"]
        peer.sendto(b"answer", address_of(local))
        await end.has_data(b"answer")

    udp.run(main)


def test_of_a_message_so_much_is_covered_as_was_asked_for(udp, peer):
    async def main():
        end, _ = await dialogue(udp, peer)
        for length, demanded, arrives in [
            (20, 28, True),
            (20, 29, False),
            (0, 8, True),
            (0, 9, False),
            (math.inf, 0, True),
            (1000, 0, True),  # longer than the Message: all of it
            (99, 0, False),
        ]:
            demand(peer, demanded)
            end.send(bytes(100), msgChecksumLen=length)
            await udp.settle()
            # Full coverage for what is not asked of otherwise, whatever went before.
            demand(peer, 0)
            end.send(b"mark")
            if arrives:
                assert (await udp.recv(peer))[0] == bytes(100)
            assert (await udp.recv(peer))[0] == b"mark"

    udp.run(main)


def test_where_full_coverage_is_required_all_is_covered(udp, peer):
    async def main():
        demand(peer, 0)
        end = await udp.connect(peer, transport=UDPLite())
        end.send(b"all of it", msgChecksumLen=1)
        assert (await udp.recv(peer))[0] == b"all of it"

    udp.run(main)


def test_what_is_covered_too_little_is_not_delivered(udp, peer):
    async def main():
        end, local = await dialogue(udp, peer, recvChecksumLen=10)
        for coverage, data in [(17, b"too little"), (18, b"just enough"), (0, b"all of it")]:
            cover(peer, coverage)
            peer.sendto(data, address_of(local))
        await end.has_data(b"just enoughall of it")
        assert end.recorder.messages == [b"just enough", b"all of it"]
        assert end.flow.read("_taps.dropped") == 1

    udp.run(main)


def test_the_least_coverage_can_be_changed(udp, peer):
    async def main():
        end, local = await dialogue(udp, peer)
        assert end.flow.read("recvChecksumLen") == math.inf
        cover(peer, 8)
        peer.sendto(b"nothing is covered", address_of(local))
        await udp.settle()
        assert end.flow.apply("recvChecksumLen", 0)
        assert end.flow.read("recvChecksumLen") == 0
        peer.sendto(b"now it may come", address_of(local))
        await end.has_data(b"now it may come")
        assert end.flow.apply("recvChecksumLen", math.inf)
        peer.sendto(b"and now no more", address_of(local))
        cover(peer, 0)
        peer.sendto(b"end", address_of(local))
        await end.has_data(b"now it may comeend")

    udp.run(main)


def test_whoever_requires_full_coverage_is_told_that_it_stays(udp, peer):
    async def main():
        end = await udp.connect(peer, transport=UDPLite())
        with pytest.raises(PropertyError, match="fullChecksumRecv is required"):
            end.flow.apply("recvChecksumLen", 0)
        assert end.flow.read("recvChecksumLen") == math.inf

    udp.run(main)


def test_of_a_listener_it_is_set_before_and_holds_for_all(udp, peer):
    async def main():
        ends = []
        where = "[::1]:0" if peer.family == socket.AF_INET6 else "127.0.0.1:0"
        listener = await udp.listen(
            lambda flow, _: ends.append(udp.adopt(flow)),
            where,
            transport=UDPLite(),
            **FREE,
            recvChecksumLen=4,
        )
        there = address_of(listener.local_endpoint)
        cover(peer, 11)
        peer.sendto(b"too little", there)
        cover(peer, 12)
        peer.sendto(b"enough", there)
        await udp.until(lambda: ends)
        await ends[0].has_data(b"enough")
        with pytest.raises(PropertyError, match="set it before"):
            ends[0].flow.apply("recvChecksumLen", 0)
        # Answers have coverages of their own over the one socket.
        demand(peer, 9)
        ends[0].send(bytes(50), msgChecksumLen=1)
        assert (await udp.recv(peer))[0] == bytes(50)
        demand(peer, 0)
        ends[0].send(b"full")
        assert (await udp.recv(peer))[0] == b"full"

    udp.run(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_over_udp_lite(loop):
    properties = taps.TransportProperties.unreliable_datagram().avoid("fullChecksumSend")
    properties.avoid("fullChecksumRecv").set("recvChecksumLen", 4)
    common = {"transport": properties, "security": taps.SecurityParameters.disabled()}

    async def echo(connection):
        async for message in connection:
            await connection.send(message.data, checksum_len=4)

    async def main():
        async with taps.Preconnection(local="127.0.0.1:0", **common).listen(
            echo, grace=0
        ) as listener:
            there = taps.Preconnection(remote=listener.remote_endpoint, **common)
            async with there.initiate() as connection:
                assert str(connection.stack) == "UDP-Lite"
                await connection.send(b"hello", checksum_len=4)
                assert (await connection.receive()).data == b"hello"
                assert connection.properties["recvChecksumLen"] == 4
                assert connection.properties.effect("msgChecksumLen") is None
                connection.set_property("recvChecksumLen", 0)
                assert connection.properties["recvChecksumLen"] == 0

    run(main, loop=loop)


@pytest.fixture
def impatient():
    """A program that has all its new sockets block, for so many seconds at the most."""
    socket.setdefaulttimeout(3600)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("impatient")
def test_no_socket_blocks_the_loop_where_a_program_has_a_default_timeout(udp):
    async def main():
        ends = []
        listener = await udp.listen(
            lambda flow, _: ends.append(udp.adopt(flow)), transport=UDPLite(), **FREE
        )
        local = listener.local_endpoint
        end = await udp.connect(f"{local.ip_address}:{local.port}", transport=UDPLite(), **FREE)
        assert (listener.sock.gettimeout(), end.flow.lower._port.sock.gettimeout()) == (0, 0)
        end.send(b"hello")
        await udp.until(lambda: ends)
        await ends[0].has_data(b"hello")

    udp.run(main)


@pytest.mark.parametrize(
    ("length", "covered"),
    [(math.inf, 108), (0, 8), (1, 9), (20, 28), (100, 108), (5000, 108)],
)
def test_the_coverage_is_seen_on_the_wire(kernel_network, length, covered):
    async def main():
        # A group, since nobody answers there who could be asked for a link-layer address.
        remote = taps.RemoteEndpoint(multicast_group="239.255.7.8", port=7000, protocol="udp-lite")
        properties = taps.TransportProperties.unreliable_datagram().avoid("fullChecksumSend")
        there = taps.Preconnection(
            remote=remote, transport=properties, security=taps.SecurityParameters.disabled()
        )
        with kernel_network.capture("far") as capture:
            async with there.initiate() as connection:
                await connection.send(bytes(100), checksum_len=length)
                packet = await capture.packet(lambda packet: packet.protocol == PROTOCOL)
        assert packet.destination == ("239.255.7.8", 7000)
        assert packet.checksum_coverage == covered

    kernel_network.lay_cable()
    run(main)
