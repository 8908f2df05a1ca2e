"""The socket options behind UDP: what is set at the start, and what datagrams carry along.

Python names few of these options, so Linux' numbers stand here. Elsewhere a
datagram comes without annotations, and path MTU and ICMP errors are what the
system does by itself.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taps_core.plugin import DSCP, CapacityProfile, Kind, Property, ValueType, set_hop_limit
from taps_udp.lite import UDPLITE, demand_coverage, least_coverage

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ANCILLARY",
    "GRO",
    "LINUX",
    "MOST",
    "NO_NEWS",
    "PROPERTIES",
    "RECEIVE_ECN",
    "SAFE",
    "SEGMENT",
    "Control",
    "answer_from",
    "configure",
    "ecn_and_segment",
    "kernel_drops",
    "path_mtu",
    "source_address",
    "tell_ecn",
    "traffic_class",
    "traffic_class_item",
    "wants_ecn",
]

RECEIVE_ECN: Final = "_taps.receiveEcn"
PROPERTIES: Final = (
    Property(
        RECEIVE_ECN,
        Kind.CONNECTION,
        ValueType.BOOLEAN,
        False,
        meaning="Received Messages tell the ECN field; reading them takes longer.",
        group_shared=True,
    ),
    Property(
        "_taps.dropped",
        Kind.CONNECTION,
        ValueType.INTEGER,
        meaning="Datagrams that came and were dropped, as a rule for lack of room.",
        minimum=0,
        read_only=True,
    ),
)

#: Ancillary data: level, type, bytes.
Control: TypeAlias = tuple[int, int, bytes]

LINUX: Final = sys.platform == "linux"
_IP: Final = socket.IPPROTO_IP
_IPV6: Final = socket.IPPROTO_IPV6
#: IP_TOS and IPV6_TCLASS, to set and as they come with a datagram.
_TOS: Final = (_IP, 1)
_TCLASS: Final = (_IPV6, 67)
_PKTINFO: Final = (_IP, 8)
_PKTINFO6: Final = (_IPV6, 50)
SEGMENT: Final = (socket.IPPROTO_UDP, 103)
GRO: Final = (socket.IPPROTO_UDP, 104)

#: Don't fragment, and refuse what is longer than the path MTU (IP_PMTUDISC_DO); queue
#: ICMP errors.
_OPTIONS: Final = ((_IP, 10, 2), (_IP, 11, 1))
_OPTIONS6: Final = ((_IPV6, 23, 2), (_IPV6, 25, 1))
#: Tell the TOS or Traffic Class byte of what arrives.
_TELL_CLASS: Final = (_IP, 13, 1)
_TELL_CLASS6: Final = (_IPV6, 66, 1)
#: Tell the local address of what arrives.
_LOCAL: Final = (_IP, 8, 1)
_LOCAL6: Final = (_IPV6, 49, 1)

_INT: Final = struct.Struct("=i")
#: By family of the socket: the ancillary data of a lone datagram without DSCP and ECN.
NO_NEWS: Final[dict[int, list[Control]]] = {
    socket.AF_INET: [(*_TOS, bytes(1))],
    socket.AF_INET6: [(*_TCLASS, bytes(4))],
}
#: Room for the traffic class, the size of segments and the local address.
ANCILLARY: Final = 2 * socket.CMSG_SPACE(4) + 2 * socket.CMSG_SPACE(20)

#: Bytes that every path carries in one packet: 576 bytes less headers of IPv4 with
#: options, 1280 less those of IPv6.
SAFE: Final = {socket.AF_INET: 508, socket.AF_INET6: 1232}
#: Bytes that fit into a datagram at all.
MOST: Final = {socket.AF_INET: 65507, socket.AF_INET6: 65527}
#: SO_MEMINFO, and its last word: datagrams that came for the socket and were not put into it.
_MEMORY: Final = (socket.SOL_SOCKET, 55)
_WORDS: Final = struct.Struct("=9I")
_HEADERS: Final = {socket.AF_INET: 28, socket.AF_INET6: 48}
_MTU: Final = {socket.AF_INET: (_IP, 14), socket.AF_INET6: (_IPV6, 24)}


def configure(
    sock: socket.socket,
    properties: Mapping[str, Any],
    *,
    any_address: bool = False,
    hop_limit: int | None = None,
    to_groups: bool = False,
) -> None:
    """Set what every socket of ours has, before ``bind`` and ``connect``.

    An option that this system refuses is left: properties beyond the selection
    ones never decide whether there is a Connection.

    Args:
        sock: A UDP socket.
        properties: By canonical name.
        any_address: Whether it will be bound to all addresses, so that each
            datagram has to tell to which one it came.
        hop_limit: Of what is sent; ``None``: the system's.
        to_groups: Whether that goes to multicast groups.

    Raises:
        OSError: The hop limit, or the checksum coverage of UDP-Lite, cannot be set.
    """
    six = sock.family == socket.AF_INET6
    if LINUX:
        # Both on an IPv6 socket: it may have IPv4 peers too.
        options = list(_OPTIONS6 + _OPTIONS if six else _OPTIONS)
        if any_address:
            options.append(_LOCAL6 if six else _LOCAL)
        for option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(*option)
    if wants_ecn(properties):
        tell_ecn(sock)
    value = traffic_class(properties.get("connCapacityProfile", CapacityProfile.DEFAULT))
    if value:
        for level, name in (_TCLASS, _TOS) if six else (_TOS,):
            with contextlib.suppress(OSError):
                sock.setsockopt(level, name, value)
    if hop_limit is not None:
        set_hop_limit(sock, hop_limit, to_groups=to_groups)
    if sock.proto == UDPLITE:
        demand_coverage(sock, least_coverage(properties))


def wants_ecn(properties: Mapping[str, Any]) -> bool:
    """Whether the ECN field of what arrives is to be told, where the system can."""
    return LINUX and bool(properties.get(RECEIVE_ECN, False))


def tell_ecn(sock: socket.socket) -> None:
    """Have it come with each datagram."""
    # Both on an IPv6 socket, as in configure.
    options = (_TELL_CLASS6, _TELL_CLASS) if sock.family == socket.AF_INET6 else (_TELL_CLASS,)
    for option in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(*option)


def traffic_class(profile: CapacityProfile) -> int:
    """The TOS or Traffic Class byte of a capacity profile; its ECN field is Not-ECT."""
    return DSCP[profile][0] << 2


def traffic_class_item(family: int, value: int) -> Control:
    """What lets one datagram have this TOS or Traffic Class byte.

    Args:
        family: Of the packets: AF_INET for an IPv4 peer of an IPv6 socket.
        value: The byte.
    """
    return (*(_TCLASS if family == socket.AF_INET6 else _TOS), _INT.pack(value))


def ecn_and_segment(ancillary: list[Control]) -> tuple[int, int]:
    """The ECN field of a read, and the size of the datagrams that it holds (0: it is one)."""
    ecn = segment = 0
    for level, kind, data in ancillary:
        if (level, kind) == GRO:
            segment = _INT.unpack_from(data)[0]
        elif (level, kind) in (_TOS, _TCLASS):
            ecn = int.from_bytes(data, sys.byteorder) & 3
    return ecn, segment


def answer_from(ancillary: list[Control]) -> tuple[Control, ...]:
    """What lets the answers leave from the address that a datagram came to.

    Equal for all datagrams that came to one address; empty where the system does
    not tell.
    """
    for level, kind, data in ancillary:
        if (level, kind) == _PKTINFO6:
            # Without the interface, except where the address means nothing without it.
            index = data[16:20] if data[:2] == b"\xfe\x80" else bytes(4)
            return ((level, kind, data[:16] + index),)
        if (level, kind) == _PKTINFO:
            # Interface, address to answer from, address in the header (a broadcast, perhaps).
            return ((level, kind, bytes(4) + data[4:8] + bytes(4)),)
    return ()


def source_address(control: tuple[Control, ...]) -> str:
    """The address in what :func:`answer_from` gave."""
    ((level, _, data),) = control
    if level == _IPV6:
        return socket.inet_ntop(socket.AF_INET6, data[:16])
    return socket.inet_ntop(socket.AF_INET, data[4:8])


def path_mtu(sock: socket.socket, family: int) -> int | None:
    """Bytes of a datagram that leaves ``sock`` in one packet; ``None`` where that is not known.

    Args:
        sock: Connected.
        family: Of the packets.
    """
    if not LINUX:
        return None
    try:
        mtu = sock.getsockopt(*_MTU[socket.AddressFamily(family)])
    except OSError:
        return None
    return min(mtu - _HEADERS[socket.AddressFamily(family)], MOST[socket.AddressFamily(family)])


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams for which ``sock`` had no room; 0 where the system does not tell.

    Of UDP-Lite also those of which the checksum covers less than was demanded.
    """
    if not LINUX:
        return 0
    try:
        words = sock.getsockopt(*_MEMORY, _WORDS.size)
    except OSError:  # closed in the meantime, or a kernel before 4.12
        return 0
    return int(_WORDS.unpack(words)[-1]) if len(words) == _WORDS.size else 0
