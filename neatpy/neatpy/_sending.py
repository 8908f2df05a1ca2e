"""The sending half of a Connection: Messages to the core, and their outcomes to handlers."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
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

__all__ = ["Sender"]

logger = logging.getLogger("neatpy")

#: What the core may hold, in bytes and Messages: half of what it takes. The rest waits here, as
#: NEATPy's programs are not told to wait.
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_MESSAGES: Final = 32_768


class _Waiting:
    """A Send that the core has no room for yet."""

    __slots__ = ("context", "data", "deadline", "end", "handler", "key")

    def __init__(
        self,
        key: tuple[bool, int, int],
        data: bytes,
        handler: Any,
        context: taps.MessageContext | None,
        end: bool,
        deadline: float,
    ) -> None:
        self.key = key
        self.data = data
        self.handler = handler
        self.context = context
        self.end = end
        self.deadline = deadline

    def __lt__(self, other: _Waiting) -> bool:
        return self.key < other.key


class Sender:
    """Gives Messages to the core, and tells sent handlers what became of them.

    Args:
        connection: Whose it is.
        inner: What the core has for it.
        priority: That of Messages that say nothing of theirs, as the core has it.
    """

    def __init__(self, connection: Connection, inner: taps.Connection[Any], priority: int) -> None:
        self._connection = connection
        self._inner = inner
        self._priority = priority
        self._work = Work.here()
        self._loop = asyncio.get_running_loop()
        self._reports: set[asyncio.Task[None]] = set()
        self._backlog: list[_Waiting] = []
        self._feeding: asyncio.Task[None] | None = None
        self._arrivals = count()
        #: Messages in parts that have no end yet: as the application has them, and the core.
        self._open: dict[MessageContext | None, taps.MessageContext] = {}
        self._final = False
        self._close_wanted = False

    def send(self, data: bytes, handler: Any, context: MessageContext | None, end: bool) -> None:
        """Send a Message, or a part of one; what becomes of it, the handler is told later."""
        if self._close_wanted:
            self._tell_soon(handler, SendErrorReason.CONNECTION_CLOSING)
            return
        sending: taps.MessageContext | None = None
        continued = False
        if context is not None or not end or self._open:
            continued = context in self._open
            sending = self._translated(context, end)
        # The rest of a Message that the core has begun waits for nothing: others wait for it.
        if self._crowded and (not continued or any(w.context is sending for w in self._backlog)):
            self._hold(data, handler, sending, end)
        else:
            self._hand_over(data, handler, sending, end)

    def _translated(self, context: MessageContext | None, end: bool) -> taps.MessageContext | None:
        sending = self._open.pop(context, None)
        if sending is None and (context is not None or not end):
            sending = taps.MessageContext()
            for name, value in () if context is None else context._settings().items():
                sending.add(name, value)
        if not end:
            assert sending is not None
            self._open[context] = sending
        return sending

    @property
    def _crowded(self) -> bool:
        if self._backlog or self._feeding is not None:
            return True
        size, messages = self._inner.queued
        return size >= MOST_BYTES or messages >= MOST_MESSAGES

    # -- to the core

    def _hand_over(
        self, data: bytes, handler: Any, context: taps.MessageContext | None, end: bool
    ) -> None:
        after_final = self._final
        try:
            outcome = self._offer(data, context, end)
        except taps.TapsError as error:
            self._tell_soon(handler, send_error_reason(error, after_final=after_final))
            return
        if handler is not None:
            task = self._work.spawn(self._report(outcome, handler, after_final))
            self._reports.add(task)
            task.add_done_callback(self._reports.discard)
        # Else the core logs what fails, once for each Connection.

    def _offer(
        self, data: bytes, context: taps.MessageContext | None, end: bool
    ) -> Coroutine[Any, Any, None]:
        if context is None and end:
            return self._inner.send(data)
        outcome = self._inner.send(data, context, end_of_message=end)
        self._final = self._final or (context is not None and context.final)
        return outcome

    async def _report(
        self, outcome: Coroutine[Any, Any, None], handler: Any, after_final: bool
    ) -> None:
        reason: SendErrorReason | None = None
        try:
            await outcome
        except taps.TapsError as error:
            reason = send_error_reason(error, after_final=after_final)
        self._tell(handler, reason)

    # -- what the core has no room for

    def _hold(
        self, data: bytes, handler: Any, context: taps.MessageContext | None, end: bool
    ) -> None:
        properties = {} if context is None else context.properties
        arrival = next(self._arrivals)
        priority = properties.get("msgPriority", self._priority)
        key = (bool(properties.get("final")), priority, arrival)
        deadline = self._loop.time() + properties.get("msgLifetime", math.inf)
        heapq.heappush(self._backlog, _Waiting(key, data, handler, context, end, deadline))
        if self._feeding is None:
            self._feeding = self._work.spawn(self._feed())

    async def _feed(self) -> None:
        """Give the core one after the other: awaiting what became of each is the brake."""
        while self._backlog:
            waiting = heapq.heappop(self._backlog)
            after_final = self._final
            reason: SendErrorReason | None = None
            try:
                await self._offer_late(waiting)
            except taps.TapsError as error:
                reason = send_error_reason(error, after_final=after_final)
            self._tell(waiting.handler, reason)
        self._feeding = None
        if self._close_wanted:
            _ = self._inner.close()

    async def _offer_late(self, waiting: _Waiting) -> None:
        context = waiting.context
        if waiting.deadline < math.inf:
            left = waiting.deadline - self._loop.time()
            if left <= 0:
                raise taps.Expired("its lifetime was over before there was room for it")
            assert context is not None
            context.add("msgLifetime", left)
        await self._offer(waiting.data, context, waiting.end)

    # -- to handlers

    def _tell_soon(self, handler: Any, reason: SendErrorReason) -> None:
        self._loop.call_soon(self._tell, handler, reason)

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
        while self._reports:
            await asyncio.wait(self._reports)

    @property
    def waits(self) -> bool:
        """Whether something has not been handed to the protocols."""
        return self._feeding is not None or self._inner.queued != (0, 0)
