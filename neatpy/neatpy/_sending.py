"""The sending half of a Connection: Messages to the core, and their outcomes to handlers."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import taps_core as taps
from neatpy._handlers import call
from neatpy._loop import Work
from neatpy._translation import send_error_reason
from neatpy._values import SendErrorReason
from neatpy.message_framer import Outcome

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from neatpy.connection import Connection
    from neatpy.message_context import MessageContext
    from neatpy.transport_properties import TransportProperties

__all__ = ["Sender"]

logger = logging.getLogger("neatpy")

#: What the core may hold, in bytes and Messages: half of what it takes. The rest waits here, as
#: NEATPy's programs are not told to wait.
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_MESSAGES: Final = 32_768
#: Bytes that wait here when a warning is logged; another one each time that they have doubled.
ALARMING: Final = 64 * 1024 * 1024


class _Message:
    """A Message on its way to the core, in one part or several.

    Attributes:
        context: As the core has it.
        place: Its place among those that wait here.
        waiting: How many of its parts wait here.
    """

    __slots__ = ("context", "place", "waiting")

    def __init__(self, context: taps.MessageContext, arrival: int, usual_priority: int) -> None:
        self.context = context
        properties = context.properties
        priority = properties.get("msgPriority", usual_priority)
        self.place = (bool(properties.get("final")), priority, arrival)
        self.waiting = 0


class _Waiting:
    """A Send that the core has no room for yet."""

    __slots__ = ("after_final", "data", "deadline", "end", "handler", "key", "message")

    def __init__(
        self,
        message: _Message,
        data: bytes,
        end: bool,
        arrival: int,
        deadline: float,
        handler: Any,
        after_final: bool,
    ) -> None:
        self.message = message
        self.data = data
        self.end = end
        self.key = (message.place, arrival)
        self.deadline = deadline
        self.handler = handler
        self.after_final = after_final

    def __lt__(self, other: _Waiting) -> bool:
        return self.key < other.key


class Sender:
    """Gives Messages to the core, and tells sent handlers what became of them.

    Args:
        connection: Whose it is.
        inner: What the core has for it.
        properties: Defaults of its Messages.
    """

    def __init__(
        self,
        connection: Connection,
        inner: taps.Connection[Any],
        properties: TransportProperties,
    ) -> None:
        self._connection = connection
        self._inner = inner
        self._properties = properties
        self._work = Work.here()
        self._loop = asyncio.get_running_loop()
        self._arrivals = count()
        #: Messages in parts that have no end yet, by the application's contexts.
        self._open: dict[MessageContext | None, _Message] = {}
        self._backlog: list[_Waiting] = []
        self._feeding: asyncio.Task[None] | None = None
        self._backlog_bytes = 0
        self._alarming = ALARMING
        #: Handlers that are to be told, in order, and what.
        self._due: deque[tuple[Any, SendErrorReason | None]] = deque()
        self._telling = False
        #: Sends whose handlers were not told yet; who waits for that.
        self._untold = 0
        self._told: asyncio.Event | None = None
        self._final = False
        self._close_wanted = False

    def send(self, data: bytes, handler: Any, context: MessageContext | None, end: bool) -> None:
        """Send a Message, or a part of one; what becomes of it, the handler is told later."""
        if self._close_wanted:
            self._untold += 1
            self._tell_soon(handler, SendErrorReason.CONNECTION_CLOSING)
            return
        message: _Message | None = None
        continued = False
        if context is not None or not end or self._open:
            continued = context in self._open
            message = self._message(context, end)
        self._untold += 1
        after_final = self._final
        # The rest of a Message that the core has begun waits for nothing: others wait for it.
        if self._crowded and not (continued and message is not None and not message.waiting):
            self._hold(data, message, end, handler, after_final)
            return
        try:
            outcome = self._offer(data, message, end)
        except taps.TapsError as error:
            self._known(handler, error, after_final)
            return
        if handler is None and message is None:
            self._untold -= 1  # what fails later the core logs
        else:
            self._follow(outcome, handler, after_final)

    def _message(self, context: MessageContext | None, end: bool) -> _Message:
        message = self._open.pop(context, None)
        if message is None:
            made = taps.MessageContext()
            for name, value in () if context is None else context._settings().items():
                made.add(name, value)
            message = _Message(made, next(self._arrivals), self._properties._priority)
        if not end:
            self._open[context] = message
        return message

    @property
    def _crowded(self) -> bool:
        if self._feeding is not None:
            return True
        size, messages = self._inner.queued
        return size >= MOST_BYTES or messages >= MOST_MESSAGES

    def _offer(self, data: bytes, message: _Message | None, end: bool) -> Coroutine[Any, Any, None]:
        """Give it to the core; what is returned waits for what becomes of it."""
        if message is None:
            return self._inner.send(data)
        outcome = self._inner.send(data, message.context, end_of_message=end)
        self._final = self._final or message.context.final
        return outcome

    # -- what the core has no room for

    def _hold(
        self, data: bytes, message: _Message | None, end: bool, handler: Any, after_final: bool
    ) -> None:
        if message is None:
            message = self._message(None, True)
        message.waiting += 1
        lifetime = message.context.properties.get("msgLifetime", math.inf)
        deadline = self._loop.time() + lifetime
        waiting = _Waiting(message, data, end, next(self._arrivals), deadline, handler, after_final)
        heapq.heappush(self._backlog, waiting)
        self._backlog_bytes += len(data)
        if self._backlog_bytes >= self._alarming:
            logger.warning(
                "%r: %d MiB wait to be sent, as more is sent than the peer takes; "
                "sent handlers tell when there is room",
                self._connection,
                self._backlog_bytes >> 20,
            )
            self._alarming = 2 * self._backlog_bytes
        if self._feeding is None:
            self._feeding = self._work.spawn(self._feed())

    async def _feed(self) -> None:
        """Give the core one after the other: awaiting what becomes of each is the brake."""
        while self._backlog:
            waiting = heapq.heappop(self._backlog)
            self._backlog_bytes -= len(waiting.data)
            message = waiting.message
            message.waiting -= 1
            left = waiting.deadline - self._loop.time()
            failure: taps.TapsError | None = None
            if left <= 0:
                failure = taps.Expired("there was no room for it in its lifetime")
            else:
                if left < math.inf:
                    message.context.add("msgLifetime", left)
                try:
                    await self._offer(waiting.data, message, waiting.end)
                except taps.TapsError as error:
                    failure = error
            self._known(waiting.handler, failure, waiting.after_final)
        self._feeding = None
        if self._close_wanted:
            _ = self._inner.close()

    # -- to handlers

    def _follow(
        self,
        outcome: Coroutine[Any, Any, None],
        handler: Any,
        after_final: bool,
        _: object = None,
    ) -> None:
        """Await what becomes of a Send, as a task of its own would: most often that is known."""
        try:
            waits_for = outcome.send(None)
        except StopIteration:
            self._known(handler, None, after_final)
        except taps.TapsError as error:
            self._known(handler, error, after_final)
        else:
            again = partial(self._follow, outcome, handler, after_final)
            if waits_for is None:
                self._loop.call_soon(again)
            else:
                waits_for.add_done_callback(again)

    def _known(self, handler: Any, error: taps.TapsError | None, after_final: bool) -> None:
        reason = None if error is None else send_error_reason(error, after_final=after_final)
        self._tell_soon(handler, reason)

    def _tell_soon(self, handler: Any, reason: SendErrorReason | None) -> None:
        self._due.append((handler, reason))
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._tell_due)

    def _tell_due(self) -> None:
        # What handlers send is told in a later turn: one turn never runs for ever.
        try:
            for _ in range(len(self._due)):
                self._untold -= 1
                self._tell(*self._due.popleft())
        finally:
            # Also when a handler let a KeyboardInterrupt through.
            self._telling = bool(self._due)
            if self._telling:
                self._loop.call_soon(self._tell_due)
            if not self._untold and self._told is not None:
                self._told.set()

    def _tell(self, handler: Any, reason: SendErrorReason | None) -> None:
        if isinstance(handler, Outcome):
            handler = handler.told(reason)
        if handler is not None:
            call(handler, self._connection, reason)
        elif reason is not None:
            logger.warning("%r: a Message was not sent: %s", self._connection, reason.value)

    # -- the end

    def close(self) -> None:
        """Take no more; close when everything was given to the core."""
        self._close_wanted = True
        if self._feeding is None:
            _ = self._inner.close()

    async def drained(self) -> None:
        """Until the core has everything."""
        while self._feeding is not None:
            await asyncio.wait([self._feeding])

    async def settled(self) -> None:
        """Until all sent handlers were told."""
        await self.drained()
        if self._untold:
            self._told = asyncio.Event()
            await self._told.wait()

    @property
    def waits(self) -> bool:
        """Whether something has not been handed to the protocols."""
        return self._feeding is not None or self._inner.queued != (0, 0)
