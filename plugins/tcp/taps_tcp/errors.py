"""What the operating system says, as errors of taps: translated once, here."""

from __future__ import annotations

import errno
import os
from typing import Final

from taps_core.plugin import (
    ConnectionError,
    EstablishmentError,
    EstablishmentTimeout,
    Reason,
)

__all__ = ["connect_error", "connection_error", "listen_error"]

#: Out of something for now. ENOBUFS and ENOMEM also stand for kernel memory.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})
#: Worth another try later, with nothing changed by the application.
_TRANSIENT: Final = (
    _EXHAUSTED
    | _UNREACHABLE
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EAGAIN, errno.EADDRINUSE}
)


def connect_error(error: OSError, remote: str, local: str | None) -> EstablishmentError:
    """Why no connection came to be.

    Args:
        error: From socket, bind, connect or SO_ERROR.
        remote: The peer's address, for the sentence.
        local: The local address asked for, or ``None`` if none was.
    """
    code = error.errno
    kind = EstablishmentError
    transient = code in _TRANSIENT
    if code == errno.ECONNREFUSED:
        sentence = f"connection refused by {remote}"
    elif code == errno.ETIMEDOUT:
        kind = EstablishmentTimeout
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
    else:
        sentence = f"cannot connect to {remote}: {_plain(error)}"
    return _established_not(kind, sentence, error, transient)


def listen_error(error: OSError, local: str) -> EstablishmentError:
    """Why no socket listens at ``local``."""
    code = error.errno
    if code in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
        sentence = _about_local(code, local)
    elif code in _FORBIDDEN:
        sentence = f"this system forbids listening at {local}"
    else:
        sentence = f"cannot listen at {local}: {_plain(error)}"
    return _established_not(EstablishmentError, sentence, error, code in _TRANSIENT)


def connection_error(error: BaseException, remote: str) -> ConnectionError:
    """Why an established connection ended."""
    code = getattr(error, "errno", None)
    if code in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        reason, sentence = Reason.CONNECTION_ABORTED, f"{remote} reset the connection"
    elif code == errno.ETIMEDOUT or code in _UNREACHABLE:
        # Unreachable: an ICMP error does not end an established connection, but
        # when retransmission gives up the kernel reports the last one seen.
        reason, sentence = Reason.TIMEOUT, f"no acknowledgement from {remote} in time"
    else:
        reason = Reason.PROTOCOL_FAILED
        sentence = f"the connection to {remote} failed: {_plain(error)}"
    result = ConnectionError(sentence, reason=reason, detail=_word(code))
    result.errno = code
    result.__cause__ = error
    return result


def _about_local(code: int, local: str) -> str:
    if code == errno.EADDRINUSE:
        return f"{local} is in use"
    return f"{local} is not an address of this machine"


def _established_not(
    kind: type[EstablishmentError], sentence: str, error: OSError, transient: bool
) -> EstablishmentError:
    result = kind(sentence, detail=_word(error.errno), transient=transient)
    result.errno = error.errno
    return result


def _plain(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if code else str(error) or repr(error)


def _word(code: int | None) -> str | None:
    return errno.errorcode.get(code) if code else None
