"""Linux's socket options, ancillary data and notifications of SCTP (RFC 6458), packed.

pysctp has most of the options; those that it lacks, or gets wrong, are here, and all
that is on the way of each Message. Numbers are of ``linux/sctp.h``; structures are as a
64-bit machine lays them out.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from taps_core.plugin import Scheduler, ask_socket
from taps_sctp.engine import Dry, PathNews, Reset, ResetFailed, StreamsAdded, Unsent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_sctp.engine import Notice

__all__ = [
    "ASSOC_LOST",
    "ASSOC_OVER",
    "EVENTS",
    "FIRST_COME",
    "IPPROTO_SCTP",
    "NOTIFICATION",
    "PEER_SHUTDOWN",
    "SCHEDULERS",
    "SENDER_DRY",
    "WHOLE",
    "association_change",
    "authenticate",
    "get_value",
    "hurried",
    "install_key",
    "kind_of",
    "notice_of",
    "path",
    "pr_item",
    "primary_address",
    "received_info",
    "send_item",
    "set_heartbeats",
    "set_primary_address",
    "set_retransmissions",
    "set_value",
    "status",
    "subscribe",
    "use_key",
]

IPPROTO_SCTP: Final = 132
#: Flags of ``recvmsg``.
WHOLE: Final = 0x80
NOTIFICATION: Final = 0x8000

#: Options.
RTOINFO: Final = 0
_ASSOCINFO: Final = 1
INITMSG: Final = 2
NODELAY: Final = 3
_PRIMARY_ADDR: Final = 6
PEER_ADDR_PARAMS: Final = 9
STATUS: Final = 14
_PEER_ADDR_INFO: Final = 15
AUTO_ASCONF: Final = 30
RECVRCVINFO: Final = 32
PR_SUPPORTED: Final = 113
RECONFIG_SUPPORTED: Final = 117
ENABLE_STREAM_RESET: Final = 118
RESET_STREAMS: Final = 119
ADD_STREAMS: Final = 121
STREAM_SCHEDULER: Final = 123
STREAM_SCHEDULER_VALUE: Final = 124
EVENT: Final = 127
ASCONF_SUPPORTED: Final = 128

AUTH_CHUNK: Final = 21
HMAC_IDENT: Final = 22
AUTH_KEY: Final = 23
AUTH_ACTIVE_KEY: Final = 24
AUTH_DELETE_KEY: Final = 25
AUTH_SUPPORTED: Final = 129

#: Notifications.
ASSOC_CHANGE: Final = 0x8001
_PEER_ADDR_CHANGE: Final = 0x8002
PEER_SHUTDOWN: Final = 0x8005
SENDER_DRY: Final = 0x8009
_STREAM_RESET: Final = 0x800A
_STREAM_CHANGE: Final = 0x800C
_SEND_FAILED: Final = 0x800D
#: What a socket subscribes before it connects or listens.
EVENTS: Final = (
    *(ASSOC_CHANGE, _PEER_ADDR_CHANGE, PEER_SHUTDOWN),
    *(_STREAM_RESET, _STREAM_CHANGE, _SEND_FAILED),
)
#: States of ASSOC_CHANGE.
ASSOC_LOST: Final = frozenset({1, 4})
ASSOC_OVER: Final = 3

_HEADER: Final = struct.Struct("=HHI")
_CHANGE: Final = struct.Struct("=HHIHHHHi")
_VALUE: Final = struct.Struct("=iI")
_RCVINFO: Final = struct.Struct("=HHHxxIIIIi")
_SNDINFO: Final = struct.Struct("=HHIIi")
_PRINFO: Final = struct.Struct("=HxxI")
_ADDRESS: Final = 128
_PATH: Final = struct.Struct("=iIIII")
_PATH_STATES: Final = {0: "inactive", 1: "potentially-failed", 2: "active", 3: "unconfirmed"}
_PATHS: Final = {
    0: "available",
    1: "unreachable",
    2: "removed",
    3: "added",
    4: "primary",
    5: "confirmed",
    6: "potentially-failed",
}
#: DATA, FORWARD-TSN, I-DATA (RFC 6083, section 3.3).
_AUTHENTICATED: Final = (0x00, 0xC0, 0x40)
#: Of SNDINFO.
_UNORDERED: Final = 1
#: Policies of PR-SCTP.
_TTL: Final = 0x10
_RETRANSMISSIONS: Final = 0x20
#: Of STREAM_RESET.
_INCOMING: Final = 1
_DENIED: Final = 4
_FAILED: Final = 8
_RESET_INCOMING: Final = 1
_RESET_OUTGOING: Final = 2


#: Of connScheduler.
FIRST_COME: Final = 0
SCHEDULERS: Final = {
    Scheduler.FIRST_COME_FIRST_SERVED: FIRST_COME,
    Scheduler.PRIORITY_BASED: 1,
    Scheduler.ROUND_ROBIN: 2,
}


# -- options


def subscribe(sock: socket.socket, event: int) -> None:
    """Be notified of something from now on.

    Raises:
        OSError: The kernel does not know it, or the association is gone.
    """
    sock.setsockopt(IPPROTO_SCTP, EVENT, struct.pack("=iHBx", 0, event, 1))


def set_value(sock: socket.socket, option: int, value: int) -> None:
    """Set an option that is a value for the association (``struct sctp_assoc_value``)."""
    sock.setsockopt(IPPROTO_SCTP, option, _VALUE.pack(0, value))


def get_value(sock: socket.socket, option: int) -> int:
    """Read one."""
    answer = ask_socket(sock, IPPROTO_SCTP, option, _VALUE.pack(0, 0))
    value: int = _VALUE.unpack_from(answer)[1]
    return value


def status(sock: socket.socket) -> tuple[int, int, int, int, int]:
    """Unacknowledged and pending chunks; inbound and outbound streams; bytes of a fragment.

    Raises:
        OSError: EINVAL: the association is gone.
    """
    data = sock.getsockopt(IPPROTO_SCTP, STATUS, 176)
    _, _, _, unacked, pending, inbound, outbound, fragment = struct.unpack_from("=iiIHHHHI", data)
    return unacked, pending, inbound, outbound, fragment


def set_heartbeats(
    sock: socket.socket, milliseconds: int, retransmissions: int, address: str | None = None
) -> None:
    """How often addresses of the peer are probed, and how often in a row that may fail.

    Args:
        sock: The socket.
        milliseconds: 0: no heartbeats, so that no further address is ever confirmed.
        retransmissions: Of all that is sent there.
        address: The peer's; ``None``: all of them, and those of associations to come.
    """
    where = b"" if address is None else _storage(sock, address)
    flags = 1 if milliseconds else 2
    data = struct.pack("=i128sIHIIIIBx", 0, where, milliseconds, retransmissions, 0, 0, flags, 0, 0)
    sock.setsockopt(IPPROTO_SCTP, PEER_ADDR_PARAMS, data)


def set_retransmissions(sock: socket.socket, number: int) -> None:
    """How often in a row the peer may leave something unanswered before all is over.

    The kernel takes no more than all paths together have, where there are several.
    """
    data = struct.pack("=iHHIII", 0, number, 0, 0, 0, 0)
    sock.setsockopt(IPPROTO_SCTP, _ASSOCINFO, data)


def primary_address(sock: socket.socket) -> str:
    """The peer's address that is preferred.

    Raises:
        OSError: EINVAL: the association is gone.
    """
    data = sock.getsockopt(IPPROTO_SCTP, STATUS, 176)
    return _shown(data[28 : 28 + _ADDRESS])


def set_primary_address(sock: socket.socket, address: str) -> None:
    """Prefer another one.

    Raises:
        OSError: EINVAL: the peer has no such address.
    """
    data = struct.pack("=i", 0) + _storage(sock, address)
    sock.setsockopt(IPPROTO_SCTP, _PRIMARY_ADDR, data)


def path(sock: socket.socket, address: str) -> tuple[str, float, float, int]:
    """Of an address of the peer: state, round-trip time, timeout (seconds), MTU.

    Raises:
        OSError: EINVAL: the peer has no such address.
    """
    given = struct.pack("=i", 0) + _storage(sock, address) + bytes(_PATH.size)
    data = ask_socket(sock, IPPROTO_SCTP, _PEER_ADDR_INFO, given)
    state, _, round_trip, timeout, mtu = _PATH.unpack_from(data, 4 + _ADDRESS)
    return _PATH_STATES.get(state, str(state)), round_trip / 1000, timeout / 1000, mtu


def _storage(sock: socket.socket, address: str) -> bytes:
    """``struct sockaddr_storage`` of a peer of ``sock``."""
    port = sock.getpeername()[1]
    if ":" in address:
        family, packed = socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address)
        body = struct.pack("!HI16s", port, 0, packed)
    else:
        family, packed = socket.AF_INET, socket.inet_aton(address)
        body = struct.pack("!H4s", port, packed)
    return (struct.pack("=H", family) + body).ljust(_ADDRESS, b"\0")


def stream_list(streams: Sequence[int], *, incoming: bool) -> bytes:
    """``struct sctp_reset_streams``."""
    flags = _RESET_INCOMING if incoming else _RESET_OUTGOING
    return struct.pack(f"=iHH{len(streams)}H", 0, flags, len(streams), *streams)


def authenticate(sock: socket.socket) -> None:
    """Before connect and listen: let the peer authenticate what it sends (RFC 4895).

    With the empty key until another one is used. A peer that cannot does not.

    Raises:
        OSError: The kernel cannot.
    """
    set_value(sock, AUTH_SUPPORTED, 1)
    # SHA-256 before SHA-1, which all have to have.
    sock.setsockopt(IPPROTO_SCTP, HMAC_IDENT, struct.pack("=IHH", 2, 3, 1))
    for chunk in _AUTHENTICATED:
        sock.setsockopt(IPPROTO_SCTP, AUTH_CHUNK, bytes((chunk,)))


def install_key(sock: socket.socket, number: int, key: bytes) -> None:
    """Add a key (``struct sctp_authkey``)."""
    sock.setsockopt(IPPROTO_SCTP, AUTH_KEY, struct.pack("=iHH", 0, number, len(key)) + key)


def use_key(sock: socket.socket, number: int) -> None:
    """Authenticate by it what is sent from now on."""
    sock.setsockopt(IPPROTO_SCTP, AUTH_ACTIVE_KEY, struct.pack("=iHxx", 0, number))


# -- ancillary data


def send_item(stream: int, *, unordered: bool, ppid: int, number: int) -> tuple[int, int, bytes]:
    """Whereto a Message goes (SCTP_SNDINFO)."""
    flags = _UNORDERED if unordered else 0
    return (IPPROTO_SCTP, 2, _SNDINFO.pack(stream, flags, socket.htonl(ppid), number, 0))


def hurried(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """The same SCTP_SNDINFO with SCTP_SACK_IMMEDIATELY (RFC 7053)."""
    level, kind, data = item
    stream, flags, ppid, number, association = _SNDINFO.unpack(data)
    return (level, kind, _SNDINFO.pack(stream, flags | 8, ppid, number, association))


def pr_item(*, lifetime: float | None, reliable: bool) -> tuple[int, int, bytes] | None:
    """When it is given up (SCTP_PRINFO); ``None``: never."""
    # There is room for one policy; within its lifetime more than one attempt does no harm.
    if lifetime is not None:
        milliseconds = max(1, min(round(lifetime * 1000), 0xFFFFFFFF))
        return (IPPROTO_SCTP, 5, _PRINFO.pack(_TTL, milliseconds))
    if not reliable:
        return (IPPROTO_SCTP, 5, _PRINFO.pack(_RETRANSMISSIONS, 0))
    return None


def received_info(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, int, bool]:
    """Stream, PPID, and whether it was unordered (SCTP_RCVINFO)."""
    for _, kind, data in ancillary:
        if kind == 3:
            stream, _, flags, ppid, *_ = _RCVINFO.unpack_from(data)
            return stream, socket.ntohl(ppid), bool(flags & _UNORDERED)
    return 0, 0, False


# -- notifications


def kind_of(notification: bytes) -> int:
    """Its type; 0: it has none."""
    return int(_HEADER.unpack_from(notification)[0]) if len(notification) >= _HEADER.size else 0


def association_change(notification: bytes) -> tuple[int, int, bytes]:
    """State, error, and what the peer gave as the reason of its abort."""
    _, _, _, state, error, _, _, _ = _CHANGE.unpack_from(notification)
    return state, socket.ntohs(error), notification[_CHANGE.size + 4 :]


def notice_of(notification: bytes) -> Notice | None:
    """A notification in the words of engines; ``None`` for others."""
    kind, flags, _ = _HEADER.unpack_from(notification)
    if kind == SENDER_DRY:
        return Dry()
    if kind == _SEND_FAILED and len(notification) >= 32:
        (number,) = struct.unpack_from("=I", notification, 20)
        return Unsent(number, was_on_wire=bool(flags & 1))
    if kind == _STREAM_RESET:
        if flags & (_DENIED | _FAILED):
            return ResetFailed(for_good=bool(flags & _DENIED))
        streams = struct.unpack_from(f"={(len(notification) - 12) // 2}H", notification, 12)
        return Reset(streams, incoming=bool(flags & _INCOMING))
    if kind == _STREAM_CHANGE:
        if flags & (_DENIED | _FAILED):
            return ResetFailed(for_good=bool(flags & _DENIED))
        return StreamsAdded()
    if kind == _PEER_ADDR_CHANGE and len(notification) >= _HEADER.size + _ADDRESS + 4:
        at = _HEADER.size
        (state,) = struct.unpack_from("=i", notification, at + _ADDRESS)
        return PathNews(_shown(notification[at : at + _ADDRESS]), _PATHS.get(state, str(state)))
    return None


def _shown(address: bytes) -> str:
    (family,) = struct.unpack_from("=H", address)
    if family == socket.AF_INET:
        return socket.inet_ntop(family, address[4:8])
    if family == socket.AF_INET6:
        shown = socket.inet_ntop(family, address[8:24])
        return shown.removeprefix("::ffff:") if "." in shown else shown
    return "an unknown address"
