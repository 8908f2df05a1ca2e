"""What the system says, as errors and events of taps: translated once, here."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any, Final, NamedTuple

from taps_core.plugin import ConnectionError, Reason, SendError, SoftError

__all__ = ["Report", "evicted", "expired", "lost", "nothing_more", "read_report", "too_long"]

#: IP_RECVERR and IPV6_RECVERR, as they come with an entry of the error queue.
_REPORTS: Final = frozenset({(socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)})
#: struct sock_extended_err: errno, origin, type, code, padding, info, data.
_EXTENDED: Final = struct.Struct("=IBBBBII")
_ORIGINS: Final = {1: "local", 2: "ICMP", 3: "ICMPv6"}
_MSG_ERRQUEUE: Final = 0x2000


class Report(NamedTuple):
    """An entry of the error queue."""

    address: Any
    """Whereto the datagram went that caused it, as the socket module has it."""
    local: bool
    """Whether this machine refused the datagram; then ``send`` has said so, too."""
    too_long: bool
    """Whether it was longer than the path MTU."""
    event: SoftError


def read_report(sock: socket.socket) -> Report | None:
    """The next entry of the error queue; ``None`` if it is empty."""
    try:
        datagram, ancillary, _, address = sock.recvmsg(2048, 512, _MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) in _REPORTS and len(data) >= _EXTENDED.size:
            code, origin, icmp_type, icmp_code, _, number, _ = _EXTENDED.unpack_from(data)
            too_long = number > 0
            info = {
                "origin": _ORIGINS.get(origin, "unknown"),
                "type": icmp_type,
                "code": icmp_code,
                "from": _offender(data[_EXTENDED.size :]),
                "datagram": datagram,
            }
            if too_long:
                info["mtu"] = number
            event = SoftError(OSError(code, os.strerror(code)), info)
            return Report(address, origin == 1, too_long, event)
    return Report(address, True, False, SoftError("an error without a description"))


def _offender(data: bytes) -> str | None:
    """The address of the node that sent the ICMP message."""
    family = int.from_bytes(data[:2], sys.byteorder)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, data[4:8])
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, data[8:24])
    return None


def lost(error: OSError, length: int) -> SoftError:
    """A datagram that was taken and then could not leave."""
    return SoftError(error, {"origin": "local", "lost": length})


def too_long(length: int, limit: int) -> SendError:
    """A Message that is no datagram."""
    return SendError(
        f"{length} bytes do not fit into a datagram on this path, at most {limit} do",
        reason=Reason.MESSAGE_TOO_LARGE,
    )


def nothing_more() -> SendError:
    """A Send after the end."""
    return SendError("nothing can be sent any more", reason=Reason.CONNECTION_CLOSED)


def evicted(peer: str, most: int) -> ConnectionError:
    """The end of a flow that made room for a newer one."""
    return ConnectionError(
        f"{peer} was not answered, and {most} newer peers were neither",
        reason=Reason.QUEUE_FULL,
    )


def expired(peer: str, seconds: float) -> ConnectionError:
    """The end of a flow that nobody took."""
    return ConnectionError(
        f"nobody took the Connection from {peer}, and nothing was heard of it for {seconds:g} s",
        reason=Reason.TIMEOUT,
    )
