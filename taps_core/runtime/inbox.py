"""Messages that arrived: assembly, receivers in order, backpressure, the end.

The stack pushes parts up; only here they become Messages. What arrived stays
queued until a receiver *runs*: its future only signals, so cancelling a
receive loses nothing.

Two modes. With Message boundaries (from the transport or a framer) whole
Messages are queued. Without, all bytes of one direction are one Message of
unknown length (RFC 9622, section 9.3.2.2), and what is there is delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.model.errors import EndOfData, Reason, ReceiveError
from taps_core.model.messages import Message, MessageContext

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from taps_core.model.errors import SendError
    from taps_core.model.events import Event
    from taps_core.model.flow import Flow, PartTuple
    from taps_core.model.messages import SendRecord
    from taps_core.runtime.connection import Connection

__all__ = ["Inbox"]

#: Above this many queued bytes or Messages the flow is paused; below a quarter
#: of it, it is resumed.
HIGH_BYTES = 256 * 1024
HIGH_MESSAGES = 8192
#: A Message longer than this is delivered in parts (ReceivedPartial).
MAX_ASSEMBLY = 64 * 1024 * 1024
#: What an object that a framer made counts for, as its size is not known.
OBJECT_SIZE = 128


class _Incoming:
    """A Message of which not all parts are there."""

    __slots__ = ("chunks", "context", "delivered", "size")

    def __init__(self, context: MessageContext | None) -> None:
        self.context = context
        self.chunks: list[Any] = []
        self.size = 0
        # Whether a part of it went to the application already.
        self.delivered = False

    def add(self, data: Any) -> None:
        chunks = self.chunks
        chunks.append(data)
        self.size += len(data)
        # Byte-by-byte arrival must neither cost a list slot per byte nor a copy
        # of everything per byte: small neighbours of like size are merged, as
        # in a binary counter, so a byte is copied a few times at the most.
        while len(chunks) > 16 and len(chunks[-2]) <= min(2 * len(chunks[-1]), 32768):
            last = chunks.pop()
            chunks[-1] += last

    def take(self, length: int | None = None) -> bytes:
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        if length is not None and length < len(data):
            self.chunks = [data[length:]]
            data = data[:length]
        else:
            self.chunks = []
        self.size -= len(data)
        return data


#: What a receiver waits for: a whole Message, so many bytes, or a condition.
Wish: TypeAlias = int | Callable[[], bool] | None


class _Waiter:
    __slots__ = ("future", "minimum")

    def __init__(self, future: asyncio.Future[None], minimum: Wish) -> None:
        self.future = future
        self.minimum = minimum


class Inbox:
    """The receiving half of one Connection; the Receiver of its topmost flow."""

    __slots__ = (
        "_current",
        "_host",
        "_others",
        "boundaries",
        "end",
        "flow",
        "paused",
        "queue",
        "signal",
        "size",
        "stopped",
        "waiters",
    )

    def __init__(self, host: Connection[Any]) -> None:
        self._host = host
        self.flow: Flow | None = None
        self.boundaries = True
        # Complete Messages as (data, context, True); what has to be delivered
        # as a part (data, context, False) only when assembly is bounded.
        self.queue: deque[PartTuple] = deque()
        self.size = 0
        self.paused = False
        self.stopped = False
        # A receiver of a whole Message that found nobody else waiting: first in line.
        self.signal: asyncio.Future[None] | None = None
        # The line behind it, or all of it.
        self.waiters: deque[_Waiter] | None = None
        self.end: BaseException | None = None
        self._current: _Incoming | None = None
        # Messages whose parts interleave with others', by context identity.
        self._others: dict[int, _Incoming] | None = None

    # -- from below (Receiver)

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Queue Messages, assemble parts, wake the first receiver."""
        if self.stopped:
            return
        queue = self.queue
        size = self.size
        current = self._current
        if self.boundaries:
            for part in parts:
                data, context, end = part
                if end and current is None and self._others is None:
                    queue.append(part)
                    size += len(data) if type(data) is bytes else OBJECT_SIZE
                else:
                    self.size = size
                    self._assemble(data, context, end)
                    size = self.size
                    current = self._current
        else:
            if current is None:
                current = self._current = _Incoming(None)
            for data, context, end in parts:
                if context is not None and current.context is None:
                    current.context = context
                if data:
                    current.add(data)
                    size += len(data)
                if end:
                    self.end = EndOfData("the peer ended its Message")
        self.size = size
        signal = self.signal
        if signal is not None and queue:
            # The usual case of wake(), without the calls.
            if not signal.done():
                signal.set_result(None)
        elif signal is not None or self.waiters:
            self.wake()
        if not self.paused and (size > HIGH_BYTES or len(queue) > HIGH_MESSAGES):
            self._consider_pause()

    def _assemble(self, data: Any, context: MessageContext | None, end: bool) -> None:
        current = self._current
        if current is not None and context is not None and context is not current.context:
            incoming = self._interleaved(context)
        elif current is None:
            if self._others and context is not None and id(context) in self._others:
                incoming = self._others[id(context)]
            elif end:
                self.queue.append((data, context, True))
                self.size += len(data) if type(data) is bytes else OBJECT_SIZE
                return
            else:
                incoming = self._current = _Incoming(context)
        else:
            incoming = current
        self.size += len(data)
        if data:
            incoming.add(data)
        if end:
            self._complete(incoming)
        elif incoming.size > MAX_ASSEMBLY:
            self._spill(incoming)

    def _interleaved(self, context: MessageContext) -> _Incoming:
        if self._others is None:
            self._others = {}
        incoming = self._others.get(id(context))
        if incoming is None:
            incoming = self._others[id(context)] = _Incoming(context)
        return incoming

    def _complete(self, incoming: _Incoming) -> None:
        if incoming is self._current:
            self._current = None
        elif self._others is not None:
            self._others.pop(id(incoming.context), None)
            self._others = self._others or None
        self.queue.append((incoming.take() if incoming.size else b"", incoming.context, True))

    def _spill(self, incoming: _Incoming) -> None:
        if incoming.context is None:
            incoming.context = MessageContext()
        incoming.delivered = True
        self.queue.append((incoming.take(), incoming.context, False))

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
        """A Message could not be received; the Connection lives on."""
        self._host._receive_failed(error)
        if fatal:
            self.finish(error)
        elif self._current is not None and self.boundaries:
            # The rest of what is half assembled will not come.
            self.size -= self._current.size
            self._current = None

    def closed(self, error: Exception | None) -> None:
        """The flow is gone."""
        self._host._flow_closed(error)

    def finish(self, end: BaseException) -> None:
        """Nothing more will come; the first reason given stays."""
        if self.end is None:
            current = self._current
            if current is not None and self.boundaries:
                self._current = None
                if current.size and isinstance(end, EndOfData):
                    # RFC 9623, 5.2: deliver what there is, then say that it is cut off.
                    end = ReceiveError(
                        "the Connection ended inside a Message", reason=Reason.DEFRAMING_FAILED
                    )
                self.size -= current.size
            self.end = end
        self.wake()

    def drop(self, end: BaseException) -> None:
        """The application ended it: nothing is delivered any more."""
        self.stopped = True
        self.end = end
        self.queue.clear()
        self._current = None
        self._others = None
        self.size = 0
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
            self.flow.pause()

    def consider_resume(self) -> None:
        """After something was taken, or when a receiver waits for more."""
        if self.paused and self.flow is not None and not self.stopped:
            self.paused = False
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
            if not signal.done() and (self.queue or self._deliverable(None)):
                signal.set_result(None)
        elif self.waiters:
            waiter = self.waiters[0]
            if not waiter.future.done() and self._deliverable(waiter.minimum):
                waiter.future.set_result(None)

    async def wait(self, minimum: Wish) -> None:
        """Until this receiver is first in line and has something to take.

        The caller takes it before its next await.
        """
        host = self._host
        waiters = self.waiters
        if waiters is None:
            waiters = self.waiters = deque()
        while waiters or self.signal is not None or not self._deliverable(minimum):
            waiter = _Waiter(host._loop.create_future(), minimum)
            waiters.append(waiter)
            if self.paused and self.signal is None and not self._deliverable(waiters[0].minimum):
                self.consider_resume()
            try:
                await waiter.future
            except BaseException:
                waiters.remove(waiter)
                self.wake()
                raise
            host._fresh_turn()
            # Still first: only the first one is ever signalled.
            waiters.popleft()
            if self._deliverable(minimum):
                return

    @property
    def available(self) -> int:
        """Bytes of the current Message that are there."""
        if self.queue:
            data = self.queue[0][0]
            return len(data) if type(data) is bytes else 0
        return 0 if self._current is None else self._current.size

    @property
    def complete(self) -> bool:
        """Whether the current Message will not grow any more."""
        return bool(self.queue) or self.end is not None

    def tail(self, length: int) -> bytes:
        """The last ``length`` bytes of what :attr:`available` counts."""
        if self.queue:
            data: bytes = self.queue[0][0]
            return data[len(data) - length :]
        chunks: list[bytes] = []
        for chunk in reversed(self._current.chunks if self._current is not None else ()):
            if length <= 0:
                break
            chunks.append(chunk[-length:])
            length -= len(chunks[-1])
        return b"".join(reversed(chunks))

    def shortage(self, sentence: str) -> BaseException:
        """The error for an end that came before what was wished for."""
        if self.end is None or isinstance(self.end, EndOfData):
            return EndOfData(sentence)
        return _fresh(self.end)

    def take(self, maximum: int | None) -> Message[Any]:
        """The next Message or part; there must be one, or the end is raised.

        Raises:
            ReceiveError, ConnectionError: The end, when everything was taken.
        """
        try:
            return self._take(maximum)
        finally:
            self.taken()

    def taken(self) -> None:
        """After something was taken: the next receiver's turn, and perhaps the sender's."""
        if self.waiters:
            self.wake()
        if self.paused and self.size <= HIGH_BYTES // 4 and len(self.queue) <= HIGH_MESSAGES // 4:
            self.consider_resume()

    @property
    def alone(self) -> bool:
        """Whether one that waits for a whole Message may just be signalled."""
        return (
            self.boundaries
            and not self.waiters
            and self.signal is None
            and self.end is None
            and not self.paused
        )

    def _take(self, maximum: int | None) -> Message[Any]:
        if self.queue:
            data, context, end = self.queue.popleft()
            if type(data) is not bytes:
                self.size -= OBJECT_SIZE
                return Message(data, context, end, self._host)
            if maximum is not None and len(data) > maximum:
                if context is None:
                    context = MessageContext()
                self.queue.appendleft((data[maximum:], context, end))
                data, end = data[:maximum], False
            self.size -= len(data)
            return Message(data, context, end, self._host)
        current = self._current
        if current is not None and (current.size or (current.delivered and self.end is not None)):
            if current.context is None:
                current.context = MessageContext()
            data = current.take(maximum) if current.size else b""
            self.size -= len(data)
            current.delivered = True
            last = not self.boundaries and not current.size and isinstance(self.end, EndOfData)
            if last:
                self._current = None
            return Message(data, current.context, last, self._host)
        assert self.end is not None, "take() without anything to take"
        raise _fresh(self.end)


class Search:
    """Looks for a separator in the current Message as it grows, each byte once."""

    __slots__ = ("_inbox", "_maximum", "_seen", "_separator", "length")

    def __init__(self, inbox: Inbox, separator: bytes, maximum: int) -> None:
        self._inbox = inbox
        self._separator = separator
        self._maximum = maximum
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
        available = self._inbox.available
        if available < self._seen:
            self._seen = 0  # another receiver took from it
        overlap = min(self._seen, len(self._separator) - 1)
        start = self._seen - overlap
        if available > start:
            found = self._inbox.tail(available - start).find(self._separator)
            if found >= 0:
                self.length = start + found + len(self._separator)
            elif available >= self._maximum:
                self.length = self._maximum + 1
        self._seen = available


def _fresh(error: BaseException) -> BaseException:
    """The same error without the traceback of whoever was told before."""
    return error.with_traceback(None)
