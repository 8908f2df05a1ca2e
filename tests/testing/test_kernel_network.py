"""A network of the kernel's for one test, and the packets that are seen there."""

from __future__ import annotations

import socket

import pytest

from taps_core.testing import KernelNetwork, Packet, forged_datagram


def test_a_forged_datagram_reads_as_it_was_made() -> None:
    data = forged_datagram(
        ("192.0.2.1", 7), ("198.51.100.2", 9), b"hello", traffic_class=34 << 2 | 3
    )
    packet = Packet.parse(data)
    assert packet is not None
    assert packet.version == 4
    assert packet.protocol == socket.IPPROTO_UDP
    assert packet.source == ("192.0.2.1", 7)
    assert packet.destination == ("198.51.100.2", 9)
    assert (packet.dscp, packet.ecn) == (34, 3)
    assert packet.dont_fragment
    assert packet.payload == b"hello"


@pytest.mark.parametrize("length", range(28))
def test_what_is_no_whole_packet_is_none(length: int) -> None:
    whole = forged_datagram(("192.0.2.1", 7), ("198.51.100.2", 9), b"")
    assert Packet.parse(whole) is not None
    assert Packet.parse(whole[:length]) is None


def test_what_is_of_no_known_version_is_none() -> None:
    assert Packet.parse(b"\x55" * 60) is None


def test_a_port_is_as_free_inside_as_if_nobody_had_it(kernel_network: KernelNetwork) -> None:
    with socket.socket() as inside:
        inside.bind(("127.0.0.1", 0))
        place = inside.getsockname()
        with KernelNetwork(), socket.socket() as further_inside:
            further_inside.bind(place)
        with socket.socket() as again, pytest.raises(OSError, match="in use"):
            again.bind(place)


def test_a_filter_holds_until_the_next_one(kernel_network: KernelNetwork) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        kernel_network.capture() as capture,
    ):
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        place = sock.getsockname()
        kernel_network.filter(f"udp dport {place[1]} drop")
        sock.sendto(b"dropped", place)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        kernel_network.filter()
        sock.sendto(b"let through", place)
        assert sock.recv(100) == b"let through"
        # A capture sees what arrives, not what is let through.
        assert [packet.payload for packet in capture.look()] == [b"dropped", b"let through"]
