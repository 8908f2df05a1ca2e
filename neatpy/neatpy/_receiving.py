"""Messages that have arrived and Receives that wait for them, brought together."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from neatpy._handlers import call
from neatpy._values import MessageDataObject
from neatpy.message_context import MessageContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from neatpy._values import ReceiveError
    from neatpy.connection import Connection

__all__ = ["Reception"]

#: Bytes of one Message above which it is delivered in parts, whatever was asked for.
MAX_WHOLE: Final = 16 * 1024 * 1024


class _Arrived:
    """A Message, or what is there of it and was not delivered yet."""

    __slots__ = ("begun", "context", "data", "ended")

    def __init__(self, data: bytes, context: MessageContext | None, ended: bool) -> None:
        self.data = bytearray(data)
        self.context = context
        self.ended = ended
        #: Whether a part of it was delivered.
        self.begun = False


class Reception:
    """The receiving half of a Connection. Each Receive has one outcome, in the order of the calls.

    Args:
        connection: Whose it is.
        boundaries: Whether there are Messages; else all that arrives is one of unknown length.
    """

    __slots__ = ("_arrived", "_connection", "_requests", "_serving", "boundaries")

    def __init__(self, connection: Connection, *, boundaries: bool = True) -> None:
        self._connection = connection
        self.boundaries = boundaries
        self._arrived: deque[_Arrived] = deque()
        self._requests: deque[tuple[Callable[..., object], int | None, float]] = deque()
        self._serving = False

    def request(self, handler: Callable[..., object], minimum: int | None, maximum: float) -> None:
        """A further Receive; it is served in a later turn of the loop."""
        self._requests.append((handler, minimum, maximum))

    @property
    def saturated(self) -> bool:
        """Whether nothing more is to be read before somebody asks for it."""
        arrived = self._arrived
        return bool(arrived and (arrived[0].data or arrived[0].ended) and not self._requests)

    def take_in(self, data: bytes, context: MessageContext | None, end: bool) -> None:
        """A part of a Message, or all of it."""
        arrived = self._arrived
        if not arrived and self._requests and not self._serving:
            handler, minimum, maximum = self._requests[0]
            size = len(data)
            whole = end if self.boundaries else size >= (minimum or 1)
            if whole and size <= maximum:
                # The usual case: all that there is goes to the one who waits.
                self._requests.popleft()
                self._serving = True
                try:
                    message = MessageDataObject(bytearray(data), size)
                    ending = None if self.boundaries else False
                    call(handler, self._connection, message, context, ending, None)
                finally:
                    self._serving = False
                return
        if arrived and not arrived[-1].ended:
            last = arrived[-1]
            last.data += data
            last.ended = end
            last.context = context
        else:
            arrived.append(_Arrived(data, context, end))
        self.serve()

    def serve(self) -> None:
        """Give what is there to those who wait for it."""
        if self._serving:  # a handler asks for more: whoever called it goes on
            return
        self._serving = True
        try:
            while self._requests and self._arrived:
                handler, minimum, maximum = self._requests[0]
                head = self._arrived[0]
                if not (head.ended or self._enough(len(head.data), minimum, maximum)):
                    return
                self._requests.popleft()
                self._deliver(head, handler, maximum)
        finally:
            self._serving = False

    def _enough(self, size: int, minimum: int | None, maximum: float) -> bool:
        """Whether so much of a Message that has not ended will do."""
        if not self.boundaries:
            return size >= min(minimum or 1, maximum)
        if minimum is None:
            return size > maximum or size >= MAX_WHOLE
        return size >= max(1, min(minimum, maximum))

    def _deliver(self, head: _Arrived, handler: Callable[..., object], maximum: float) -> None:
        data = head.data
        if len(data) > maximum:
            cut = int(maximum)
            data, head.data = data[:cut], data[cut:]
            end: bool | None = False
        elif head.ended:
            self._arrived.popleft()
            end = True if head.begun or not self.boundaries else None
        else:
            head.data = bytearray()
            end = False
        head.begun = True
        message = MessageDataObject(data, len(data))
        call(handler, self._connection, message, head.context, end, None)

    def finish(self) -> None:
        """The stream has ended: what is there is its end."""
        if self._arrived and not self._arrived[-1].ended:
            self._arrived[-1].ended = True
            self.serve()

    def lose(self, error: ReceiveError) -> None:
        """A Message is lost, and what was there of it: the next Receive is told."""
        if self._arrived and not self._arrived[-1].ended:
            self._arrived.pop()
        if self._requests:
            self._fail(error)

    def end(self, error: ReceiveError) -> None:
        """Nothing more will come: all who wait are told."""
        self._arrived.clear()
        for _ in range(len(self._requests)):
            self._fail(error)
        self._requests.clear()

    def _fail(self, error: ReceiveError) -> None:
        handler, _, _ = self._requests.popleft()
        nothing = MessageDataObject(bytearray(), 0)
        call(handler, self._connection, nothing, MessageContext(), True, error)
