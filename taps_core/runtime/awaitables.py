"""What ``send`` returns: awaitables that cost nothing while the stack takes data.

``send`` is a plain function; its result is typed as a coroutine so that type
checkers notice a forgotten await and ``asyncio.create_task`` takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from types import TracebackType

    from taps_core.runtime.outbox import Entry, Outbox

__all__ = ["DONE", "SendOutcome", "YieldOnce"]


class _Done(Coroutine[Any, Any, None]):
    """Finished already. One object serves every Send that was taken at once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return _EXHAUSTED  # type: ignore[no-any-return]  # a tuple's iterator does as a generator

    def send(self, value: Any) -> NoReturn:
        raise StopIteration

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> NoReturn:
        raise _thrown(typ, val)

    def close(self) -> None:
        """Nothing to undo."""


def _thrown(typ: Any, val: BaseException | object) -> BaseException:
    """The exception of a coroutine's ``throw``, in its old and its new form."""
    if isinstance(typ, BaseException):
        return typ
    return val if isinstance(val, BaseException) else typ()


def _nothing() -> Generator[Any, Any, None]:
    return
    yield


# An exhausted iterator stays exhausted, so every ``await`` may share it.
_EXHAUSTED: Final[Any] = iter(())
#: The outcome of a Send that the stack took at once.
DONE: Final = _Done()


class YieldOnce(Coroutine[Any, Any, None]):
    """Done, but lets the loop run once: timeouts fire, gathered writes leave."""

    __slots__ = ("_yielded",)

    def __init__(self) -> None:
        self._yielded = False

    def __await__(self) -> Generator[Any, Any, None]:
        yield

    def send(self, value: Any) -> None:
        """As of a coroutine: yields once, then is done."""
        if self._yielded:
            raise StopIteration
        self._yielded = True

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> NoReturn:
        """As of a coroutine: there is nothing to undo."""
        self._yielded = True
        raise _thrown(typ, val)

    def close(self) -> None:
        """Nothing to undo."""
        self._yielded = True


class SendOutcome(Coroutine[Any, Any, None]):
    """The fate of one Send that was not taken at once, or that failed.

    Awaiting it waits for Sent and raises SendError or Expired. Cancelling the
    wait withdraws the Message if no byte of it has left.
    """

    __slots__ = ("_entry", "_outbox", "_wait")

    def __init__(self, outbox: Outbox, entry: Entry) -> None:
        self._outbox = outbox
        self._entry = entry
        self._wait: Generator[Any, Any, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        entry = self._entry
        entry.awaited = True
        if not entry.done:
            entry.future = asyncio.get_running_loop().create_future()
            try:
                yield from entry.future
            except asyncio.CancelledError:
                self._outbox.withdraw(entry)
                raise
            finally:
                entry.future = None
        if entry.error is not None:
            raise entry.error

    def send(self, value: Any) -> Any:
        """As of a coroutine: a task drives it by this."""
        if self._wait is None:
            self._wait = self.__await__()
        return self._wait.send(value)

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """As of a coroutine: a task is cancelled by this."""
        error = _thrown(typ, val)
        if self._wait is None:
            # Cancelled before its first step: the generator would not notice.
            self._entry.awaited = True
            self._outbox.withdraw(self._entry)
            self._wait = _nothing()
            self._wait.close()
            raise error
        return self._wait.throw(error)

    def raise_if_refused(self) -> None:
        """For whoever will not await: raise now if the Send was refused outright.

        Raises:
            SendError: Nothing of it was sent.
        """
        entry = self._entry
        entry.awaited = True
        if entry.done and entry.error is not None:
            raise entry.error

    def close(self) -> None:
        """Stop waiting; the Send goes on."""
        if self._wait is not None:
            self._wait.close()

    def __del__(self) -> None:
        entry = self._entry
        if not entry.awaited:
            entry.dropped = True
            if entry.error is not None:
                self._outbox.unhandled(entry.error)
