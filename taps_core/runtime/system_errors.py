"""What the operating system says, as errors of taps: for plugins that own sockets.

A plugin translates what is foreign at its edge. These do it for the errors that
every socket has; a plugin that knows more about one says it itself.
"""

from __future__ import annotations

import errno
import os
from typing import Final, TypeVar

from taps_core.model.errors import (
    ConnectionError,
    EstablishmentError,
    EstablishmentTimeout,
    Reason,
    TapsError,
)

__all__ = [
    "EXHAUSTED",
    "connection_failed",
    "establishment_failed",
    "receiver_failed",
    "stack_failed",
]

E = TypeVar("E", bound=TapsError)

#: Out of something for now. ENOBUFS and ENOMEM also stand for kernel memory.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
#: Worth another try later, with nothing changed by the application.
_TRANSIENT: Final = (
    EXHAUSTED
    | _UNREACHABLE
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EAGAIN, errno.EADDRINUSE}
)
#: Where the system's own words leave a reader with a question.
_WORDS: Final = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.ENOENT: "there is no such file",
    errno.EADDRINUSE: "it is in use",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EACCES: "this system forbids it",
    errno.EPERM: "this system forbids it",
    errno.ETIMEDOUT: "no answer",
}


def establishment_failed(
    error: OSError, doing: str, *, sentence: str | None = None, transient: bool = False
) -> EstablishmentError:
    """Why no connection or listener came to be.

    Args:
        error: From the socket.
        doing: What was tried, as in «connect to 192.0.2.1:80».
        sentence: What to say, where a plugin knows better.
        transient: Whether a later try may help, though for this error it mostly does not.

    Returns:
        «cannot connect to 192.0.2.1:80: nobody listens there», with the number
        of the system's error, its name as ``detail``, and whether a later try
        may help.
    """
    code = error.errno
    kind = EstablishmentTimeout if code == errno.ETIMEDOUT else EstablishmentError
    why = _WORDS.get(code) if code is not None else None
    result = kind(
        sentence or f"cannot {doing}: {why or _plain(error)}",
        detail=_name(code),
        transient=transient or code in _TRANSIENT,
    )
    result.errno = code
    return result


def connection_failed(
    error: BaseException, peer: str, *, reset: str | None = None, silent: str | None = None
) -> ConnectionError:
    """Why an established connection ended.

    Args:
        error: From the socket or the event loop.
        peer: Whom it led to, as in «192.0.2.1:80».
        reset: What to say where the peer ended it at once, if a plugin knows better.
        silent: What to say where nothing was heard of it, likewise.

    Returns:
        A sentence, with the number of the system's error, and its name as
        ``detail``.
    """
    code = getattr(error, "errno", None)
    if code in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        reason = Reason.CONNECTION_ABORTED
        sentence = reset or f"{peer} ended the connection at once"
    elif code == errno.ETIMEDOUT or code in _UNREACHABLE:
        # Unreachable: an ICMP error does not end an established connection, but
        # when retransmission gives up the kernel reports the last one seen.
        reason, sentence = Reason.TIMEOUT, silent or f"nothing was heard of {peer} in time"
    else:
        reason = Reason.PROTOCOL_FAILED
        sentence = f"the connection to {peer} failed: {_plain(error)}"
    result = ConnectionError(sentence, reason=reason, detail=_name(code))
    result.errno = code
    result.__cause__ = error
    return result


def receiver_failed(error: Exception) -> Exception:
    """What ``closed`` gets when a layer above raised while it was called.

    Args:
        error: What it raised.

    Returns:
        It, if it is an error of taps or of the system; otherwise a
        ConnectionError that has it as its cause.
    """
    if isinstance(error, (TapsError, OSError)):
        return error
    result = ConnectionError(
        f"processing received data failed: {error!r}", reason=Reason.PROTOCOL_FAILED
    )
    result.__cause__ = error
    return result


def stack_failed(problem: Exception, kind: type[E]) -> E:
    """What the application gets when a layer below raised what it may not.

    Args:
        problem: What it raised.
        kind: The error of whatever was being done.

    Returns:
        An error with ``problem`` as its cause.
    """
    result = kind(
        f"the stack failed: {type(problem).__name__}: {problem}", reason=Reason.PROTOCOL_FAILED
    )
    result.__cause__ = problem
    return result


def _plain(error: BaseException) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if code else str(error) or repr(error)


def _name(code: int | None) -> str | None:
    return errno.errorcode.get(code) if code else None
