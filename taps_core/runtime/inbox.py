"""Messages that arrived: assembly, receivers in order, backpressure, the end.

The stack pushes parts up; only here they become Messages. What arrived stays
queued until a receiver *runs*: its future only signals, so cancelling a
receive loses nothing.

Two modes. With Message boundaries (from the transport or a framer) whole
Messages are queued. Without, all bytes of one direction are one Message of
unknown length (RFC 9622, section 9.3.2.2), and what is there is delivered.

A Message that the end of the Connection cuts off is delivered only to those
who ask for parts (``min_incomplete_length``); whoever wants whole Messages is
told that it was cut off (RFC 9623, section 5.2).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taps_core.model.errors import CUT_OFF, EndOfData, Reason, ReceiveError
from taps_core.model.messages import Message, MessageContext, Rest
from taps_core.runtime.awaitables import CREDIT, TURN, TURN_OPERATION, afresh

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Sequence

    from taps_core.model.errors import SendError, TapsError
    from taps_core.model.events import Event
    from taps_core.model.flow import Flow, PartTuple
    from taps_core.model.messages import SendRecord
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.push import Signal

__all__ = ["ALONE", "NOTHING", "REST", "Inbox", "Mark", "Search"]

#: Above this many queued bytes or Messages the flow is paused; it is resumed with TURN
#: bytes (with more, there is a mark to come), or a quarter of the Messages. A read of
#: asyncio's, 256 KiB, does not pause it by itself: that would cost two system calls.
HIGH_BYTES = 384 * 1024
HIGH_MESSAGES = 8192
#: A Message longer than this, or one of several that are longer together, is
#: delivered in parts (ReceivedPartial).
MAX_ASSEMBLY = 64 * 1024 * 1024
#: So many bytes are taken in a turn of the loop if nobody counts at marks: one read, not two.
#: Of uvloop's it is 256,000 bytes at the most, of asyncio's 256 KiB.
READ: Final = 250_000
#: What an object that a framer made counts for, as its size is not known.
OBJECT_SIZE = 128
#: So many Messages of one read are worth counting together.
MANY: Final = 16
#: Small chunks of a Message are merged up to this size.
MERGED = 32 * 1024


class _Incoming:
    """A Message of which not all parts are there, or not all bytes are taken."""

    __slots__ = ("chunks", "context", "delivered", "end", "offset", "size")

    def __init__(self, context: MessageContext | None, *, end: bool = False) -> None:
        self.context = context
        #: Of one that is in the queue: whether its last part ends the Message.
        self.end = end
        self.chunks: deque[bytes] = deque()
        #: Bytes of the first chunk that are taken.
        self.offset = 0
        self.size = 0
        #: Whether a part of it went to the application already.
        self.delivered = False

    def add(self, data: bytes) -> None:
        chunks = self.chunks
        chunks.append(data)
        self.size += len(data)
        # Byte-by-byte arrival must neither cost a slot per byte nor a copy of
        # everything per byte: small neighbours of like size are merged, as in a
        # binary counter, so a byte is copied a few times at the most. The first
        # chunk is never merged: the offset is in it.
        while len(chunks) > 16 and len(chunks[-2]) <= min(2 * len(chunks[-1]), MERGED):
            last = chunks.pop()
            chunks[-1] += last

    def take(self, length: int | None = None) -> bytes:
        """Up to ``length`` bytes, each copied once."""
        chunks = self.chunks
        if length is None or length >= self.size:
            if self.offset:
                chunks[0] = chunks[0][self.offset :]
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self.offset = self.size = 0
            return data
        pieces = []
        missing = length
        while missing:
            piece = chunks[0][self.offset : self.offset + missing]
            pieces.append(piece)
            missing -= len(piece)
            self.offset += len(piece)
            if self.offset == len(chunks[0]):
                chunks.popleft()
                self.offset = 0
        self.size -= length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def convenient(self, length: int | None) -> int | None:
        """How much to take where anything will do, up to ``length``: large reads are not joined."""
        first = len(self.chunks[0]) - self.offset
        if first >= MERGED and (length is None or length > first):
            return first
        return length

    def find(self, separator: bytes, start: int) -> int:
        """Where ``separator`` is, not looking at the first ``start`` bytes; -1: nowhere."""
        overlap = len(separator) - 1
        position = -self.offset
        before = b""  # the end of the chunks before: it may begin a separator
        for chunk in self.chunks:
            end = position + len(chunk)
            if end > start:
                skip = max(0, start - position)
                if before and skip == 0:
                    found = (before + chunk[:overlap]).find(separator)
                    if found >= 0:
                        return position - len(before) + found
                found = chunk.find(separator, skip)
                if found >= 0:
                    return position + found
                if overlap:
                    before = (before + chunk[max(skip, len(chunk) - overlap) :])[-overlap:]
            position = end
        return -1


class _Lost:
    """Stands in the queue for the rest of a Message of which a part was delivered."""

    __slots__ = ("error",)

    def __init__(self, error: ReceiveError) -> None:
        self.error = error


class Mark:
    """Stands in the queue behind so much that whoever takes it all lets the loop run.

    So nobody has to count while taking Messages.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        #: Bytes between the mark before and this one.
        self.size = size


