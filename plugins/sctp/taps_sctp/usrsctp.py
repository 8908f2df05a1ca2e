"""libusrsctp's calls, options, ancillary data and notifications (RFC 6458), packed.

They resemble Linux' (:mod:`taps_sctp.linux`); the numbers, and some structures, differ.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import cffi

from taps_sctp.engine import Dry, Reset, ResetFailed, StreamsAdded, Unsent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_sctp.engine import Notice

__all__ = [
    "EVENTS",
    "LIBRARY",
    "address",
    "association_change",
    "checked",
    "ffi",
    "heartbeats",
    "kind_of",
    "load",
    "notice_of",
    "received_info",
    "send_info",
    "set_option",
    "stream_list",
]

LIBRARY: Final = "libusrsctp.so.2"

#: ``struct socket`` is opaque; addresses and the like go as the bytes that they are.
_DECLARATIONS: Final = """
struct socket;
void usrsctp_init_nothreads(
    uint16_t, int (*)(void *, void *, size_t, uint8_t, uint8_t), void *);
struct socket *usrsctp_socket(int, int, int, void *, void *, uint32_t, void *);
int usrsctp_setsockopt(struct socket *, int, int, const void *, uint32_t);
int usrsctp_getsockopt(struct socket *, int, int, void *, uint32_t *);
ssize_t usrsctp_sendv(struct socket *, const void *, size_t, void *, int, void *, uint32_t,
    unsigned int, int);
ssize_t usrsctp_recvv(struct socket *, void *, size_t, void *, uint32_t *, void *, uint32_t *,
    unsigned int *, int *);
