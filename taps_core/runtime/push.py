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
        #: Whom it woke, first come first served: how to let the task run, and where.
        self.woken: deque[tuple[Signal, Callable[[Any], object], Context]] = deque()

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Push:
        """The one of ``loop``."""
        global _latest
        known, push = _latest
        if known() is not loop:
            push = _pushes.get(loop) or Push()
            _pushes[loop] = push
            _latest = weakref.ref(loop), push
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
                signal, wakeup, context = woken.popleft()
                try:
                    context.run(wakeup, signal)
                except RuntimeError:
                    # Not from a callback of the loop: another task, or this very
                    # context, is in the middle of something.
                    signal._loop.call_soon(wakeup, signal, context=context)
                except (KeyboardInterrupt, SystemExit) as error:
                    # These leave the loop, but a transport of uvloop would keep them.
                    signal._loop.call_soon(_leave, error)


_pushes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Push] = weakref.WeakKeyDictionary()

#: The one that was asked for last: nearly always the only one.
_latest: tuple[Callable[[], asyncio.AbstractEventLoop | None], Push] = (lambda: None), Push()

#: Does nothing, and is no Python function: a task asks for a result each time.
_no_result: Final[Callable[[], object]] = [].clear


class Signal:
    """What one task at a time awaits until it is woken; can be used again and again.

    To the task it is a future: it is cancelled like one, and has no result. It is
    on the way of every Message that somebody waits for, so it has only what a task
    asks for, and most of that costs no Python call. (Without ``get_loop`` a task
    reads ``_loop``.)
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_loop",
        "_message",
        "_push",
        "_wakeup",
        "handed",
        "result",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, push: Push | None = None) -> None:
        self._loop = loop
        self._push = push or Push.of(loop)
        self._asyncio_future_blocking = False
        # Of the task that waits; None while none does, and once it was woken.
        self._wakeup: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._message: Any = None
        #: What whoever waits is woken with; of no concern to the task.
        self.handed: Any = None
        #: Raises CancelledError if the wait was cancelled.
        self.result: Callable[[], object] = _no_result

    def __await__(self) -> Generator[Any, Any, None]:
        self._asyncio_future_blocking = True
        return iter((self,))  # type: ignore[return-value]  # gives itself once, as a future does

    def fire(self) -> None:
        """Wake whoever waits, if it was neither woken nor cancelled yet."""
        wakeup = self._wakeup
        if wakeup is None:
            return
        self._wakeup = None
        push = self._push
        if push.open:
            push.woken.append((self, wakeup, self._context))  # type: ignore[arg-type]  # set with _wakeup
        else:
            self._loop.call_soon(wakeup, self, context=self._context)

    # What a task asks of a future.

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Of the task that awaits it, which is the only one."""
        self._wakeup = callback
        self._context = context

    def cancel(self, msg: Any = None) -> bool:
        """Wake the task with a CancelledError; False if it was woken already."""
        wakeup = self._wakeup
        if wakeup is None:
            return False
        self._wakeup = None
        self._message = msg
        self.result = self._raise_cancelled
        self._loop.call_soon(wakeup, self, context=self._context)
        return True

    def _raise_cancelled(self) -> None:
        self.result = _no_result
        message = self._message
        raise asyncio.CancelledError() if message is None else asyncio.CancelledError(message)


def _leave(error: BaseException) -> None:
    raise error