#: What is in the queue: the bytes of Messages of which there is no more to say, other
#: Messages (and parts that assembly had to let go), a Message that was taken in part,
#: and what only stands for something. Bytes, since they come by the thousand: whoever
#: receives makes the Message, and what waits is nothing for the garbage collector.
_Item: TypeAlias = "bytes | Message[Any] | _Incoming | _Lost | Mark"


#: What a receiver waits for: a whole Message, so many bytes, or a condition.
Wish: TypeAlias = int | Callable[[], bool] | None


class _Waiter:
    __slots__ = ("future", "minimum")

    def __init__(self, minimum: Wish) -> None:
        self.future: asyncio.Future[None] | None = None
        self.minimum = minimum


class _Rest:
    """``await REST`` lets the loop run once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        yield


REST: Final = _Rest()

#: At hand where whoever receives has to look twice. Never filled.
NOTHING: Final[deque[Any]] = deque(maxlen=0)
#: The queue of an inbox in which nothing has to wait: an empty deque of its own would
#: weigh as much as a third of an idle Connection. Never filled.
UNUSED: Final[deque[Any]] = deque(maxlen=0)
#: The same as NOTHING while a receiver waits that has nobody before or behind it, and whom
#: nobody watches: what comes is for it.
ALONE: Final[deque[Any]] = deque(maxlen=0)


class Inbox:
    """The receiving half of one Connection; the Receiver of its topmost flow."""

    __slots__ = (
        "_cost",
        "_current",
        "_host",
        "_latest",
        "_others",
        "_segment",
        "boundaries",
        "end",
        "flow",
        "flowing",
        "paused",
        "queue",
        "signal",
        "size",
        "spare",
        "stopped",
        "waiters",
    )

    def __init__(self, host: Connection[Any]) -> None:
        self._host = host
        self.flow: Flow | None = None
        self.boundaries = True
        self.queue: deque[_Item] = UNUSED
        # Bytes in the queue (those that were taken since the last mark count on)
        # and of unfinished Messages.
        self.size = 0
        # Of what is behind the last mark in the queue: its cost in terms of the
        # credit of a turn, and its bytes.
        self._cost = 0
        self._segment = 0
        self.paused = False
        self.stopped = False
        # A receiver of a whole Message that found nobody else waiting: first in line.
        self.signal: Signal | None = None
        # Its signal, kept for the next time.
        self.spare: Signal | None = None
        # The line behind it, or all of it.
        self.waiters: deque[_Waiter] | None = None
        self.end: TapsError | None = None
        # Whether whole Messages come, and go on coming: nothing that a receiver would
        # have to look at.
        self.flowing = True
        self._current: _Incoming | None = None
        # Messages whose parts interleave with others', by their contexts.
        self._others: dict[MessageContext | None, _Incoming] | None = None
        # The unfinished Message that the last part belonged to, if it did.
        self._latest: _Incoming | None = None

    def let_go(self) -> None:
        """It is over: where nothing is left to take, there is no circle of references either.

        Those are for the garbage collector, which costs programs that connect and close
        all the time more than this.
        """
        if self.stopped or not (self.queue or self._current or self._others):
            self._host = weakref.proxy(self._host)
            self.flow = None

    def attach(self, flow: Flow, *, boundaries: bool) -> None:
        """What is received comes from ``flow``; whether it comes as Messages."""
        self.flow = flow
        self.boundaries = boundaries
        self.flowing = boundaries and self.end is None and not self.paused

    def _look(self) -> None:
        self.flowing = self.boundaries and self.end is None and not self.paused

    # -- from below (Receiver)

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Queue Messages, assemble parts, wake the first receiver."""
        queue = self.queue
        signal = self.signal
        if signal is not None and not queue:
            if signal.handed is not None:
                self.give_back(signal)
                queue = self.queue
            elif self.flowing and len(parts) == 1:
                data, context, end = parts[0]
                if end and context is None and type(data) is bytes and self._current is None:
                    # One Message, and somebody waits for it: a request, or its answer.
                    # It is as good as taken, and counts for nothing.
                    signal.handed = data
                    signal.fire()
                    return
        if self.stopped:
            return
        if queue is UNUSED and self.boundaries:
            queue = self._make_queue()
        if not queue:
            if self._segment:
                self._recount()
            if self.signal is not None or self.waiters:
                self._cost = 0  # a real wait
        if not self.boundaries:
            self._append(parts)
        else:
            if self._current is not None or self._others is not None:
                parts = self._assemble(parts)
            count = self._enqueue_whole(parts)
            if count < len(parts):
                while parts := self._assemble(parts[count:]):
                    count = self._enqueue_whole(parts)
        if signal is not None and queue:
            # The usual case of wake(), without the calls.
            signal.fire()
        elif signal is not None or self.waiters:
            self.wake()
        if not self.paused and (self.size > HIGH_BYTES or len(queue) > HIGH_MESSAGES):
            self._consider_pause()

    def _make_queue(self) -> deque[_Item]:
        queue: deque[_Item] = deque()
        self.queue = queue
        if self._host._at_hand is UNUSED:
            self._host._at_hand = queue
        return queue

    def give_back(self, signal: Signal) -> None:
        """The Message that its receiver was woken with goes the way of all others."""
        data, signal.handed = signal.handed, None
        if self.queue is UNUSED:
            self._make_queue()
        self._enqueue_one(data, None)

    def _enqueue_whole(self, parts: Sequence[PartTuple]) -> int:
        """Queue whole Messages as far as there are; how many parts that was."""
        if len(parts) == 1:
            ((data, context, end),) = parts
            if end:
                self._enqueue_one(data, context)
            return 1 if end else 0
        host = self._host
        if len(parts) >= MANY and not host._objects and (count := self._enqueue_many(parts)):
            return count
        queue = self.queue
        cost = self._cost
        segment = before = self._segment
        count = 0
        for data, context, end in parts:
            if not end:
                break
            count += 1
            length = len(data) if type(data) is bytes else OBJECT_SIZE
            own = length if length > TURN_OPERATION else TURN_OPERATION
            cost += own
            if cost > TURN and cost != own:
                queue.append(Mark(segment))
                self.size += segment - before
                cost = own
                segment = before = 0
            segment += length
            plain = context is None and type(data) is bytes
            queue.append(data if plain else Message(data, context, True, host))
        self.size += segment - before
        self._cost = cost
        self._segment = segment
        return count

    def _enqueue_one(self, data: Any, context: MessageContext | None) -> None:
        """Queue a whole Message."""
        length = len(data) if type(data) is bytes else OBJECT_SIZE
        own = length if length > TURN_OPERATION else TURN_OPERATION
        cost = self._cost + own
        if cost > TURN and cost != own:
            self.queue.append(Mark(self._segment))
            self._segment = 0
            cost = own
        self._cost = cost
        self._segment += length
        self.size += length
        plain = context is None and type(data) is bytes
        self.queue.append(data if plain else Message(data, context, True, self._host))

    def _enqueue_many(self, parts: Sequence[PartTuple]) -> int:
        """The same for many small ones without metadata, counted together; 0: they are not."""
        datas, contexts, ends = zip(*parts, strict=True)
        # The last one is often cut off by the end of the read.
        count = len(parts) if ends[-1] else len(parts) - 1
        if contexts.count(None) < len(parts) or not all(ends[:count]):
            return 0
        sizes = list(map(len, datas))
        if max(sizes) > TURN_OPERATION:
            return 0
        queue = self.queue
        position = 0
        while position < count:
            room = (TURN - self._cost) // TURN_OPERATION
            end = min(position + room, count)
            queue.extend(datas[position:end])
            segment = sum(sizes[position:end])
            self.size += segment
            self._segment += segment
            self._cost += (end - position) * TURN_OPERATION
            position = end
            if position < count:
                queue.append(Mark(self._segment))
                self._cost = self._segment = 0
        return count

    def _enqueue_part(self, incoming: _Incoming) -> None:
        """Queue a part that had to be let go before its Message was whole."""
        incoming.context = incoming.context or MessageContext()
        incoming.delivered = True
        self.size -= incoming.size
        self._enqueue_one(incoming.take(), incoming.context)
        last = self.queue[-1]
        assert isinstance(last, Message)  # as it has a context
        last.end_of_message = False

    def _append(self, parts: Sequence[PartTuple]) -> None:
        """Without boundaries: all bytes are one Message."""
        current = self._current
        if current is None:
            current = self._current = _Incoming(None)
        for data, context, end in parts:
            if context is not None and current.context is None:
                current.context = context
            if data:
                current.add(data)
                self.size += len(data)
            if end and self.end is None:
                self.end = EndOfData("the peer ended its Message")

    def _assemble(self, parts: Sequence[PartTuple]) -> Sequence[PartTuple]:
        """Put parts to the Messages that they belong to, until none is unfinished.

        Returns:
            What is left of ``parts`` then.
        """
        for position, part in enumerate(parts):
            self._assemble_one(*part)
            if self._current is None and self._others is None:
                return parts[position + 1 :]
        return ()

    def _assemble_one(self, data: Any, context: MessageContext | None, end: bool) -> None:
        current = self._current
        others = self._others
        if current is not None and (context is None or context is current.context):
            incoming = current
        elif others is not None and context in others:
            incoming = others[context]
        elif end:
            self._latest = None
            self._enqueue_one(data, context)
            return
        elif current is None:
            incoming = self._current = _Incoming(context)
        else:
            incoming = _Incoming(context)
            if others is None:
                others = self._others = {}
            others[context] = incoming
        if data:
            incoming.add(data)
            self.size += len(data)
        if end:
            self._latest = None
            self._remove(incoming)
            self.size -= incoming.size
            whole = incoming.take() if incoming.size else b""
            self._enqueue_one(whole, incoming.context)
            if incoming.delivered:
                self.queue[-1] = Rest(whole, incoming.context, True, self._host)
            return
        self._latest = incoming
        if self.size > MAX_ASSEMBLY and incoming.size:
            self._enqueue_part(incoming)

    def _remove(self, incoming: _Incoming) -> None:
        """No more comes of this one; of the others the one that began first is next."""
        others = self._others
        if incoming is self._current:
            self._current = None
            if others:
                self._current = others.pop(next(iter(others)))
        elif others is not None:
            others.pop(incoming.context, None)
        if not others:
            self._others = None

    def finished(self) -> None:
        """The peer's Final or half-close."""
        self.finish(EndOfData("the peer has sent everything"))
        self._host._peer_finished()

    def writable(self, writable: bool, /) -> None:
        """Pass on to the sending half."""
        self._host._writable(writable)

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass on to the sending half."""
        self._host._outcome(record, error)

    def notified(self, event: Event) -> None:
        """Pass on to the application."""
        self._host._notified(event)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """A Message could not be received; the Connection lives on.

        A fatal error is the outcome of the Receives that follow. Otherwise
        nobody's Receive fails, unless a part of the Message was delivered.
        """
        if fatal and error.detail == CUT_OFF:
            # What came of it is good for those who ask for parts (RFC 9623, 5.2).
            self.finish(error)
            return
        lost, self._latest = self._latest, None
        if lost is not None:
            self.size -= lost.size
            self._remove(lost)
            if lost.delivered and not fatal:
                error.context = error.context or lost.context
                queue = self._make_queue() if self.queue is UNUSED else self.queue
                queue.append(_Lost(error))
        if fatal:
            self.finish(error)
            return
        self._host._receive_failed(error, told=lost is not None and lost.delivered)
        self.taken()

    def closed(self, error: Exception | None) -> None:
        """The flow is gone."""
        self._host._flow_closed(error)

    def finish(self, end: TapsError) -> None:
        """Nothing more will come; the first reason given stays."""
        if self.end is None:
            unfinished = self._current if self.boundaries else None
            if unfinished is not None and isinstance(end, EndOfData):
                end = ReceiveError(
                    "the Connection ended inside a Message",
                    reason=Reason.DEFRAMING_FAILED,
                    detail=CUT_OFF,
                    context=unfinished.context,
                )
            self.end = end
            self.flowing = False
        self.wake()

    def drop(self, end: TapsError) -> None:
        """The application ended it: nothing is delivered any more."""
        self.stopped = True
        self.end = end
        self.flowing = False
        self.queue.clear()
        if self.signal is not None:
            self.signal.handed = None
        self._current = None
        self._others = None
        self._latest = None
        self.size = self._cost = self._segment = 0
        self.wake()

    # -- backpressure

    def _consider_pause(self) -> None:
        # Whoever waits for more than is there must get it: no pause then.
        if self.signal is not None:
            if not self._deliverable(None):
                return
        elif self.waiters and not self._deliverable(self.waiters[0].minimum):
            return
        if self.flow is not None and not self.stopped:
            self.paused = True
            self.flowing = False
            self.flow.pause()

    def consider_resume(self) -> None:
        """After something was taken, or when a receiver waits for more."""
        if self.paused and self.flow is not None and not self.stopped:
            self.paused = False
            self._look()
            self.flow.resume()

    # -- to the application

    def _deliverable(self, minimum: Wish) -> bool:
        if self.end is not None:
            return True
        if callable(minimum):
            return minimum()
        if self.queue:
            return True
        current = self._current
        if current is None:
            return False
        if not self.boundaries:
            return current.size >= max(1, minimum or 0)
        return minimum is not None and current.size >= max(1, minimum)

    def wake(self) -> None:
        """Signal the first receiver if there is something for it."""
        signal = self.signal
        if signal is not None:
            if self.queue or self._deliverable(None):
                signal.fire()
        elif self.waiters:
            waiter = self.waiters[0]
            if self._deliverable(waiter.minimum):
                if waiter.future is not None and not waiter.future.done():
                    waiter.future.set_result(None)
            elif self.paused:
                self.consider_resume()

    async def wait(self, minimum: Wish, *, first: bool = False) -> None:
        """Until this receiver is first in line, has something to take, and may go on.

        The caller takes it before its next await, by :meth:`take`, or says by
        :meth:`taken` that it takes nothing.

        Args:
            minimum: What it waits for.
            first: It has stood in line already.
        """
        host = self._host
        waiters = self.waiters
        if waiters is None:
            waiters = self.waiters = deque()
        next_in_line = first or not (waiters or self.signal is not None)
        fresh = host._credit > 0 and not self._at_mark
        if next_in_line and fresh and self._deliverable(minimum):
            return
        host._before_wait()
        host._at_hand = NOTHING
        waiter = _Waiter(minimum)
        if first:
            waiters.appendleft(waiter)
        else:
            waiters.append(waiter)
        try:
            if next_in_line and self._deliverable(minimum):
                await REST
            while not (waiters[0] is waiter and self._deliverable(minimum)):
                waiter.future = host._loop.create_future()
                self.wake()
                await waiter.future
        except BaseException:
            waiters.remove(waiter)
            self.wake()
            host._nobody_waits()
            raise
        waiters.popleft()
        if self._at_mark:
            self.size -= self.queue.popleft().size  # type: ignore[union-attr]  # that is a mark
        host._fresh_turn()
        host._nobody_waits()

    @property
    def _at_mark(self) -> bool:
        queue = self.queue
        return bool(queue) and type(queue[0]) is Mark

    @property
    def _first(self) -> bytes | Message[Any] | _Incoming | _Lost | None:
        """What is delivered next, if it is in the queue."""
        queue = self.queue
        if not queue:
            return None
        # Behind a mark there always is something.
        return queue[1] if type(queue[0]) is Mark else queue[0]  # type: ignore[return-value]  # no two marks

    @property
    def available(self) -> int:
        """Bytes of the current Message that are there."""
        subject = self.subject
        if isinstance(subject, bytes):
            return len(subject)
        return 0 if subject is None else subject.size

    @property
    def subject(self) -> bytes | _Incoming | None:
        """Where to look for something in the current Message."""
        first = self._first
        if first is None:
            return self._current
        if isinstance(first, bytes | _Incoming):
            return first
        data = getattr(first, "data", None)
        return data if type(data) is bytes else None

    @property
    def complete(self) -> bool:
        """Whether the current Message will not grow any more."""
        return bool(self.queue) or self.end is not None

    def shortage(self, sentence: str) -> TapsError:
        """The error for a Message that ended before what was wished for."""
        if self.queue:
            first = self.queue[0]
            if type(first) is _Lost:
                self.queue.popleft()
                return afresh(first.error)
        if self.queue or self.end is None or isinstance(self.end, EndOfData):
            return EndOfData(sentence)
        return afresh(self.end)

    def take(self, maximum: int | None, *, partial: bool = False) -> Message[Any]:
        """The next Message or part; there must be one, or the end is raised.

        Args:
            maximum: Bytes at most.
            partial: Whether the part that is there of an unfinished Message will do.

        Raises:
            ReceiveError, ConnectionError: The end, when everything was taken.
        """
        size = 0
        try:
            message = self._take_first(maximum) if self.queue else self._take_part(maximum, partial)
            if type(message.data) is bytes:
                size = len(message.data)
            return message
        finally:
            self._host._charge(size * CREDIT // READ)
            self.taken()

    def taken(self) -> None:
        """After something was taken: the next receiver's turn, and perhaps the sender's."""
        if self.signal is not None or self.waiters:
            self.wake()
        if not self.queue:
            self._recount()
        if self.paused and self.size <= TURN and len(self.queue) <= HIGH_MESSAGES // 4:
            self.consider_resume()

    def _recount(self) -> None:
        """The queue is empty: only unfinished Messages are left."""
        self.size = 0 if self._current is None else self._current.size
        if self._others is not None:
            self.size += sum(other.size for other in self._others.values())
        self._segment = 0

    def line(self) -> tuple[object, ...]:
        """Those who wait, the first one first."""
        return (*(() if self.signal is None else (self.signal,)), *(self.waiters or ()))

    def _take_first(self, maximum: int | None) -> Message[Any]:
        """Of the first Message in the queue, up to ``maximum`` bytes."""
        queue = self.queue
        first = queue.popleft()
        host = self._host
        if not isinstance(first, Message | _Incoming | _Lost):
            # Bytes, or what a codec that breaks its promise took for bytes.
            first = Message(first, None, True, host)
        if isinstance(first, Message):
            data = first.data
            if type(data) is not bytes or maximum is None or len(data) <= maximum:
                return first
            context = first._context or MessageContext()
            first = _Incoming(context, end=first.end_of_message)
            first.add(data)
        elif isinstance(first, _Lost):
            raise afresh(first.error)
        assert isinstance(first, _Incoming)
        part = first.take(maximum)
        self._give_back(len(part))
        if first.size:
            first.delivered = True
            queue.appendleft(first)
            return Message(part, first.context, False, host)
        kind = Rest if first.delivered and first.end else Message
        return kind(part, first.context, first.end, host)

    def _give_back(self, size: int) -> None:
        """Bytes of the first Message in the queue are gone before it is."""
        self.size -= size
        for item in self.queue:
            if type(item) is Mark:
                item.size -= size
                return
        self._segment -= size

    def _take_part(self, maximum: int | None, partial: bool) -> Message[Any]:
        """Of the unfinished Message, up to ``maximum`` bytes; or the end."""
        over = self.end is not None
        last = not self.boundaries and isinstance(self.end, EndOfData)
        anything = not (self.boundaries or partial)
        current = self._current
        while over and current is not None and not current.size and self._others:
            self._remove(current)
            current = self._current
        if (
            current is not None
            and (partial or anything)
            and (current.size or (last and current.delivered))
        ):
            current.context = current.context or MessageContext()
            kind = Rest if current.delivered else Message
            current.delivered = True
            part = b""
            if current.size:
                part = current.take(current.convenient(maximum) if anything else maximum)
            self.size -= len(part)
            emptied = over and not current.size
            if emptied:
                self._remove(current)
            if emptied and last:
                return kind(part, current.context, True, self._host)
            return Message(part, current.context, False, self._host)
        assert self.end is not None, "take() without anything to take"
        raise afresh(self.end)


class Search:
    """Looks for a separator in the current Message as it grows, each byte once."""

    __slots__ = ("_inbox", "_maximum", "_seen", "_separator", "_subject", "length")

    def __init__(self, inbox: Inbox, separator: bytes, maximum: int) -> None:
        self._inbox = inbox
        self._separator = separator
        self._maximum = maximum
        self._subject: object = None
        self._seen = 0
        #: Bytes up to and including the separator, ``None`` if it is not there;
        #: more than ``maximum`` if the search was given up.
        self.length: int | None = None

    def over(self) -> bool:
        """Found, given up, or the Message will not grow any more."""
        if self.length is None:
            self._look()
        return self.length is not None or self._inbox.complete

    def _look(self) -> None:
        subject = self._inbox.subject
        if subject is None:
            return
        if subject is not self._subject:
            self._subject, self._seen = subject, 0
        size = len(subject) if isinstance(subject, bytes) else subject.size
        start = max(0, self._seen - len(self._separator) + 1)
        found = subject.find(self._separator, start)
        if found >= 0:
            self.length = found + len(self._separator)
        elif size >= self._maximum:
            self.length = self._maximum + 1
        self._seen = size
