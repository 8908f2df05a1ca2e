"""Messages that the stack has not taken yet: order, lifetime, withdrawal, limits.

A Send comes here when it cannot be handed down at once: before Ready, while
the stack is full, behind others that wait, or with a Message in parts open.
The order of leaving is: the Message that has begun, then ``msgPriority``
(lower first), then the order of the calls; a Final Message goes last
(RFC 9622, sections 9.1.3.2 and 9.1.3.5).

A Message in parts is whole or nothing. When one of its parts fails, all that
follow fail with it; and if something of it has left that the stack cannot
drop, the Connection ends, for the peer would take what comes next for its rest.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from taps_core.model.errors import Expired, Reason, SendError
from taps_core.runtime.awaitables import PER_OPERATION, afresh
from taps_core.runtime.system_errors import stack_failed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["Entry", "Outbox", "Series"]

#: What may wait: more is refused with QUEUE_FULL. One Message always fits.
MAX_BYTES = 8 * 1024 * 1024
MAX_MESSAGES = 65_536
#: Numbers of the Sends, in the order of their coming: for a whole group to compare.
_ARRIVALS: Final = count()
#: Withdrawn and expired Messages that may lie in the heap until their turn comes.
MAX_DEAD = 64


class Series:
    """One Message, in one part or several, on its way through the outbox.

    Attributes:
        key: Its place among those that wait.
        context: The MessageContext that all its parts share.
        properties: Message Properties that hold for all its parts.
        deadline: When its lifetime is over, in the loop's time.
        parts: Those that wait.
        begun: Whether a part was handed down.
        ended: Whether the application gave the last part.
        dead: What its other parts fail with.
    """

    __slots__ = ("begun", "context", "dead", "deadline", "ended", "key", "parts", "properties")

    def __init__(
        self,
        key: tuple[bool, int, int],
        context: MessageContext,
        properties: Mapping[str, Any],
        deadline: float | None,
    ) -> None:
        self.key = key
        self.context = context
        self.properties = properties
        self.deadline = deadline
        self.parts: deque[Entry] = deque()
        self.begun = False
        self.ended = False
        self.dead: SendError | None = None

    def __lt__(self, other: Series) -> bool:
        return self.key < other.key


class Entry:
    """One Send: a Message or a part of one.

    Attributes:
        arrival: Its number, among those of all Connections.
        deadline: When its lifetime is over, in the loop's time.
        future: What its awaiter waits for.
        handled: Whether somebody awaits the outcome, or was told it.
        dropped: Whether nobody ever will await it.
        silent: Whether it has no outcome of its own (InitiateWithSend, before Ready).
        final: Whether it belongs to a Final Message that was accepted.
        unchecked: Its Message Properties, if it came before there was a stack
            to check them against.
    """

    __slots__ = (
        "arrival",
        "context",
        "data",
        "deadline",
        "done",
        "dropped",
        "end",
        "error",
        "final",
        "future",
        "handled",
        "record",
        "series",
        "silent",
        "size",
        "unchecked",
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
        self.arrival = 0
        self.series: Series | None = None
        self.future: asyncio.Future[None] | None = None
        self.done = False
        self.handled = False
        self.dropped = False
        self.silent = False
        self.final = False
        self.unchecked: Mapping[str, Any] | None = None
        self.error: BaseException | None = None


class Host(Protocol):
    """What an outbox needs of its Connection."""

    def hand_down(self, entry: Entry) -> bool:
        """Give it to the stack; True if its outcome comes later. Raises SendError."""

    def recall(self) -> bool:
        """Have the stack drop the Message it has only the first parts of; False: it cannot."""

    def cut_off(self, error: SendError) -> None:
        """A Message that has begun to leave will never be whole: end the Connection."""

    def sent(self, entry: Entry, error: BaseException | None) -> None:
        """Tell handlers the one outcome of a Send."""

    def eased(self) -> None:
        """Something that waited is gone without leaving: perhaps it was the last."""

    def unhandled(self, error: BaseException) -> None:
        """An outcome that nobody waits for or handles."""


class Outbox:
    """The queue of one Connection."""

    __slots__ = (
        "_dead",
        "_due",
        "_heap",
        "_host",
        "_loop",
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
        self._dead = 0  # of those in the heap
        self._open: Series | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        # Messages in parts that the application has not ended, by its context object.
        self._parted: dict[MessageContext, Series] = {}
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
        return not (self or self._outstanding)

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

    def series_of(self, owner: MessageContext) -> Series | None:
        """The Message in parts that the application's context object belongs to."""
        return self._parted.get(owner)

    def begin(
        self,
        entry: Entry,
        priority: int,
        final: bool,
        properties: Mapping[str, Any],
        owner: MessageContext | None = None,
    ) -> None:
        """Queue a Message, or the first part of one.

        Args:
            entry: The Send.
            priority: ``msgPriority``.
            final: Goes behind everything else.
            properties: Message Properties, which hold for all parts.
            owner: The application's context object, if other parts may follow:
                they are sent with the same one.
        """
        entry.arrival = next(_ARRIVALS)
        key = (final, priority, entry.arrival)
        series = Series(key, entry.context, properties, entry.deadline)
        heappush(self._heap, series)
        if owner is not None:
            self._parted[owner] = series
        self._append(series, entry)
        if series.deadline is not None:
            self._arm(series.deadline)

    def reject(
        self, owner: MessageContext, entry: Entry, error: SendError, properties: Mapping[str, Any]
    ) -> None:
        """The first part of a Message was refused: its other parts fail with it."""
        # It never waits, so its place does not matter.
        series = Series((False, 0, 0), entry.context, properties, entry.deadline)
        series.dead = error
        self._parted[owner] = series

    def proceed(self, owner: MessageContext, entry: Entry) -> None:
        """Queue a further part of the Message that ``owner`` belongs to."""
        series = self._parted[owner]
        if entry.end:
            del self._parted[owner]
        if series.dead is not None:
            series.ended = series.ended or entry.end
            self._finish(entry, afresh(series.dead))
        else:
            entry.arrival = next(_ARRIVALS)
            self._append(series, entry)

    def _append(self, series: Series, entry: Entry) -> None:
        entry.series = series
        series.ended = entry.end
        series.parts.append(entry)
        self.bytes += entry.size
        self.messages += 1

    # -- out

    @property
    def head(self) -> Entry | None:
        """What leaves next, if anything can."""
        series = self._open
        if series is None or (series.ended and not series.parts):
            series = self._first(self._loop.time())
        return series.parts[0] if series is not None and series.parts else None

    def drain(self, budget: int) -> int:
        """Hand down what costs up to ``budget`` (bytes, and PER_OPERATION each), best first.

        Returns:
            What is left of the budget: of 1, which lets one Send leave, all or nothing.
            What the stack refused costs no bytes.
        """
        now = self._loop.time()
        while budget > 0:
            series = self._open
            if series is None:
                series = self._first(now)
                if series is None:
                    return budget
                heappop(self._heap)
            if not series.parts:
                if not series.ended:
                    return budget
                self._open = None
                continue
            entry = series.parts.popleft()
            self.bytes -= entry.size
            self.messages -= 1
            budget -= entry.size + PER_OPERATION
            first = not series.begun
            series.begun = True
            self._open = None if entry.end else series
            try:
                later = self._host.hand_down(entry)
            except SendError as error:
                budget += entry.size
                self._refused(series, entry, error, first)
                continue
            except Exception as problem:  # noqa: BLE001  # a framer or transport of others: this Send alone pays
                budget += entry.size
                self._refused(series, entry, stack_failed(problem, SendError), first)
                continue
            if later and entry.record is not None:
                self._outstanding[id(entry.record)] = entry
            else:
                self._finish(entry, None)
        return budget

    def _refused(self, series: Series, entry: Entry, error: SendError, first: bool) -> None:
        """The stack did not take a Send."""
        self._finish(entry, error)
        if first and entry.end:
            return
        self._void(series, error, begun=not first)

    def _first(self, now: float) -> Series | None:
        """The best one in the heap, past those whose time is over."""
        while self._heap:
            series = self._heap[0]
            if series.dead is not None:
                heappop(self._heap)
                self._dead -= 1
            elif series.deadline is not None and series.deadline <= now:
                self._kill(series, _expired())
            else:
                return series
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
        self._kill(series, _withdrawn("the send was cancelled"))
        self._host.eased()

    def abandon(self, owner: MessageContext) -> None:
        """The application gives up a Message in parts that it has begun to send."""
        series = self._parted.pop(owner, None)
        if series is not None and series.dead is None:
            series.ended = True
            self._void(series, _withdrawn("the Message was given up"), begun=series.begun)

    def spoil(self, owner: MessageContext, error: SendError, *, ended: bool) -> None:
        """A part, perhaps the last one, was refused: the Message can never be whole."""
        series = self._parted.pop(owner) if ended else self._parted[owner]
        if series.dead is None:
            self._void(series, error, begun=series.begun)

    def end_unfinished(self, error: SendError, *, boundaries: bool) -> bool:
        """Close: no part comes any more.

        Args:
            error: For the parts of Messages of which nothing has left.
            boundaries: Whether the peer sees where Messages end. If it does not, all
                bytes of one direction are one Message, and nothing is missing.

        Returns:
            False if a Message has begun to leave and can be neither ended nor dropped.
        """
        unfinished = [series for series in self._parted.values() if series.dead is None]
        self._parted.clear()
        for series in unfinished:
            series.ended = True
            if not boundaries:
                if self._open is series and not series.parts:
                    self._open = None
                continue
            if series.begun and not self._host.recall():
                return False
            if self._open is series:
                self._open = None
            self._kill(series, error)
        return True

    def fail(self, error: SendError) -> None:
        """The Connection ended: each Send that is still here gets its outcome."""
        self._cancel_timer()
        waiting = [self._open] if self._open is not None else []
        waiting += sorted(self._heap)
        self._heap.clear()
        self._dead = 0
        self._open = None
        self._parted.clear()
        for series in waiting:
            while series.parts:
                self._drop(series.parts.popleft(), afresh(error))
        outstanding = list(self._outstanding.values())
        self._outstanding.clear()
        for entry in outstanding:
            self._finish(entry, afresh(error))

    def _void(self, series: Series, error: SendError, *, begun: bool) -> None:
        """A Message in parts cannot be completed."""
        # Also where the stack refused the first part: a framer may still expect the others.
        recalled = not series.begun or self._host.recall()
        if begun and not recalled:
            # Ends this Send too, and all others.
            self._host.cut_off(error)
            return
        if self._open is series:
            self._open = None
        self._kill(series, error)

    def _kill(self, series: Series, error: SendError) -> None:
        series.dead = error
        while series.parts:
            self._drop(series.parts.popleft(), afresh(error))
        if not series.begun:
            self._dead += 1
            if self._dead > MAX_DEAD and self._dead * 2 > len(self._heap):
                # Whoever withdraws again and again from a stack that takes nothing
                # must not fill the memory.
                self._heap = [each for each in self._heap if each.dead is None]
                heapify(self._heap)
                self._dead = 0

    def _drop(self, entry: Entry, error: BaseException) -> None:
        self.bytes -= entry.size
        self.messages -= 1
        self._finish(entry, error)

    def _finish(self, entry: Entry, error: BaseException | None) -> None:
        if isinstance(error, SendError) and error.context is None:
            error.context = entry.context
        entry.done = True
        entry.error = error
        entry.data = None
        self._host.sent(entry, error)
        if entry.future is not None:
            if not entry.future.done():
                entry.future.set_result(None)
        elif error is not None and entry.dropped and not entry.handled:
            self._host.unhandled(error)

    def unhandled(self, error: BaseException) -> None:
        """Pass on: nobody awaited this Send."""
        self._host.unhandled(error)

    # -- lifetimes

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            if self._due <= deadline:
                return
            self._timer.cancel()
        # Kept here: uvloop's handle does not know when it is due if that is at once.
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        earliest: float | None = None
        for series in sorted(self._heap):
            deadline = series.deadline
            if deadline is None or series.dead is not None:
                continue
            if deadline <= now:
                self._kill(series, _expired())
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self._arm(earliest)
        self._host.eased()


def _expired() -> Expired:
    return Expired("the Message's lifetime was over before it was sent")


def _withdrawn(why: str) -> SendError:
    return SendError(f"withdrawn: {why}", reason=Reason.LOCAL_ABORT, detail="withdrawn")
