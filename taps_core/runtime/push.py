"""One read's way up the layers, and whom it wakes.

Whoever awaits a Message is woken by what arrives. An ordinary future wakes its
task in the loop's next turn, which costs a system call and a walk through the
loop for every Message that somebody waits for. A transport that sends its reads
up by a :class:`Push` saves that: the tasks run when the push has returned, still
in the same turn. They run as from any callback of the loop, after all layers have
finished with the read; only the turn in between is left out.

For transports it is an option: what goes up without a Push wakes by the loop.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextvars import Context

    from taps_core.model.flow import PartTuple

__all__ = ["Push", "Signal"]


class _Above(Protocol):
    def received(self, parts: Sequence[PartTuple]) -> None: ...


class Push:
    """Of one event loop; :meth:`of` gives it. For transports.

    ::

        def data_received(self, data):          # a callback of the loop
            try:
                self._push.up(self._receiver, ((data, None, False),))
            except Exception as error:
                ...                              # ends this flow only
    """

    __slots__ = ("__weakref__", "open", "woken")

    def __init__(self) -> None:
        #: Whether a read is on its way up.
        self.open = False
        #: Whom it woke, first come first served.
        self.woken: deque[Signal] = deque()

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Push:
        """The one of ``loop``."""
        push = _pushes.get(loop)
        if push is None:
            push = _pushes[loop] = Push()
        return push

    def up(self, receiver: _Above, parts: Sequence[PartTuple]) -> None:
        """Call ``receiver.received(parts)``, then let run whom it woke.

        Only from a callback of the loop, never from inside a downward call.

        Args:
            receiver: The layer above.
            parts: One read.

        Raises:
            Exception: Whatever a layer above lets escape. Tasks that were
                woken keep theirs to themselves.
        """
        self.open = True
        try:
            receiver.received(parts)
        finally:
            self.open = False
            woken = self.woken
            while woken:
                woken.popleft().run()


_pushes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Push] = weakref.WeakKeyDictionary()

_IDLE: Final = 0
_WAITING: Final = 1
_FIRED: Final = 2
_CANCELLED: Final = 3


class Signal:
    """What one task at a time awaits until it is woken; can be used again and again.

    To the task it is a future: it is cancelled like one, and has no result.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_loop",
        "_message",
        "_push",
        "_state",
        "_wakeup",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._push = Push.of(loop)
        self._asyncio_future_blocking = False
        self._state = _IDLE
        self._wakeup: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._message: Any = None

    def __await__(self) -> Generator[Any, Any, None]:
        self._state = _WAITING
        self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self._wakeup = self._context = None
        self.result()

    def set_result(self, result: None) -> None:
        """Wake whoever waits, once."""
        self._state = _FIRED
        if self._push.open:
            self._push.woken.append(self)
        elif self._wakeup is not None:
            self._loop.call_soon(self._wakeup, self, context=self._context)

    def run(self) -> None:
        """Let the task that was woken take its step now. For :class:`Push`."""
        wakeup, context = self._wakeup, self._context
        if wakeup is None or context is None:
            return
        try:
            context.run(wakeup, self)
        except RuntimeError:
            # Not from a callback of the loop: another task, or this very context, is
            # in the middle of something.
            self._loop.call_soon(wakeup, self, context=context)
        except (KeyboardInterrupt, SystemExit) as error:
            # These leave the loop, but a transport of uvloop would keep them.
            self._loop.call_soon(_leave, error)

    # What a task asks of a future.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Where its tasks run."""
        return self._loop

    def done(self) -> bool:
        """Whether it was woken or cancelled."""
        return self._state >= _FIRED

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state == _CANCELLED

    def result(self) -> None:
        """Nothing.

        Raises:
            CancelledError: It was cancelled.
        """
        if self._state == _CANCELLED:
            raise (
                asyncio.CancelledError()
                if self._message is None
                else asyncio.CancelledError(self._message)
            )

    def cancel(self, msg: Any = None) -> bool:
        """Wake the task with a CancelledError; False if it was woken already."""
        if self._state != _WAITING:
            return False
        self._state = _CANCELLED
        self._message = msg
        if self._wakeup is not None:
            self._loop.call_soon(self._wakeup, self, context=self._context)
        return True

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Of the task that awaits it, which is the only one."""
        self._wakeup = callback
        self._context = context

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Undo :meth:`add_done_callback`."""
        if self._wakeup is not callback:
            return 0
        self._wakeup = None
        return 1


def _leave(error: BaseException) -> None:
    raise error
