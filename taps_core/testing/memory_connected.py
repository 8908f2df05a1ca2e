"""Flows in memory that have a peer: windows, half-close, reset.

::

    send → gathered ─flush→ queue ─while the window has room→ wire → inbox ─turn→ received

The window counts what is on the wire and in the inbox. How it gets from one end
to the other is the wire's business (:mod:`taps_core.testing.memory_wire`). What does not fit stays
in the queue of the sender, who reports ``writable(False)`` when more than
another window has gathered there.

A turn brings up, in this order: outcomes, ``writable``, what arrived,
``finished``, ``closed``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.model.errors import ConnectionError, Reason, SendError
from taps_core.testing.memory_flow import MemoryFlow, joined
from taps_core.testing.memory_wire import Item

if TYPE_CHECKING:
    import contextvars

    from taps_core.model.endpoints import RemoteEndpoint
    from taps_core.model.flow import Data, PartTuple, Receiver
    from taps_core.model.messages import SendRecord
    from taps_core.testing.memory_wire import Wire
    from taps_core.testing.ports import Address, Ports

__all__ = ["WINDOW", "Chunk", "ConnectedFlow"]

#: Bytes that a flow holds for a receiver that does not take them.
WINDOW = 64 * 1024

#: Most bytes that come up at once, the rest after another turn of the loop: a
#: number, or what gives one for the number of bytes that are there.
Chunk: TypeAlias = int | Callable[[int], int]


class ConnectedFlow(MemoryFlow):
    """A flow with a peer: reliable, with a window, half-close and reset.

    Ends as TCP does. ``close`` is done when all that was sent has reached the
    peer's window. What was not read until then, and what the peer sends after
    that, is answered by a reset that comes behind all that was sent. ``abort``
    resets at once.

    Args:
        network: Where it is counted.
        here: Address of this end.
        there: Address of the other end.
        window: Bytes that this end holds for its receiver.
        chunk: Most bytes that come up at once; ``None``: all that is there.
        context: In which it calls up; ``None``: a copy of the caller's.
        remote: The remote endpoint to report; ``None``: made from ``there``.
    """

    #: What each Message takes of the window beyond its bytes.
    overhead = 0

    def __init__(
        self,
        network: Ports,
        here: Address,
        there: Address,
        *,
        window: int = WINDOW,
        chunk: Chunk | None = None,
        context: contextvars.Context | None = None,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        super().__init__(network, here, there, context=context, remote=remote)
        self.window = window
        self._chunk = chunk
        # Outbound.
        self.wire: Wire
        self._gathered: list[Item] = []
        self._queue: deque[Item] = deque()
        self._pending = 0  # cost of what is gathered or queued
        self._full = False  # as the receiver was told
        self._finishing = False  # send takes no more
        self._fin_sent = False
        self._fin_acknowledged = False
        self._outcomes: deque[tuple[SendRecord, SendError | None]] = deque()
        # Inbound.
        self._inbox: deque[Item] = deque()
        self.held = 0  # cost of what is in the inbox or on the way to it
        self._fin_arrived = False
        self._fin_reported = False
        self._unread = False  # something arrived that nobody will read
        self._reset: Exception | None = None  # comes behind what is in the inbox

    @property
    def waits_for_room(self) -> bool:
        """Whether something is left to send that the peer has no room for, as far as is known."""
        return bool(self._queue)

    # -- down

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather; it leaves at ``flush``."""
        self._check_open()
        whole = joined(data)
        self._gather(Item(whole, end_of_message, cost=len(whole) + self.overhead))
        return None

    def flush(self) -> None:
        """Let everything gathered leave, as far as the peer's window goes."""
        for item in self._gathered:
            self._enqueue(item)
        self._gathered.clear()
        self.pump()

    def finish(self) -> None:
        """Half-close: the peer's ``finished`` comes behind all that was sent."""
        if not self._over:
            self._finishing = True
            self.flush()

    def close(self) -> None:
        """Finish, and take no more; over when all that was sent has arrived."""
        if not self._closing and not self._over:
            self._closing = True
            self._drop_inbox()
            self.finish()
            self._check_done()

    def abort(self) -> None:
        """Reset the peer and drop everything."""
        self._closing = True
        self._fail(ConnectionError("aborted", reason=Reason.LOCAL_ABORT))

    def read(self, property: str, /) -> Any:
        """``_taps.undelivered``: what the peer is not known to have; else what the wire knows."""
        if property == "_taps.undelivered":
            return self._pending + self.wire.undelivered
        return self.wire.read(property)

    def apply(self, property: str, value: Any, /) -> bool:
        """Let the wire do it."""
        return self.wire.apply(property, value)

    # -- outbound

    def _check_open(self) -> None:
        if self._finishing or self._over:
            raise SendError("the flow takes no more", reason=Reason.CONNECTION_CLOSED)

    def _gather(self, item: Item) -> None:
        self._gathered.append(item)
        self._pending += item.cost
        if self._pending > self.window:
            self._wake()

    def _enqueue(self, item: Item) -> None:
        """Give ``item`` its place in the queue."""
        self._queue.append(item)

    def _next(self, room: int) -> Item | None:
        """Take from the queue what goes next; what can be split costs ``room`` at most."""
        return self._queue.popleft() if self._queue else None

    def pump(self) -> None:
        """Let go what the peer has room for."""
        while not self._over and (room := self.wire.room) > 0:
            item = self._next(room)
            if item is None:
                break
            self._pending -= item.cost
            self.wire.carry(item)
        if self._queue:
            self.wire.blocked()
        if self._full and self._pending <= self.window // 4:
            self._wake()
        if self._finishing and not self._fin_sent and not self._over and not self._pending:
            self._fin_sent = True
            self.wire.finish(self._closing)

    def on_the_wire(self, data: bytes) -> bytes:
        """What a wiretap sees of ``data``."""
        return data

    def acknowledged(self) -> None:
        """All that was sent, and its end, is at the peer."""
        self._fin_acknowledged = True
        self._check_done()

    def settled(self, record: SendRecord, error: SendError | None) -> None:
        """The fate of a Send is known."""
        if not self._over:
            self._outcomes.append((record, error))
            self._wake()

    def _check_done(self) -> None:
        if self._fin_acknowledged and self._reset is None and (self._closing or self._fin_reported):
            self._end(None)

    # -- inbound

    def arrived(self, item: Item) -> bool:
        """Hold ``item`` for the next turn; False if nobody will ever have it."""
        if self._over:
            self.wire.release(item.cost)
            self._refuse()
            return False
        self._inbox.append(item)
        if self._closing:
            self._drop_inbox()
        else:
            self._wake()
        return True

    def fin_came(self, closing: bool) -> None:
        """The peer sends no more; if ``closing``, it also reads no more."""
        self._fin_arrived = True
        self._wake()

    def reset_came(self, error: Exception, at_once: bool) -> None:
        """The peer is gone: drop everything ``at_once``, or deliver first what is here."""
        if at_once:
            self._end(error)
        else:
            self._reset = error
            self._wake()

    def _drop_inbox(self) -> None:
        """Read what nobody will read, lest two that close wait for each other's windows."""
        if self._inbox:
            self._unread = True
            self.wire.release(sum(item.cost for item in self._inbox))
            self._inbox.clear()
            # Not at once: this may be the peer's own ``pump``, item by item.
            self._loop.call_soon(self.wire.opened)

    def _refuse(self) -> None:
        """Answer what nobody will read."""
        error = ConnectionError(
            "reset: the peer closed without reading all", reason=Reason.CONNECTION_ABORTED
        )
        self.wire.reset(error, False)

    def _up(self, receiver: Receiver) -> None:
        # Whatever comes up may call down: look anew each time.
        while self._outcomes:
            receiver.outcome(*self._outcomes.popleft())
        if not self._closing and not self._over:
            self._report_writable(receiver)
        if self._inbox and self._delivers:
            receiver.received(self._take())
        if self._inbox and self._delivers:
            self._wake()
        elif self._fin_arrived and not self._fin_reported and self._delivers:
            self._fin_reported = True
            receiver.finished()
            self._check_done()
        if self._reset is not None and (self._paused or self._closing or not self._inbox):
            # A paused flow learns it too: like a socket, by what it sends.
            self._end(self._reset)

    def _report_writable(self, receiver: Receiver) -> None:
        if not self._full and self._pending > self.window:
            self._full = True
            receiver.writable(False)
        elif self._full and self._pending <= self.window // 4:
            self._full = False
            receiver.writable(True)

    def _take(self) -> list[PartTuple]:
        """What comes up in this turn; its place in the window is free again."""
        parts: list[PartTuple] = []
        while self._inbox:
            item = self._inbox.popleft()
            if self._chunk is not None:
                item = self._first_chunk(item)
            self.wire.release(item.cost)
            parts.append((item.data, item.context, item.end_of_message))
            if self._chunk is not None:
                break
        self.wire.opened()
        return parts

    def _first_chunk(self, item: Item) -> Item:
        """What comes up of ``item`` at once; the rest goes back."""
        length = len(item.data)
        if length < 2 or self._chunk is None:
            return item
        size = max(1, self._chunk(length) if callable(self._chunk) else self._chunk)
        if size >= length:
            return item
        first = item.split(size)
        self._inbox.appendleft(item)
        return first

    # -- the end

    def _fail(self, error: Exception) -> None:
        if self._end(error):
            reset = ConnectionError("reset by the peer", reason=Reason.CONNECTION_ABORTED)
            self.wire.reset(reset, True)

    def _end(self, error: Exception | None) -> bool:
        if not super()._end(error):
            return False
        self._drop_inbox()
        if error is None and self._unread:
            self._refuse()
        self._gathered.clear()
        self._queue.clear()
        self._pending = 0
        if error is None:
            self.wire.opened()  # what still waits for the window is to arrive, at nobody
        self.wire.over(error)
        return True
