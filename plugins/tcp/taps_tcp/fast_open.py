"""TCP Fast Open (RFC 7413): data that travels with the SYN.

Only for what may arrive twice: a server that restarts, or a SYN that is sent again, may have
it so. The kernel keeps the cookies, by address.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import EstablishmentError, Preference, Reason
from taps_tcp.info import tcp_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.plugin import ConnectRequest, Data, SocketAddress

__all__ = ["allow", "begin", "early_bytes", "missing", "take_early"]

_SETTING: Final = "/proc/sys/net/ipv4/tcp_fastopen"
_CLIENT, _SERVER = 1, 2
#: MSG_FASTOPEN, which the socket module does not name.
_FAST_OPEN: Final = 0x20000000
#: Connections that came with data and whose handshake is not done yet.
_QUEUE: Final = 1024
#: TCP_SAVE_SYN and TCP_SAVED_SYN, which the socket module does not name, and as many bytes as
#: those headers may have.
_SAVE_SYN: Final = 27
_SAVED_SYN: Final = 28
_HEADERS: Final = 512
#: What the length in it does not count.
_IPV6_HEADER: Final = 40
#: The kernel has none, or it is switched off.
_NOT_HERE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.EINVAL})


def _setting() -> int:
    """The kernel's; 0 where there is none."""
    if sys.platform != "linux" or not hasattr(socket, "TCP_FASTOPEN"):
        return 0
    try:
        with open(_SETTING, encoding="ascii") as file:
            return int(file.read(), 0)
    except (OSError, ValueError):
        return 0


def missing() -> str:
    """Why no data goes with a SYN from here; empty if it may."""
    if sys.platform != "linux":
        return "Fast Open is there on Linux only"
    if not _setting() & _CLIENT:
        return "Fast Open is switched off here: sysctl net.ipv4.tcp_fastopen=1"
    return ""


def wanted(properties: Mapping[str, Any]) -> bool:
    """Whether it was asked for; cookies are state that other Connections have left."""
    preference = properties.get("zeroRttMsg", Preference.NO_PREFERENCE)
    return preference.wanted and not properties.get("isolateSession", False)


def early_bytes(request: ConnectRequest) -> bytes:
    """What may go with the SYN; empty if nothing may."""
    if request.early is None or not wanted(request.properties):
        return b""
    data: Data = request.early.data
    return data if isinstance(data, bytes) else b"".join(data)


def begin(sock: socket.socket, address: SocketAddress, data: bytes) -> tuple[int, int]:
    """Begin to connect with ``data`` in the SYN, where the peer has given a cookie.

    Returns:
        As ``connect_ex``; and how many bytes the kernel took, which it delivers whatever
        the peer makes of the SYN. Without a cookie it takes none, and asks for one.
    """
    try:
        return errno.EINPROGRESS, sock.sendto(data, _FAST_OPEN, address)
    except BlockingIOError as error:
        return error.errno or errno.EINPROGRESS, 0
    except OSError as error:
        if error.errno in _NOT_HERE:
            return sock.connect_ex(address), 0
        return error.errno or errno.EIO, 0


def allow(sock: socket.socket, properties: Mapping[str, Any]) -> bool:
    """Take data with SYNs, if that was asked for: it may come twice.

    Args:
        sock: That will listen.
        properties: By canonical name.

    Returns:
        Whether some may come.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: it is required, and the kernel does not.
    """
    if not wanted(properties):
        return False
    if not _setting() & _SERVER:
        if properties["zeroRttMsg"] is Preference.REQUIRE:
            raise EstablishmentError(
                "zeroRttMsg is required, and this kernel takes no data with a SYN: "
                "sysctl net.ipv4.tcp_fastopen=3",
                reason=Reason.INVALID_CONFIGURATION,
                detail="fast-open",
            )
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, _QUEUE)
    with contextlib.suppress(OSError):  # sockets of MPTCP cannot
        sock.setsockopt(socket.IPPROTO_TCP, _SAVE_SYN, 1)
    return True


def take_early(sock: socket.socket) -> bytes:
    """Read what came with the SYN of an accepted connection; empty if nothing did.

    Exactly that, as the SYN's header tells. The kernel keeps none where it is MPTCP that
    listens: there it is what had come when the connection was accepted, one packet at most,
    so that some of it may have come a moment later.

    Raises:
        OSError: The connection is broken.
    """
    length = _length_of_data(_saved_syn(sock))
    if length == 0:
        return b""
    info = tcp_info(sock)
    if info is None or not info.early_data_accepted:
        return b""
    try:
        return sock.recv(info.path_mtu if length is None else length)
    except BlockingIOError:
        return b""


def _saved_syn(sock: socket.socket) -> bytes:
    """IP and TCP header of the SYN, which the kernel forgets with this; empty without."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _SAVED_SYN, _HEADERS)
    except OSError:
        return b""


def _length_of_data(headers: bytes) -> int | None:
    """How many bytes follow the headers of this packet; ``None``: it is not known."""
    if not headers:
        return None
    if headers[0] >> 4 == 4:
        return int.from_bytes(headers[2:4], "big") - len(headers)
    return _IPV6_HEADER + int.from_bytes(headers[4:6], "big") - len(headers)
