"""What handlers of Connections and Listeners are given, and states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "ConnectionState",
    "ListenErrorReasons",
    "MessageDataObject",
    "ReceiveError",
    "SendErrorReason",
]


@dataclass(slots=True)
class MessageDataObject:
    """What a Receive is answered with."""

    data: bytearray
    """The bytes of the Message, or of a part of it; the application's own."""
    length: int
    """How many they are."""


@dataclass(slots=True)
class ReceiveError:
    """Why a Receive has no Message: what a receive handler is given as its error."""

    description: str
    """A sentence."""


class ConnectionState(Enum):
    """Where a Connection is in its life."""

    ESTABLISHING = 1
    """It is not ready yet; what is sent waits."""
    ESTABLISHED = 2
    """It is ready."""
    CLOSING = 3
    """It is closed on this side, and what was sent is being delivered."""
    CLOSED = 4
    """It has ended."""


class SendErrorReason(Enum):
    """Why a Message was not sent: what a sent handler is told in place of ``None``."""

    CONNECTION_CLOSING = "Connection is closing, no further sending is possible"
    FINAL_MESSAGE_PASSED = "Message marked final already sent"
    INCONSISTENT_PROPERTIES_PASSED = "Inconsistencies in message properties"
    MESSAGE_TOO_LARGE = "Message is too large for the system to handle, try sendPartial()"
    FAILURE_UNDERLYING_STACK = "Failure occurred in the underlying protocol stack"
    MESSAGE_TIMEOUT = "The messages lifetime ran out"


class ListenErrorReasons(Enum):
    """Why a Listener does not listen: what its error handler is told."""

    UNFULFILLED_PROPERTIES = "Properties of the preconnection cannot be fulfilled for listening"
    UNRESOLVED_LOCAL_ENDPOINT = "The Local Endpoint cannot be resolved"
    PROHIBITED_BY_POLICY = "Listening is prohibited by policy"
