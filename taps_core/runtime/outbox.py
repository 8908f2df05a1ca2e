"""Messages that the stack has not taken yet: order, lifetime, withdrawal, limits.

A Send comes here when it cannot be handed down at once: before Ready, while
the stack is full, behind others that wait, or with a Message in parts open.
The order of leaving is: the Message that has begun, then ``msgPriority``
(lower first), then the order of the calls; a Final Message goes last
(RFC 9622, sections 9.1.3.2 and 9.1.3.5).
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from taps_core.model.errors import Expired, Reason, SendError

if TYPE_CHECKING:
    import asyncio

    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["Entry", "Outbox", "Series"]

#: What may wait: more is refused with QUEUE_FULL. One Message always fits.
MAX_BYTES = 8 * 1024 * 1024
MAX_MESSAGES = 65_536


class Series:
    """One Message, in one part or several, on its way through the outbox."""

    __slots__ = ("begun", "context", "dead", "ended", "key", "parts")

    def __init__(self, key: tuple[bool, int, int], context: MessageContext) -> None:
        self.key = key
        self.context = context
        self.parts: deque[Entry] = deque()
        self.begun = False
        self.ended = False
        self.dead: SendError | None = None

    def __lt__(self, other: Series) -> bool:
        return self.key < other.key


class Entry:
    """One Send: a Message or a part of one."""

    __slots__ = (
        "awaited",
        "context",
        "data",
        "deadline",
        "done",
        "dropped",
        "end",
        "error",
        "future",
        "record",
        "series",
        "silent",
        "size",
    )

    def __init__(
        self,
        data: Any,
        record: SendRecord | None,
        end: bool,
        context: MessageContext,
        size: int,
        deadline: float | None = None,
    ) -> None:
        self.data = data
        self.record = record
        self.end = end
        self.context = context
        self.size = size
        self.deadline = deadline
        self.series: Series | None = None
        self.future: asyncio.Future[None] | None = None
        self.done = False
        self.awaited = False
        self.dropped = False
        self.silent = False
        self.error: BaseException | None = None


class Host(Protocol):
    """What an outbox needs of its Connection."""

    def hand_down(self, entry: Entry) -> bool:
        """Give it to the stack; True if its outcome comes later. Raises SendError."""

    def sent(self, entry: Entry, error: BaseException | None) -> None:
        """Tell handlers the one outcome of a Send."""

    def unhandled(self, error: BaseException) -> None:
        """An outcome that nobody waits for or handles."""


class Outbox:
    """The queue of one Connection."""

    __slots__ = (
        "_heap",
        "_host",
        "_loop",
        "_numbers",
        "_open",
        "_outstanding",
        "_parted",
        "_timer",
        "bytes",
        "messages",
    )

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._heap: list[Series] = []
        self._open: Series | None = None
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        # Messages in parts that the application has not ended, by context identity.
        self._parted: dict[int, Series] = {}
        # Sends whose outcome the stack reports later, by record identity.
        self._outstanding: dict[int, Entry] = {}
        self.bytes = 0
        self.messages = 0

    def __bool__(self) -> bool:
        """Whether a Send would have to wait behind something here."""
        return self.messages > 0 or self._open is not None

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is open, no outcome is outstanding."""
        return not (self.messages or self._open or self._outstanding or self._parted)

    # -- in

    def check_room(self, size: int) -> None:
        """Refuse what is above the limit.

        Raises:
            SendError: QUEUE_FULL.
        """
        if self.messages and (self.bytes + size > MAX_BYTES or self.messages >= MAX_MESSAGES):
            raise SendError(
                f"{self.messages} Messages ({self.bytes} bytes) already wait to be sent: "
                "await send() to be held back instead",
                reason=Reason.QUEUE_FULL,
            )

    def series_of(self, identity: int) -> Series | None:
        """The Message in parts that this context object belongs to."""
        return self._parted.get(identity)

    def push(self, entry: Entry, priority: int, final: bool, identity: int | None = None) -> None:
        """Queue a Send.

        Args:
            entry: The Send.
            priority: ``msgPriority``.
            final: Goes behind everything else.
            identity: ``id`` of the application's context object for a part of
                a Message; parts with one identity form one Message.
        """
        series = self._parted.get(identity) if identity is not None else None
        if series is None:
            series = Series((final, priority, next(self._numbers)), entry.context)
            heappush(self._heap, series)
            if identity is not None:
                self._parted[identity] = series
        entry.series = series
        if entry.end:
            series.ended = True
            if identity is not None:
                self._parted.pop(identity, None)
        if series.dead is not None:
            self._finish(entry, _again(series.dead))
            return
        series.parts.append(entry)
        self.bytes += entry.size
        self.messages += 1
        if entry.deadline is not None and not series.begun:
            self._arm(entry.deadline)

    # -- out

    def drain(self, budget: int) -> bool:
        """Hand down up to ``budget`` bytes, best first; True if more could leave."""
        now = self._loop.time()
        while budget > 0:
            series = self._open
            if series is None:
                series = self._next(now)
                if series is None:
                    return False
            if not series.parts:
                return False
            entry = series.parts.popleft()
            self.bytes -= entry.size
            self.messages -= 1
            budget -= entry.size + 512
            if not series.begun:
                series.begun = True
                self._open = series
            if entry.end:
                self._open = None
            try:
                later = self._host.hand_down(entry)
            except SendError as error:
                if self._open is series and not entry.end:
                    # The stack has none of it, or an unfinished part: the rest is void.
                    self._open = None
                    self._kill(series, error)
                self._finish(entry, error)
                continue
            if later and entry.record is not None:
                self._outstanding[id(entry.record)] = entry
            else:
                self._finish(entry, None)
        return bool(self.messages)

    def _next(self, now: float) -> Series | None:
        heap = self._heap
        while heap:
            series = heap[0]
            if series.dead is not None:
                heappop(heap)
                continue
            if not series.parts:
                if series.ended:
                    heappop(heap)
                    continue
                return None
            deadline = series.parts[0].deadline
            if deadline is not None and deadline <= now:
                heappop(heap)
                self._kill(series, _expired())
                continue
            return heappop(heap)
        return None

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """The stack reports the fate of a Send."""
        entry = self._outstanding.pop(id(record), None)
        if entry is not None:
            self._finish(entry, error)

    def expect(self, entry: Entry) -> None:
        """A Send was handed down past the queue and its outcome comes later."""
        self._outstanding[id(entry.record)] = entry

    # -- ends

    def withdraw(self, entry: Entry) -> None:
        """The awaiter was cancelled: forget the Send if nothing of its Message left."""
        series = entry.series
        if entry.done or series is None or series.begun:
            return
        error = SendError("withdrawn: the send was cancelled", detail="withdrawn")
        self._kill(series, error)

    def forget(self, identity: int) -> bool:
        """Drop a Message in parts of which nothing has left; False if something has."""
        series = self._parted.pop(identity, None)
        if series is None or series.begun:
            return False
        series.ended = True
        self._kill(series, SendError("withdrawn: the Message was not completed"))
        return True

    def fail(self, error: BaseException) -> None:
        """The Connection ended: each Send that is still here gets its outcome."""
        self._cancel_timer()
        waiting = [self._open] if self._open is not None else []
        waiting += sorted(self._heap)
        self._heap.clear()
        self._open = None
        self._parted.clear()
        for series in waiting:
            while series.parts:
                self._drop(series.parts.popleft(), error)
        outstanding = list(self._outstanding.values())
        self._outstanding.clear()
        for entry in outstanding:
            self._finish(entry, error)

    def _kill(self, series: Series, error: SendError) -> None:
        series.dead = error
        while series.parts:
            self._drop(series.parts.popleft(), _again(error))

    def _drop(self, entry: Entry, error: BaseException) -> None:
        self.bytes -= entry.size
        self.messages -= 1
        self._finish(entry, error)

    def _finish(self, entry: Entry, error: BaseException | None) -> None:
        entry.done = True
        entry.error = error
        entry.data = None
        self._host.sent(entry, error)
        if entry.future is not None:
            if not entry.future.done():
                entry.future.set_result(None)
        elif error is not None and entry.dropped:
            self._host.unhandled(error)

    def unhandled(self, error: BaseException) -> None:
        """Pass on: nobody awaited this Send."""
        self._host.unhandled(error)

    # -- lifetimes

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        earliest: float | None = None
        for series in self._heap:
            if series.dead is not None or not series.parts:
                continue
            deadline = series.parts[0].deadline
            if deadline is None:
                continue
            if deadline <= now:
                self._kill(series, _expired())
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self._arm(earliest)


def _expired() -> Expired:
    return Expired("the Message's lifetime was over before it was sent")


def _again(error: SendError) -> SendError:
    """A fresh exception of the same content: each Send has its own."""
    return type(error)(str(error), reason=error.reason, detail=error.detail)
