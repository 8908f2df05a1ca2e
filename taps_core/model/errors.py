"""The error tree (RFC 9622, sections 7 to 10; reasons: RFC 9623, appendix B).

::

    TapsError
    ├─ PropertyError                 a name or value that cannot be (also a ValueError)
    ├─ PolicyError                   a system policy that cannot be (also a ValueError)
    ├─ EstablishmentError            no Connection or Listener (also an OSError)
    │   ├─ NoCandidates              nothing that is installed fits; nothing was sent
    │   ├─ EstablishmentRefused      the application's own pins or callbacks refuse the peer
    │   ├─ EstablishmentTimeout      the time given was not enough (also a TimeoutError)
    │   └─ CloneError                no further Connection in this group
    ├─ ConnectionError               the end of an established Connection (also the builtin's)
    ├─ SendError                     the fate of one Send
    │   └─ Expired                   its lifetime was over before it left
    ├─ ReceiveError                  the fate of one Receive
    │   └─ EndOfData                 the peer has said all it had to say (also an EOFError)
    └─ PluginError                   a plugin that cannot be used as it is

The error events of RFC 9622 *are* these exceptions: what a handler is given is
what an ``await`` raises.
"""

from __future__ import annotations

import builtins
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.messages import MessageContext
    from taps_core.model.reports import Attempt, EstablishmentReport

__all__ = [
    "CUT_OFF",
    "CloneError",
    "ConnectionError",
    "EndOfData",
    "EstablishmentError",
    "EstablishmentRefused",
    "EstablishmentTimeout",
    "Expired",
    "NoCandidates",
    "PartialMessageWarning",
    "PluginError",
    "PolicyError",
    "PropertyError",
    "Reason",
    "ReceiveError",
    "SendError",
    "TapsError",
]


#: ``detail`` of a ReceiveError: nothing is wrong with what came of the Message, only the
#: rest will never come.
CUT_OFF: Final = "cut-off"


class Reason(StrEnum):
    """Why (names of RFC 9623, appendix B; the last ones are needed beyond it)."""

    INVALID_CONFIGURATION = "InvalidConfiguration"
    NO_CANDIDATES = "NoCandidates"
    RESOLUTION_FAILED = "ResolutionFailed"
    ESTABLISHMENT_FAILED = "EstablishmentFailed"
    POLICY_PROHIBITED = "PolicyProhibited"
    NOT_CLONEABLE = "NotCloneable"
    MESSAGE_TOO_LARGE = "MessageTooLarge"
    PROTOCOL_FAILED = "ProtocolFailed"
    INVALID_MESSAGE_PROPERTIES = "InvalidMessageProperties"
    DEFRAMING_FAILED = "DeframingFailed"
    CONNECTION_ABORTED = "ConnectionAborted"
    TIMEOUT = "Timeout"
    LOCAL_ABORT = "LocalAbort"
    QUEUE_FULL = "QueueFull"
    CONNECTION_CLOSED = "ConnectionClosed"
    EXPIRED = "Expired"
    END_OF_DATA = "EndOfData"


class TapsError(Exception):
    """Root of every error raised on purpose.

    Attributes:
        reason: One of :class:`Reason`.
        detail: A finer, plugin-defined word for the cause, or ``None``.
    """

    default_reason: Reason = Reason.PROTOCOL_FAILED

    def __init__(
        self, message: str = "", *, reason: Reason | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message or (reason or self.default_reason).value)
        self.reason = reason or self.default_reason
        self.detail = detail

    def __str__(self) -> str:
        # OSError would print its errno form; the sentence is always args[0].
        return str(self.args[0])


class PropertyError(TapsError, ValueError):
    """A property name that does not exist here, or a value it cannot have."""

    default_reason = Reason.INVALID_CONFIGURATION