int usrsctp_bind(struct socket *, void *, uint32_t);
int usrsctp_listen(struct socket *, int);
struct socket *usrsctp_accept(struct socket *, void *, uint32_t *);
int usrsctp_connect(struct socket *, void *, uint32_t);
void usrsctp_close(struct socket *);
int usrsctp_shutdown(struct socket *, int);
void usrsctp_conninput(void *, const void *, size_t, uint8_t);
int usrsctp_set_non_blocking(struct socket *, int);
void usrsctp_register_address(void *);
int usrsctp_set_upcall(struct socket *, void (*)(struct socket *, void *, int), void *);
int usrsctp_get_events(struct socket *);
void usrsctp_handle_timers(uint32_t);
uint32_t usrsctp_crc32c(void *, size_t);
int usrsctp_sysctl_set_sctp_ecn_enable(uint32_t);
int usrsctp_sysctl_set_sctp_asconf_enable(uint32_t);
int usrsctp_sysctl_set_sctp_max_chunks_on_queue(uint32_t);
"""

ffi: Final = cffi.FFI()
ffi.cdef(_DECLARATIONS)

AF_CONN: Final = 123
#: DATA, FORWARD-TSN (RFC 6083, section 3.3); of I-DATA this library knows nothing.
AUTHENTICATED: Final = (0x00, 0xC0)
#: Bytes of ``struct sockaddr_conn``.
ADDRESS_SIZE: Final = 16
#: Flags of what is read.
WHOLE: Final = 0x80
NOTIFICATION: Final = 0x2000
#: Of ``usrsctp_get_events``.
READABLE: Final = 1

#: Options.
RTOINFO: Final = 0x01
ASSOCINFO: Final = 0x02
INITMSG: Final = 0x03
NODELAY: Final = 0x04
PEER_ADDR_PARAMS: Final = 0x0A
AUTH_CHUNK: Final = 0x12
AUTH_KEY: Final = 0x13
AUTH_ACTIVE_KEY: Final = 0x15
EVENT: Final = 0x1E
RECVRCVINFO: Final = 0x1F
PR_SUPPORTED: Final = 0x26
AUTH_SUPPORTED: Final = 0x27
RECONFIG_SUPPORTED: Final = 0x29
STATUS: Final = 0x100
ENABLE_STREAM_RESET: Final = 0x900
RESET_STREAMS: Final = 0x901
ADD_STREAMS: Final = 0x903

#: Notifications.
ASSOC_CHANGE: Final = 0x01
_SEND_FAILED: Final = 0x0E
PEER_SHUTDOWN: Final = 0x05
_STREAM_RESET: Final = 0x09
_SENDER_DRY: Final = 0x0A
_STREAM_CHANGE: Final = 0x0D
#: Of addresses of the peer it has one, of which the association says enough.
EVENTS: Final = (
    *(ASSOC_CHANGE, PEER_SHUTDOWN, _SENDER_DRY),
    *(_STREAM_RESET, _STREAM_CHANGE, _SEND_FAILED),
)
#: States of ASSOC_CHANGE.
ASSOC_UP: Final = 1
ASSOC_LOST: Final = 2
ASSOC_OVER: Final = 4
ASSOC_NEVER: Final = 5

#: What the kind of information that goes with ``usrsctp_sendv`` is called there.
SEND_ALL: Final = 4

_HEADER: Final = struct.Struct("=HHI")
_CHANGE: Final = struct.Struct("=HHIHHHHI")
_VALUE: Final = struct.Struct("=II")
#: Stream, sequence number, flags, PPID; then more that nobody needs.
_RECEIVED: Final = struct.Struct("=HHHxxI")
RECEIVED_SIZE: Final = 28
#: Flags of what follows; sndinfo; prinfo; authinfo.
_SEND: Final = struct.Struct("=IHHIIIHxxIHxx")
_SEND_INFO_VALID: Final = 1
_PR_INFO_VALID: Final = 2
_UNORDERED: Final = 0x400
_SACK_IMMEDIATELY: Final = 0x4000
#: Where the flags are in what goes with a Message.
_FLAGS_AT: Final = 6
_TTL: Final = 1
_RETRANSMISSIONS: Final = 3
#: Of STREAM_RESET and STREAM_CHANGE.
_INCOMING: Final = 1
_DENIED_OR_FAILED: Final = 4 | 8
_ON_WIRE: Final = 2


def load() -> Any:
    """The library.

    Raises:
        OSError: There is none.
    """
    return ffi.dlopen(LIBRARY)


def checked(result: int) -> int:
    """What a call returned.

    Raises:
        OSError: It failed.
    """
    if result < 0:
        raise failure()
    return result


def failure() -> OSError:
    """Why the call before failed."""
    return OSError(ffi.errno, os.strerror(ffi.errno))


def address(port: int, token: int) -> bytes:
    """``struct sockaddr_conn``."""
    return struct.pack("=H", AF_CONN) + struct.pack("!H4x", port) + struct.pack("=Q", token)


def token_of(conn: bytes) -> tuple[int, int]:
    """Token and port of one."""
    return struct.unpack_from("=Q", conn, 8)[0], struct.unpack_from("!H", conn, 2)[0]


# -- options


def set_option(library: Any, so: Any, option: int, value: bytes) -> None:
    """Set an option of SCTP.

    Raises:
        OSError: Refused.
    """
    checked(library.usrsctp_setsockopt(so, socket.IPPROTO_SCTP, option, value, len(value)))


def get_option(library: Any, so: Any, option: int, size: int) -> bytes:
    """Read an option of SCTP.

    Raises:
        OSError: Refused.
    """
    buffer = ffi.new("char[]", size)
    length = ffi.new("uint32_t *", size)
    checked(library.usrsctp_getsockopt(so, socket.IPPROTO_SCTP, option, buffer, length))
    return bytes(ffi.buffer(buffer, size))


def set_value(library: Any, so: Any, option: int, value: int) -> None:
    """Set an option that is a value for the association (``struct sctp_assoc_value``)."""
    set_option(library, so, option, _VALUE.pack(0, value))


def get_value(library: Any, so: Any, option: int) -> int:
    """Read one."""
    value: int = _VALUE.unpack(get_option(library, so, option, _VALUE.size))[1]
    return value


def status(library: Any, so: Any) -> tuple[int, int, int, int, int]:
    """Unacknowledged and pending chunks; inbound and outbound streams; bytes of a fragment.

    Raises:
        OSError: The association is gone.
    """
    data = get_option(library, so, STATUS, 176)
    _, _, _, unacked, pending, inbound, outbound, fragment = struct.unpack_from("=IiIHHHHI", data)
    return unacked, pending, inbound, outbound, fragment


def heartbeats(milliseconds: int, retransmissions: int) -> bytes:
    """``struct sctp_paddrparams`` for the peer; 0: no heartbeats."""
    flags = 1 if milliseconds else 2
    return _paths(interval=milliseconds, flags=flags, retransmissions=retransmissions)


def retransmissions(number: int) -> bytes:
    """``struct sctp_assocparams``: how often in a row the peer may leave something unanswered."""
    return struct.pack("=IIIIHH", 0, 0, 0, 0, number, 0)


def dscp(value: int) -> bytes:
    """``struct sctp_paddrparams``: the DSCP of every packet, shifted as in a header."""
    return _paths(flags=0x200, dscp=value)


def _paths(*, interval: int = 0, flags: int, retransmissions: int = 0, dscp: int = 0) -> bytes:
    anybody = address(0, 0)
    return struct.pack("=128sIIIIIHBx", anybody, 0, interval, 0, flags, 0, retransmissions, dscp)


def stream_list(streams: Sequence[int], *, incoming: bool) -> bytes:
    """``struct sctp_reset_streams``."""
    return struct.pack(f"=IHH{len(streams)}H", 0, 1 if incoming else 2, len(streams), *streams)


def authenticate(library: Any, so: Any) -> None:
    """Before connect and listen: let the peer authenticate what it sends (RFC 4895).

    With the empty key until another one is used. A peer that cannot does not. By SHA-1, which
    all have to have and Debian's library has alone.
    """
    set_value(library, so, AUTH_SUPPORTED, 1)
    for chunk in AUTHENTICATED:
        set_option(library, so, AUTH_CHUNK, bytes((chunk,)))


def install_key(library: Any, so: Any, number: int, key: bytes) -> None:
    """Add a key (``struct sctp_authkey``)."""
    set_option(library, so, AUTH_KEY, struct.pack("=IHH", 0, number, len(key)) + key)


def use_key(library: Any, so: Any, number: int) -> None:
    """Authenticate by it what is sent from now on."""
    set_option(library, so, AUTH_ACTIVE_KEY, struct.pack("=IHxx", 0, number))


# -- of each Message


def send_info(
    stream: int,
    *,
    ppid: int,
    unordered: bool,
    lifetime: float | None,
    reliable: bool,
    number: int,
) -> Any:
    """``struct sctp_sendv_spa``: whereto it goes, and when it is given up."""
    policy = value = 0
    if not reliable:
        policy = _RETRANSMISSIONS
    elif lifetime is not None:
        policy, value = _TTL, max(1, min(round(lifetime * 1000), 0xFFFFFFFF))
    valid = _SEND_INFO_VALID | (_PR_INFO_VALID if policy else 0)
    flags = _UNORDERED if unordered else 0
    packed = _SEND.pack(valid, stream, flags, socket.htonl(ppid), number, 0, policy, value, 0)
    return ffi.new("char[]", packed)


SEND_INFO_SIZE: Final = _SEND.size


def hurried(info: Any) -> Any:
    """The same with SCTP_SACK_IMMEDIATELY (RFC 7053)."""
    packed = bytearray(ffi.buffer(info, SEND_INFO_SIZE))
    (flags,) = struct.unpack_from("=H", packed, _FLAGS_AT)
    struct.pack_into("=H", packed, _FLAGS_AT, flags | _SACK_IMMEDIATELY)
    return ffi.new("char[]", bytes(packed))


def received_info(info: Any) -> tuple[int, int, bool]:
    """Stream, PPID, and whether it was unordered (``struct sctp_rcvinfo``)."""
    stream, _, flags, ppid = _RECEIVED.unpack_from(info)
    return stream, socket.ntohl(ppid), bool(flags & _UNORDERED)


# -- notifications


def kind_of(notification: bytes) -> int:
    """Its type; 0: it has none."""
    return int(_HEADER.unpack_from(notification)[0]) if len(notification) >= _HEADER.size else 0


def association_change(notification: bytes) -> tuple[int, bytes]:
    """State, and what the peer sent to abort it."""
    if len(notification) < _CHANGE.size:
        return 0, b""
    return _CHANGE.unpack_from(notification)[3], notification[_CHANGE.size :]


def notice_of(notification: bytes) -> Notice | None:
    """A notification in the words of engines; ``None`` for others."""
    kind, flags, _ = _HEADER.unpack_from(notification)
    if kind == _SENDER_DRY:
        return Dry()
    if kind == _SEND_FAILED and len(notification) >= 32:
        (number,) = struct.unpack_from("=I", notification, 20)
        return Unsent(number, was_on_wire=bool(flags & _ON_WIRE))
    if kind == _STREAM_RESET:
        if flags & _DENIED_OR_FAILED:
            return ResetFailed()
        streams = struct.unpack_from(f"={(len(notification) - 12) // 2}H", notification, 12)
        return Reset(streams, incoming=bool(flags & _INCOMING))
    if kind == _STREAM_CHANGE:
        return ResetFailed() if flags & _DENIED_OR_FAILED else StreamsAdded()
    return None
