"""What is set on a socket of the kernel's SCTP before it connects or listens."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    DSCP,
    CapacityProfile,
    Kind,
    Property,
    ValueType,
    set_hop_limit,
)
from taps_sctp import linux
from taps_sctp.addresses import uses_many

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PRIMARY_PATH",
    "PROPERTIES",
    "allow_changes",
    "configure",
    "heartbeat_of",
    "open_socket",
    "retransmissions_of",
    "set_capacity_profile",
    "waits_for_company",
]

PRIMARY_PATH: Final = "_taps.primaryPath"
#: What a peer says of a stream or payload that this mapping has no word for.
PROPERTIES: Final = (
    Property(
        "_taps.streamIdentifier",
        Kind.MESSAGE,
        ValueType.INTEGER,
        0,
        meaning="Stream of an association with a peer that knows no Connections on streams.",
        minimum=0,
    ),
    Property(
        PRIMARY_PATH,
        Kind.CONNECTION,
        ValueType.TEXT,
        "",
        meaning="The peer's address that is preferred, of those that it has.",
        group_shared=True,
    ),
    Property(
        "_taps.ppid",
        Kind.MESSAGE,
        ValueType.INTEGER,
        0,
        meaning="Payload protocol identifier (RFC 9260, section 3.3.1).",
        minimum=0,
    ),
)

#: Bytes. The kernel takes a Message whole, so that its send buffer is the longest there
#: is; and with its usual receive buffer it drops what it cannot account for, each time at
#: the cost of a retransmission timeout.
BUFFER: Final = 4 * 1024 * 1024
_SNDBUFFORCE: Final = 32
_RCVBUFFORCE: Final = 33
#: Milliseconds: the first, longest and shortest retransmission timeout. RFC 9260's are
#: 1000, 60000 and 1000: with them a dead path is noticed after a minute, and one that loses
#: much stands still for as long, as each loss in a row doubles the timeout.
RTO: Final = (500, 3000, 200)
#: How often in a row the peer may leave something unanswered where there is no
#: ``connTimeout``: about a minute, as long as RFC 9260's ten with a timeout of 10 s.
RETRANSMISSIONS: Final = 24
#: Milliseconds between heartbeats to an address that is idle, and how often in a row one
#: may fail.
HEARTBEAT: Final = 5000
PATH_RETRANSMISSIONS: Final = 3
#: Streams that are asked for; the peer may take any number.
STREAMS: Final = 256
MOST_STREAMS: Final = 65535
#: How often INIT and COOKIE ECHO are sent, and the milliseconds between two at the most:
#: longer than ``Initiate`` waits as a rule, and often enough for a path that loses a third.
INIT_ATTEMPTS: Final = 20
INIT_TIMEOUT: Final = 2000
_MOST_RETRANSMISSIONS: Final = 65535
_IP_TOS: Final = (socket.IPPROTO_IP, socket.IP_TOS)
_IPV6_TCLASS: Final = (socket.IPPROTO_IPV6, 67)


def open_socket(family: int) -> socket.socket:
    """A non-blocking one-to-one socket.

    Raises:
        OSError: EPROTONOSUPPORT: the kernel has no SCTP.
    """
    sock = socket.socket(family, socket.SOCK_STREAM, linux.IPPROTO_SCTP)
    sock.setblocking(False)
    return sock


def configure(
    sock: socket.socket,
    properties: Mapping[str, Any],
    *,
    hop_limit: int | None = None,
    secured: bool = False,
) -> None:
    """Set what differs from the kernel's defaults; accepted sockets inherit most of it.

    Args:
        sock: Of :func:`open_socket`.
        properties: By canonical name.
        hop_limit: TTL or Hop Limit of what is sent; ``None``: the system's.
        secured: Whether a security layer may have keys to authenticate packets by.

    Raises:
        OSError: The kernel refused what nothing works without.
    """
    for forced, usual in ((_SNDBUFFORCE, socket.SO_SNDBUF), (_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            # It doubles what it is given.
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER // 2)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, usual, BUFFER // 2)
    level = linux.IPPROTO_SCTP
    sock.setsockopt(
        level,
        linux.INITMSG,
        struct.pack("=HHHH", STREAMS, MOST_STREAMS, INIT_ATTEMPTS, INIT_TIMEOUT),
    )
    first, longest, shortest = RTO
    sock.setsockopt(level, linux.RTOINFO, struct.pack("=iIII", 0, first, longest, shortest))
    linux.set_retransmissions(sock, retransmissions_of(properties))
    many = uses_many(properties)
    # One that is not to have several paths probes its own later, and no other.
    linux.set_heartbeats(sock, heartbeat_of(properties) if many else 0, PATH_RETRANSMISSIONS)
    if many:
        allow_changes(sock)
    sock.setsockopt(level, linux.RECVRCVINFO, 1)
    for event in linux.EVENTS:
        # A kernel that lacks one of the younger events lacks what it would tell of.
        with contextlib.suppress(OSError):
            linux.subscribe(sock, event)
    for option, value in (
        (linux.PR_SUPPORTED, 1),
        (linux.RECONFIG_SUPPORTED, 1),
        (linux.ENABLE_STREAM_RESET, 7),
    ):
        with contextlib.suppress(OSError):
            linux.set_value(sock, option, value)
    if secured:
        with contextlib.suppress(OSError):
            linux.authenticate(sock)
    set_capacity_profile(sock, properties.get("connCapacityProfile", CapacityProfile.DEFAULT))
    if hop_limit is not None:
        set_hop_limit(sock, hop_limit)


def allow_changes(sock: socket.socket) -> None:
    """Let either end add and remove addresses later (RFC 5061), if the peer offers it, too.

    ASCONF is authenticated (RFC 4895): INIT and INIT ACK grow by some 100 bytes, and no
    other packet does.
    """
    # A kernel that lacks them has an association with the addresses that it began with.
    with contextlib.suppress(OSError):
        linux.set_value(sock, linux.AUTH_SUPPORTED, 1)
        linux.set_value(sock, linux.ASCONF_SUPPORTED, 1)


def retransmissions_of(properties: Mapping[str, Any]) -> int:
    """How often in a row the peer may leave something unanswered: ``connTimeout``, in timeouts.

    The shortest that there are are counted, so that it is never less than was asked for.
    """
    wanted = properties.get("connTimeout", math.inf)
    if wanted in (None, math.inf):
        return RETRANSMISSIONS
    _, longest, timeout = RTO
    number, waited = 0, float(timeout)
    while waited < wanted * 1000 and number < _MOST_RETRANSMISSIONS:
        number += 1
        timeout = min(timeout * 2, longest)
        waited += timeout
    return max(number, 1)


def heartbeat_of(properties: Mapping[str, Any]) -> int:
    """Milliseconds between heartbeats: ``keepAliveTimeout``, or what a dead path may take."""
    wanted = properties.get("keepAliveTimeout", math.inf)
    if wanted in (None, math.inf):
        return HEARTBEAT
    return int(max(1, min(round(wanted * 1000), 2**32 - 1)))


def set_capacity_profile(sock: socket.socket, profile: CapacityProfile) -> None:
    """The DSCP of every packet, and whether small Messages wait for company (Nagle)."""
    value = DSCP[profile][0] << 2
    for option in (_IP_TOS, _IPV6_TCLASS) if sock.family == socket.AF_INET6 else (_IP_TOS,):
        with contextlib.suppress(OSError):
            sock.setsockopt(*option, value)
    sock.setsockopt(linux.IPPROTO_SCTP, linux.NODELAY, int(not waits_for_company(profile)))


def waits_for_company(profile: CapacityProfile) -> bool:
    """Whether small Messages wait for each other (Nagle)."""
    return profile in (CapacityProfile.CAPACITY_SEEKING, CapacityProfile.SCAVENGER)