class PolicyError(TapsError, ValueError):
    """A system policy that cannot be: a file that is not TOML, a key that there is not.

    Nothing is established with it, so that no prohibition is overlooked.

    Attributes:
        key: The way to what is wrong from the outside in, rules by number from 1; empty
            where it is not one key.
        file: Name of the file, ``None`` for what a program gave.
        line: Counted from 1, where it is known.
    """

    default_reason = Reason.INVALID_CONFIGURATION

    def __init__(
        self,
        message: str,
        *,
        key: tuple[str | int, ...] = (),
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        self.problem = message
        self.key = key
        self.file = file
        self.line = line
        place = "".join(f" {each}" if isinstance(each, int) else f".{each}" for each in key).lstrip(
            "."
        )
        where = "" if line is None else f", line {line}"
        super().__init__(
            ": ".join(filter(None, (f"{file or 'system policy'}{where}", place, message)))
        )


class EstablishmentError(TapsError, OSError):
    """No Connection (or Listener) came to be (RFC 9622, sections 7.1 to 7.3).

    Attributes:
        attempts: All attempts in the order in which they started; empty if
            nothing was sent.
        report: All of it, names included; that of the Connection. ``None`` where the call
            itself raised, before there was a Connection, and of a Listener.
        transient: Whether trying again later may help.
    """

    default_reason = Reason.ESTABLISHMENT_FAILED
    report: EstablishmentReport | None = None

    def __init__(
        self,
        message: str = "",
        *,
        reason: Reason | None = None,
        detail: str | None = None,
        attempts: Sequence[Attempt] = (),
        transient: bool = False,
    ) -> None:
        super().__init__(message, reason=reason, detail=detail)
        self.attempts = tuple(attempts)
        self.transient = transient


class NoCandidates(EstablishmentError):
    """No installed Protocol Stack meets what was asked for. Nothing was sent.

    Attributes:
        rejected: Stack name → the sentences that say what ruled it out.
    """

    default_reason = Reason.NO_CANDIDATES

    def __init__(
        self,
        message: str = "",
        *,
        reason: Reason | None = None,
        detail: str | None = None,
        rejected: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, detail=detail)
        self.rejected = rejected or {}


class EstablishmentRefused(EstablishmentError):
    """What the application gave to judge the peer by, pins or a callback, refuses it.

    Raised by one attempt. Nothing weaker is tried instead, opportunistic or not.
    """


class EstablishmentTimeout(EstablishmentError, TimeoutError):
    """The time given to establishment was over before anything was ready."""

    default_reason = Reason.TIMEOUT


class CloneError(EstablishmentError):
    """The group could not get a further member (RFC 9622, section 7.4)."""

    default_reason = Reason.NOT_CLONEABLE


class ConnectionError(TapsError, builtins.ConnectionError):
    """The Connection ended otherwise than by an orderly close (RFC 9622, section 10)."""

    default_reason = Reason.CONNECTION_ABORTED


class _WithContext(TapsError):
    """An error that belongs to one Message."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: Reason | None = None,
        detail: str | None = None,
        context: MessageContext | None = None,
    ) -> None:
        super().__init__(message, reason=reason, detail=detail)
        #: The MessageContext of the Message concerned, if there is one.
        self.context = context


class SendError(_WithContext):
    """This Send failed; the Connection may live on (RFC 9622, section 9.2.2.3)."""


class Expired(SendError):
    """The Message's lifetime was over before it was sent (RFC 9622, section 9.2.2.2)."""

    default_reason = Reason.EXPIRED


class SendFailed(SendError, ConnectionError):
    """A Send that the end of its Connection ended; also a ConnectionError."""


class ReceiveError(_WithContext):
    """This Receive failed (RFC 9622, section 9.3.2.3)."""


class EndOfData(ReceiveError, EOFError):
    """Nothing more will come: the peer sent its Final Message or closed in order."""

    default_reason = Reason.END_OF_DATA


class PluginError(TapsError):
    """A plugin that cannot be used; ``taps-plugins list`` shows it with this sentence."""

    default_reason = Reason.INVALID_CONFIGURATION


class PartialMessageWarning(UserWarning):
    """``receive()`` without a length on a stack that has no Message boundaries."""
