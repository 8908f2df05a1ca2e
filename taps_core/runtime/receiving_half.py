"""The receiving half of a Connection (RFC 9622, section 9.3).

Parts wait in the inbox, a receiver takes them. Every Receive has one outcome:
awaiting gives it, handlers get it as an event.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self, TypeVar

from taps_core.model.arguments import check_length
from taps_core.model.errors import (
    EndOfData,
    PartialMessageWarning,
    Reason,
    ReceiveError,
    TapsError,
)
from taps_core.model.events import (
    Received,
    ReceivedPartial,
)
from taps_core.model.messages import Message, Rest, Taken
from taps_core.runtime.awaitables import CREDIT
from taps_core.runtime.inbox import ALONE, NOTHING, REST, UNUSED, Mark, Search
from taps_core.runtime.push import Signal
from taps_core.runtime.sending_half import SendingHalf

if TYPE_CHECKING:
    from collections import deque

__all__ = ["ReceivingHalf"]

T = TypeVar("T")


class ReceivingHalf(SendingHalf[T]):
    """What receives; a turn's credit and gathered writes are shared with what sends."""

    __slots__ = ()

    async def receive(
        self, *, min_incomplete_length: int | None = None, max_length: int | None = None
    ) -> Message[T]:
        """The next Message, or a part of it (RFC 9622, section 9.3).

        With Message boundaries (of the transport or a framer) a whole Message,
        unless a length is given or it is larger than can be held. Without
        boundaries all bytes of one direction are one Message of unknown
        length: what is there is returned with ``end_of_message=False`` (of several
        large reads, the first).

        Args:
            min_incomplete_length: Bytes that a part must have at least, unless
                its Message ends before.
            max_length: Bytes that are returned at most.

        Raises:
            EndOfData: The peer has sent everything.
            ReceiveError: A Message could not be received or parsed; no
                receive direction; closed on this side.
            ConnectionError: The Connection failed.
        """
        if min_incomplete_length is not None or max_length is not None:
            return await self._receive_part(min_incomplete_length, max_length)
        at_hand = self._at_hand
        message: Message[T]
        if at_hand:
            item = at_hand.popleft()
            if type(item) is bytes:
                message = Taken()
                message.data = item  # type: ignore[assignment]  # no framer, or one of bytes
                message._context = None
                message._origin = self
                return message
            if type(item) is Message:
                return item
            inbox = self._inbox
            if type(item) is not Mark:
                at_hand.appendleft(item)
                return await self._receive_part(None, None)
            inbox.size -= item.size
            if inbox.paused:
                inbox.taken()
            rest = True
        else:
            inbox = self._inbox
            if at_hand is not inbox.queue or not inbox.flowing:
                return await self._receive_part(None, None)
            rest = False
            # While it waits, and perhaps for long: also in this frame.
            at_hand = inbox.queue = UNUSED
        # The only receiver there is has a signal, and no line to stand in.
        if self._turn is not None or self._batch:
            self._before_wait()
        signal = inbox.signal = inbox.spare or self._new_signal()
        self._at_hand = ALONE
        try:
            if rest:
                await REST
            else:
                await signal
        except BaseException:
            inbox.signal = None
            if signal.handed is not None:
                inbox.give_back(signal)
            inbox.wake()
            self._nobody_waits()
            raise
        inbox.signal = None
        self._credit = CREDIT
        self._through = not self._batch
        queue: deque[Any] = inbox.queue
        data = signal.handed
        if self._at_hand is ALONE:
            self._at_hand = queue
            if data is not None:
                signal.handed = None
            elif queue and type(queue[0]) is bytes:
                data = queue.popleft()
            if data is not None:
                message = Taken()
                message.data = data
                message._context = None
                message._origin = self
                return message
        elif data is not None:
            inbox.give_back(signal)
        return await self._receive_part(None, None, first=True)

    def _nobody_waits(self) -> None:
        """Nobody stands in line any more, or somebody who wants to be told has come."""
        inbox = self._inbox
        if (
            self._dispatcher is None
            and self._log is None
            and inbox.signal is None
            and not inbox.waiters
        ):
            self._at_hand = inbox.queue
        else:
            self._at_hand = NOTHING

    def _new_signal(self) -> Signal:
        signal = self._inbox.spare = Signal(self._loop, self._blueprint.runtime.push)
        return signal

    async def _receive_part(
        self, minimum: int | None, maximum: int | None, *, first: bool = False
    ) -> Message[T]:
        inbox = self._inbox
        self._check_lengths(minimum, maximum)
        await inbox.wait(minimum, first=first)
        if minimum is None and maximum is None and not inbox.boundaries and not self._warned:
            # Before anything is taken: where warnings are errors, nothing is lost.
            self._warn_partial()
        return self._take(maximum, partial=minimum is not None)

    def _take(self, maximum: int | None, *, partial: bool = False) -> Message[T]:
        """Take what :meth:`Inbox.wait` has waited for; exactly one outcome, and its event."""
        try:
            message = self._inbox.take(maximum, partial=partial)
        except TapsError as error:
            self._receive_ended(error)
            raise
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

    def _check_lengths(self, minimum: int | None, maximum: int | None) -> None:
        if minimum is not None:
            check_length("min_incomplete_length", minimum)
        if maximum is not None:
            check_length("max_length", maximum)
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError("min_incomplete_length is above max_length")

    def _warn_partial(self) -> None:
        inbox = self._inbox
        if not inbox.available:
            return
        self._warned = True
        try:
            warnings.warn(
                f"{self._stack} has no Message boundaries: receive() returns the bytes that are "
                "there; use a framer, or give a length",
                PartialMessageWarning,
                stacklevel=4,
            )
        except PartialMessageWarning:
            inbox.taken()
            raise

    def _tell_received(self, message: Message[T]) -> None:
        if self._log is not None:
            self._note("received", bytes=_size(message.data), end_of_message=message.end_of_message)
        if self._dispatcher is not None:
            whole = message.end_of_message and not isinstance(message, Rest)
            self._dispatcher.emit(Received(message) if whole else ReceivedPartial(message))

    def _receive_ended(self, error: TapsError) -> None:
        if self._dispatcher is not None:
            self._dispatcher.emit(_as_receive_error(error))

    async def receive_exactly(self, length: int) -> Message[T]:
        """Exactly ``length`` bytes of the current Message (on a byte stream: of all that comes).

        Raises:
            EndOfData: Fewer are left; they stay and can be received.
            As :meth:`receive`.
        """
        check_length("length", length)
        inbox = self._inbox
        await inbox.wait(lambda: inbox.available >= length or inbox.complete)
        if inbox.available < length:
            raise self._shortage(f"fewer than {length} bytes are left")
        return self._take(length, partial=True)

    async def receive_until(self, separator: bytes, *, max_length: int = 64 * 1024) -> Message[T]:
        """Bytes up to and including ``separator``.

        Raises:
            ReceiveError: DEFRAMING_FAILED: not within ``max_length`` bytes. Nothing is taken.
            EndOfData: The end came first; what is there stays.
            As :meth:`receive`.
        """
        if not isinstance(separator, bytes | bytearray | memoryview):
            raise TypeError(f"separator: bytes, not {separator!r}")
        if not separator:
            raise ValueError("the separator is empty")
        check_length("max_length", max_length)
        inbox = self._inbox
        search = Search(inbox, separator, max_length)
        await inbox.wait(search.over)
        if search.length is None:
            raise self._shortage(f"no {separator!r} before the end")
        if search.length > max_length:
            raise self._untaken(
                ReceiveError(
                    f"no {separator!r} within {max_length} bytes", reason=Reason.DEFRAMING_FAILED
                )
            )
        return self._take(search.length, partial=True)

    def _shortage(self, sentence: str) -> TapsError:
        return self._untaken(self._inbox.shortage(sentence))

    def _untaken(self, error: TapsError) -> TapsError:
        """A Receive that ends without taking anything: its outcome, and the next one's turn."""
        self._charge(0)
        self._receive_ended(error)
        self._inbox.taken()
        return error

    def __aiter__(self) -> Self:
        """Messages until the peer's Final or orderly close; everything else raises."""
        return self

    async def __anext__(self) -> Message[T]:
        at_hand = self._at_hand
        if at_hand:
            # As receive() does first of all.
            item = at_hand.popleft()
            if type(item) is bytes:
                message: Message[T] = Taken()
                message.data = item  # type: ignore[assignment]  # as there
                message._context = None
                message._origin = self
                return message
            at_hand.appendleft(item)
        del at_hand  # it may go while this waits
        try:
            return await self.receive()
        except EndOfData:
            raise StopAsyncIteration from None


def _as_receive_error(error: TapsError) -> ReceiveError:
    """As an event: that of a Receive, also where the end of the Connection ended it."""
    if isinstance(error, ReceiveError):
        return error
    event = ReceiveError(str(error), reason=error.reason, detail=error.detail)
    event.__cause__ = error
    return event


def _size(data: Any) -> int | None:
    return len(data) if isinstance(data, bytes) else None
