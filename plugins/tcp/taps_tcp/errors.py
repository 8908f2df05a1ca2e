"""What the operating system says of TCP: in sentences that know more than those of any socket."""

from __future__ import annotations

import errno
from typing import Final

from taps_core.plugin import (
    ConnectionError,
    EstablishmentError,
    connection_failed,
    establishment_failed,
)

__all__ = ["connect_error", "connection_error", "listen_error"]

_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})


def connect_error(error: OSError, remote: str, local: str | None) -> EstablishmentError:
    """Why no connection came to be.

    Args:
        error: From socket, bind, connect or SO_ERROR.
        remote: The peer's address, for the sentence.
        local: The local address asked for, or ``None`` if none was.
    """
    code = error.errno
    sentence = None
    transient = False
    if code == errno.ECONNREFUSED:
        sentence = f"connection refused by {remote}"
    elif code == errno.ETIMEDOUT:
        sentence = f"no answer from {remote}"
    elif code == errno.ECONNRESET:
        sentence = f"{remote} reset the connection during the handshake"
    elif code in _UNREACHABLE:
        sentence = f"no route to {remote}"
    elif code == errno.EADDRNOTAVAIL and local is None:
        sentence = f"no free local port to reach {remote}"
        transient = True
    elif code in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
        sentence = _about_local(code, str(local))
    elif code in _FORBIDDEN:
        sentence = f"this system forbids connecting to {remote}"
    return establishment_failed(
        error, f"connect to {remote}", sentence=sentence, transient=transient
    )


def listen_error(error: OSError, local: str) -> EstablishmentError:
    """Why no socket listens at ``local``."""
    code = error.errno
    sentence = None
    if code in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
        sentence = _about_local(code, local)
    elif code in _FORBIDDEN:
        sentence = f"this system forbids listening at {local}"
    return establishment_failed(error, f"listen at {local}", sentence=sentence)


def connection_error(error: BaseException, remote: str) -> ConnectionError:
    """Why an established connection ended."""
    return connection_failed(
        error,
        remote,
        reset=f"{remote} reset the connection",
        silent=f"no acknowledgement from {remote} in time",
    )


def _about_local(code: int, local: str) -> str:
    if code == errno.EADDRINUSE:
        return f"{local} is in use"
    return f"{local} is not an address of this machine"
