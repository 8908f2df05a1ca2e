"""What the two halves of a Connection share: its state, and the ways to tell about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from taps_core.model.errors import Reason, SendFailed
from taps_core.model.properties import ConnectionState
from taps_core.model.reports import EstablishmentReport
from taps_core.runtime.awaitables import CREDIT
from taps_core.runtime.inbox import NOTHING, Inbox
from taps_core.runtime.live_properties import ConnectionProperties

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from taps_core.model.errors import ConnectionError, TapsError
    from taps_core.model.flow import Flow
    from taps_core.model.messages import SendRecord
    from taps_core.planning.candidates import Leaf
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.dispatch import Dispatcher
    from taps_core.runtime.group import Group
    from taps_core.runtime.listener import Listener
    from taps_core.runtime.outbox import Entry, Outbox
    from taps_core.runtime.tasks import Interruptible

__all__ = ["ConnectionBase"]

T = TypeVar("T")

#: Of Connections that nobody initiated here.
_NOTHING_TRIED = EstablishmentReport(0.0)
_NOTHING_TRIED.over("ready", 0.0)


class ConnectionBase(ABC, Generic[T]):
    """State of a Connection; what happens to it is in the classes above this one."""

    close_timeout: float
    # ``send``, ``write_through`` and ``flush`` of the topmost flow, bound once it is there.
    _down: Callable[[Any, SendRecord | None, bool], bool | None]
    _through_down: Callable[[Any], None]
    _flush_down: Callable[[], None]

    __slots__ = (
        "__weakref__",
        "_accepting",
        "_at_hand",
        "_batch",
        "_blueprint",
        "_close_told",
        "_close_wanted",
        "_credit",
        "_defaults",
        "_dispatcher",
        "_down",
        "_early",
        "_end_waiters",
        "_error",
        "_fast",
        "_final",
        "_flow",
        "_flush_down",
        "_gathers",
        "_gone",
        "_group",
        "_inbox",
        "_leaf",
        "_listener",
        "_log",
        "_logged_unhandled",
        "_loop",
        "_objects",
        "_outbox",
        "_priority",
        "_rounds",
        "_settings",
        "_stack",
        "_start",
        "_state",
        "_through",
        "_through_down",
        "_turn",
        "_unheard",
        "_waiting",
        "_warned",
        "_work",
        "accepted",
        "close_timeout",
        "report",
    )

    def __init__(self, blueprint: Blueprint, group: Group, *, accepted: bool = False) -> None:
        """Not called by applications: see ``Preconnection`` and ``Listener``."""
        self._blueprint = blueprint
        self._group = group
        #: Whether a Listener (or the peer, within a group) made it.
        self.accepted = accepted
        self._loop = blueprint.runtime.loop
        self.close_timeout = blueprint.close_timeout
        self.report: EstablishmentReport = _NOTHING_TRIED
        self._state: ConnectionState = ConnectionState.ESTABLISHING
        self._flow: Flow | None = None
        self._stack: Stack | None = None
        self._inbox: Inbox = Inbox(self)  # type: ignore[arg-type]  # only Connections are made
        self._outbox: Outbox | None = None
        # What receive() may take from at once: the inbox's queue, or nothing while
        # others stand in line or somebody wants to be told.
        self._at_hand: deque[Any] = NOTHING if blueprint.event_log else self._inbox.queue
        self._dispatcher: Dispatcher | None = None
        self._log: deque[dict[str, Any]] | None = (
            deque(maxlen=blueprint.event_log) if blueprint.event_log else None
        )
        # Message Properties of this Connection that are not at the RFC's default.
        self._defaults = blueprint.message_defaults
        self._priority: int = group.properties["connPriority"]
        # Connection Properties of plugins that the group does not share.
        self._settings: Mapping[str, Any] | None = None
        self._fast = False
        self._accepting = True
        self._through = True
        self._batch = 0
        self._credit = CREDIT
        self._rounds = 0
        self._turn: asyncio.Handle | None = None
        self._final = False
        self._objects = False
        self._error: TapsError | None = None
        # What establishes it, until that is done; and what begins with that if nobody
        # awaits it before the loop's next turn.
        self._work: Interruptible | None = None
        self._start: asyncio.Handle | None = None
        # Who waits for Ready while it is establishing; then None.
        self._waiting: list[asyncio.Future[None]] | None = None
        # Holds the error of an establishment that nobody has asked about yet.
        self._unheard: asyncio.Future[None] | None = None
        self._early: Entry | None = None
        # Whether candidates are being tried that other endpoints would change.
        self._gathers = False
        # What won the race, for a clone that has to connect again.
        self._leaf: Leaf | None = None
        # The Listener that handed it over, to be told of its end.
        self._listener: Listener | None = None
        # close() before Ready, with something to send; and the stack was told.
        self._close_wanted = False
        self._close_told = False
        self._end_waiters: list[asyncio.Future[None]] | None = None
        self._gone = False
        self._warned = False
        self._logged_unhandled = False
        group.join(self)  # type: ignore[arg-type]  # only Connections are made
        blueprint.runtime.connections.add(self)  # type: ignore[arg-type]  # only Connections are made

    @abstractmethod
    def _abort(self, error: ConnectionError) -> None:
        """End at once, with this as the terminal event."""

    @abstractmethod
    def _break(self, problem: Exception) -> None:
        """A layer raised what it may not: nothing of it can be relied upon any more."""

    @abstractmethod
    def _close_if_drained(self) -> None:
        """After something left: let the stack close if that was the last of it."""

    @property
    def properties(self) -> ConnectionProperties:
        """All properties, live; Preferences read as Booleans once established."""
        return ConnectionProperties(self)  # type: ignore[arg-type]  # only Connections are made

    def _lost(self) -> SendFailed:
        """What a Send raises when the Connection is (or is being) closed."""
        error = self._error
        if error is None:
            return SendFailed("the Connection is closed", reason=Reason.CONNECTION_CLOSED)
        failure = SendFailed(str(error), reason=error.reason, detail=error.detail)
        failure.__cause__ = error
        return failure

    def _note(self, event: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.append({"time": self._loop.time(), "event": event, **fields})
