"""What the kernel knows about the fate of sent bytes: Closed vouches for them."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Final

from taps_tcp.info import CLOSED, tcp_info

__all__ = ["failure", "unacknowledged"]

_PLATFORM: Final[str] = sys.platform  # a name: type checkers take sys.platform for settled
if _PLATFORM == "linux":
    import fcntl
    import termios

    #: Python does not name it; it is TIOCOUTQ by definition.
    _SIOCOUTQ: Final = termios.TIOCOUTQ
#: Room for an int.
_ZERO: Final = bytes(4)
#: The option of macOS and iOS that says the same; not in the socket module.
_SO_NWRITE: Final = 0x1024
#: Errors that end a connection, for platforms that do not tell its state.
_FATAL: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED})


def unacknowledged(sock: socket.socket) -> int | None:
    """Bytes in the kernel that the peer has not acknowledged; a FIN counts as one.

    Still known after a reset: then it is what was outstanding at that moment.
    ``None`` where the platform does not tell.
    """
    try:
        if _PLATFORM == "linux":
            answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, _ZERO)
            return int.from_bytes(answer, sys.byteorder)
        if _PLATFORM == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except (OSError, ValueError):  # closed already; ValueError: its number is -1
        return None
    return None


def failure(sock: socket.socket) -> OSError | None:
    """The error that ended the connection, if it is over although nobody told the loop.

    After the peer's FIN event loops do not watch a socket for reading, so a
    reset that comes later goes unnoticed until something is written.
    """
    info = tcp_info(sock)
    if info is not None and info.state != CLOSED:
        # SO_ERROR may hold an ICMP error that the connection survives.
        return None
    try:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as error:
        return error
    if code and (info is not None or code in _FATAL):
        return OSError(code, errno.errorcode.get(code, "error"))
    return None
