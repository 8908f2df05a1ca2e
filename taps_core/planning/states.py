"""The life of a Connection and of a Listener (RFC 9622, section 11), as tables.

A row is a state, a column an event; what is missing is illegal, and a terminal
state has an empty row: so «nothing follows a terminal event» and «exactly one
terminal event» are facts of the table, not of code. :func:`advance` is the
one function that moves; :func:`mermaid` draws the documentation's figure from
the same table.

Where the RFC leaves room, the choice stands at the row:

* Its figure has no edge from Established straight to Closed. There must be
  one: section 10 lets the peer's close or abort be reported, and then
  nothing is left to do on this side.
* Abort before Ready: section 10 promises a ConnectionError, the figure leads
  from Establishing to Closed by EstablishmentError only. The figure wins:
  whoever waits for Ready waits for Ready or EstablishmentError. Its reason is
  ``LocalAbort``.
* Close before Ready has no Closing between: data moves while Closing, and none
  may before Ready. Either the wish is kept and CLOSE comes after Ready, so that
  what was queued is delivered; or establishment is given up as by Abort.
* Queued Sends and Receives end with their own errors *before* the
  EstablishmentError or ConnectionError, hence the rows of Establishing.
* Sent does not come before Ready, not even for early data that a handshake
  carried: only the winner of a race decides what was sent.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.properties import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONNECTION",
    "LISTENER",
    "TERMINAL",
    "ConnectionEvent",
    "IllegalTransition",
    "ListenerEvent",
    "ListenerState",
    "advance",
    "mermaid",
]

S = TypeVar("S", bound=Enum)


class ConnectionEvent(Enum):
    """What moves a Connection, or may happen while it stays where it is.

    The names are the RFC's events; CLOSE alone is an Action.
    """

    __hash__ = object.__hash__  # Enum's is a Python function, and these are keys

    READY = "Ready"
    """Also ConnectionReceived and RendezvousDone, for the Connection that they carry."""
    ESTABLISHMENT_ERROR = "EstablishmentError"
    CLOSE = "Close"
    """The Action of this side."""
    CLOSED = "Closed"
    CONNECTION_ERROR = "ConnectionError"
    SENT = "Sent"
    EXPIRED = "Expired"
    SEND_ERROR = "SendError"
    RECEIVED = "Received"
    RECEIVED_PARTIAL = "ReceivedPartial"
    RECEIVE_ERROR = "ReceiveError"
    SOFT_ERROR = "SoftError"
    PATH_CHANGE = "PathChange"
    CLONE_ERROR = "CloneError"
    CONNECTION_RECEIVED = "ConnectionReceived"
    """A stream that the peer opened in this Connection's group."""


class ListenerState(Enum):
    """Where a Listener is in its life."""

    OPENING = "Opening"
    LISTENING = "Listening"
    STOPPED = "Stopped"


class ListenerEvent(Enum):
    """What moves a Listener, or may happen while it stays where it is."""

    OPENED = "Opened"
    """Its top-ranked Protocol Stack is listening (the RFC has no event for it)."""
    ESTABLISHMENT_ERROR = "EstablishmentError"
    CONNECTION_RECEIVED = "ConnectionReceived"
    STOPPED = "Stopped"


_S, _E = ConnectionState, ConnectionEvent

_FATES_OF_QUEUED = (_E.EXPIRED, _E.SEND_ERROR, _E.RECEIVE_ERROR, _E.CLONE_ERROR)
_TRAFFIC = (
    _E.SENT,
    _E.EXPIRED,
    _E.SEND_ERROR,
    _E.RECEIVED,
    _E.RECEIVED_PARTIAL,
    _E.RECEIVE_ERROR,
    _E.SOFT_ERROR,
    _E.PATH_CHANGE,
    _E.CLONE_ERROR,
    _E.CONNECTION_RECEIVED,
)

#: State → event → next state. See the module's text for the choices.
CONNECTION: Final[Mapping[ConnectionState, Mapping[ConnectionEvent, ConnectionState]]] = {
    _S.ESTABLISHING: {
        _E.READY: _S.ESTABLISHED,
        _E.ESTABLISHMENT_ERROR: _S.CLOSED,
        **dict.fromkeys(_FATES_OF_QUEUED, _S.ESTABLISHING),
    },
    _S.ESTABLISHED: {
        _E.CLOSE: _S.CLOSING,
        _E.CLOSED: _S.CLOSED,
        _E.CONNECTION_ERROR: _S.CLOSED,
        **dict.fromkeys(_TRAFFIC, _S.ESTABLISHED),
    },
    _S.CLOSING: {
        _E.CLOSED: _S.CLOSED,
        _E.CONNECTION_ERROR: _S.CLOSED,
        **dict.fromkeys(_TRAFFIC, _S.CLOSING),
    },
    _S.CLOSED: {},
}

_LS, _LE = ListenerState, ListenerEvent

#: The same for a Listener (RFC 9622, section 7.2). Stop before it listens is legal.
LISTENER: Final[Mapping[ListenerState, Mapping[ListenerEvent, ListenerState]]] = {
    _LS.OPENING: {
        _LE.OPENED: _LS.LISTENING,
        _LE.ESTABLISHMENT_ERROR: _LS.STOPPED,
        _LE.STOPPED: _LS.STOPPED,
    },
    _LS.LISTENING: {
        _LE.CONNECTION_RECEIVED: _LS.LISTENING,
        _LE.STOPPED: _LS.STOPPED,
    },
    _LS.STOPPED: {},
}

#: The events that end a life: nothing follows them.
TERMINAL: Final[frozenset[ConnectionEvent | ListenerEvent]] = frozenset(
    event
    for table in (CONNECTION, LISTENER)
    for row in table.values()
    for event, target in row.items()
    if not table[target]  # type: ignore[index]  # each table is closed over its own states
)

_ALL: Final[Mapping[Any, Mapping[Any, Any]]] = {**CONNECTION, **LISTENER}


class IllegalTransition(RuntimeError):
    """An event that cannot happen in this state: a mistake of the runtime, not of its user.

    Attributes:
        state: Where the Connection or Listener was, and still is.
        event: What could not happen there.
    """

    def __init__(self, state: Enum, event: Enum) -> None:
        super().__init__(f"{event.value} cannot happen in state {state.value}")
        self.state = state
        self.event = event


def advance(state: S, event: ConnectionEvent | ListenerEvent) -> S:
    """The state after ``event``.

    Args:
        state: A ConnectionState or a ListenerState.
        event: One of the same table.

    Raises:
        IllegalTransition: The table has no such pair. Nothing was changed.
    """
    try:
        return _ALL[state][event]  # type: ignore[no-any-return]  # two tables in one: rows stay in their own
    except KeyError:
        raise IllegalTransition(state, event) from None


def mermaid(table: Mapping[S, Mapping[Any, S]]) -> str:
    """The table as a Mermaid state diagram, for the documentation.

    Args:
        table: CONNECTION or LISTENER; its first row is the initial state.

    Returns:
        The diagram's text, one edge for each pair of states, its events joined.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table)).value}"]
    for state, row in table.items():
        edges: dict[S, list[str]] = {}
        for event, target in row.items():
            edges.setdefault(target, []).append(event.value)
        lines += [
            f"    {state.value} --> {target.value}: {', '.join(events)}"
            for target, events in edges.items()
        ]
        if not row:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join(lines) + "\n"
