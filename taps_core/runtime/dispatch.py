"""Events to handlers and streams: in order, from the loop, never from inside a push.

Handlers are plain functions. One that raises is reported to the loop's
exception handler and touches nothing else. The terminal event is put into
the same queue as all others, so it comes when the others were handled
(RFC 9622, section 11).
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from taps_core.model.errors import TapsError
from taps_core.model.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dispatcher", "EventStream"]

E = TypeVar("E")
#: Events that a slow reader of ``events()`` may leave unread; the oldest go first.
MAX_UNREAD = 10_000


class EventStream(Generic[E]):
    """``async for event in connection.events()``: all events from here on, to the last."""

    def __init__(self, owner: Dispatcher, *, ended: bool = False) -> None:
        self._owner = owner
        self._events: deque[E] = deque()
        self._waiting: list[asyncio.Future[None]] = []
        self._ended = ended
        #: Events dropped because nobody read them.
        self.dropped = 0

    def __aiter__(self) -> EventStream[E]:
        return self

    async def __anext__(self) -> E:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except BaseException:
                # All are forgotten when they are woken; who waits again and again
                # with a timeout must not be kept until then.
                if future in self._waiting:
                    self._waiting.remove(future)
                raise
        return self._events.popleft()

    def close(self) -> None:
        """Stop collecting."""
        self._ended = True
        self._owner.forget(self)
        self._wake()

    def push(self, event: E, last: bool) -> None:
        """Called by the dispatcher."""
        if len(self._events) >= MAX_UNREAD:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._ended = self._ended or last
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Dispatcher:
    """Handlers and streams of one object, made when the first one subscribes.

    Args:
        owner: Whose events they are.
        loop: Where handlers run.
        over: The terminal event has passed: nothing comes any more.
    """

    __slots__ = ("_handlers", "_loop", "_over", "_owner", "_queue", "_scheduled", "_streams")

    def __init__(
        self, owner: object, loop: asyncio.AbstractEventLoop, *, over: bool = False
    ) -> None:
        self._owner = owner
        self._loop = loop
        self._over = over
        self._handlers: dict[type, list[Callable[[Any], object]]] = {}
        self._streams: list[EventStream[Any]] = []
        self._queue: deque[tuple[Any, bool]] = deque()
        self._scheduled = False

    def on(self, event_type: type, handler: Callable[[Any], object]) -> None:
        """Call ``handler(event)`` for every event of that type or a subtype.

        Raises:
            TypeError: Not an event type, or a coroutine function.
        """
        if not (isinstance(event_type, type) and issubclass(event_type, Event | TapsError)):
            raise TypeError(
                "on() takes an event class such as taps_core.Ready or taps_core.ConnectionError,"
                f" not {event_type!r}"
            )
        if not callable(handler):
            raise TypeError(f"{handler!r} cannot be called")
        call = type(handler).__call__  # of an object: ``async def __call__``
        if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call):
            raise TypeError(
                "handlers are plain functions; for coroutines iterate over events() in a task"
            )
        self._handlers.setdefault(event_type, []).append(handler)

    def stream(self) -> EventStream[Any]:
        """A new stream of all events from here on."""
        stream: EventStream[Any] = EventStream(self, ended=self._over)
        if not self._over:
            self._streams.append(stream)
        return stream

    def forget(self, stream: EventStream[Any]) -> None:
        """No more events for this stream."""
        if stream in self._streams:
            self._streams.remove(stream)

    def wants(self, *event_types: type) -> bool:
        """Whether anyone would see such an event."""
        if self._streams:
            return True
        return any(
            issubclass(event_type, handled)
            for handled in self._handlers
            for event_type in event_types
        )

    def handles(self, event_type: type) -> bool:
        """Whether a handler is there for this very type, not for a base of it."""
        return event_type in self._handlers

    def emit(self, event: Any, *, last: bool = False) -> None:
        """Queue an event for whoever wants it; after the last one nothing is told."""
        if self._over or (not last and not self.wants(type(event))):
            return
        self._queue.append((event, last))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        # What handlers cause comes in a later turn: one turn never runs for ever.
        try:
            for _ in range(len(self._queue)):
                self._tell(*self._queue.popleft())
        finally:
            # Also when a handler let a KeyboardInterrupt or CancelledError through.
            self._scheduled = bool(self._queue)
            if self._scheduled:
                self._loop.call_soon(self._run)

    def _tell(self, event: Any, last: bool) -> None:
        if self._over:
            return
        self._over = last
        for stream in tuple(self._streams):
            stream.push(event, last)
        handlers = [
            handler
            for event_type, subscribed in self._handlers.items()
            if isinstance(event, event_type)
            for handler in subscribed
        ]
        if last:
            self._handlers.clear()
            self._streams.clear()
        for handler in handlers:
            self._call(handler, event)

    def _call(self, handler: Callable[[Any], object], event: Any) -> None:
        try:
            handler(event)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # an application's handler may raise anything
            self._loop.call_exception_handler(
                {
                    "message": f"handler for {type(event).__name__} of {self._owner!r} raised",
                    "exception": error,
                }
            )
