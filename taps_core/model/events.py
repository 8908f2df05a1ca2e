"""Events of a Connection and a Listener that are not errors (RFC 9622, sections 7 to 10).

The error events (EstablishmentError, ConnectionError, SendError, Expired,
ReceiveError, CloneError) are the exceptions of :mod:`taps_core.model.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.messages import Message, MessageContext

__all__ = [
    "Closed",
    "ConnectionReceived",
    "Event",
    "PathChange",
    "Ready",
    "Received",
    "ReceivedPartial",
    "Sent",
    "SoftError",
    "Stopped",
]


class Event:
    """Something that happened; compares by identity, prints its fields."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for cls in type(self).__mro__[::-1]
            for name in getattr(cls, "__slots__", ())
        )
        return f"{type(self).__name__}({fields})"


class Ready(Event):
    """The Connection is established (section 7.1)."""

    __slots__ = ()


class Closed(Event):
    """The Connection ended in order; the last event of its life (section 10)."""

    __slots__ = ()


class Stopped(Event):
    """The Listener stopped; the last event of its life (section 7.2)."""

    __slots__ = ()


class Sent(Event):
    """The stack took this Send; it is no longer the API's duty (section 9.2.2.1)."""

    __slots__ = ("context",)

    def __init__(self, context: MessageContext) -> None:
        self.context = context


class Received(Event):
    """A receive was answered with a whole Message (section 9.3.2.1)."""

    __slots__ = ("message",)

    def __init__(self, message: Message[Any]) -> None:
        self.message = message


class ReceivedPartial(Event):
    """A receive was answered with a part of a Message (section 9.3.2.2)."""

    __slots__ = ("message",)

    def __init__(self, message: Message[Any]) -> None:
        self.message = message


class ConnectionReceived(Event):
    """A Listener (or a group) has a new Connection from a peer (section 7.2)."""

    __slots__ = ("connection",)

    def __init__(self, connection: Any) -> None:
        self.connection = connection


class SoftError(Event):
    """An ICMP or similar error that does not end the Connection (section 8.3.1).

    ``error`` is the operating system's error or a sentence; ``info`` what the
    plugin knows beyond it.
    """

    __slots__ = ("error", "info")

    def __init__(self, error: OSError | str, info: dict[str, Any] | None = None) -> None:
        self.error = error
        self.info = info or {}


class PathChange(Event):
    """Paths, addresses or the path MTU of the Connection changed (section 8.3.2)."""

    __slots__ = ("local", "reason", "remote")

    def __init__(
        self,
        reason: str,
        local: tuple[LocalEndpoint, ...] = (),
        remote: tuple[RemoteEndpoint, ...] = (),
    ) -> None:
        self.reason = reason
        self.local = local
        self.remote = remote
