"""What ``send`` returns: awaitables that cost nothing while the stack takes data.

``send`` is a plain function; its result is typed as a coroutine so that type
checkers notice a forgotten await and ``asyncio.create_task`` takes it. Like a
coroutine's it can be awaited by one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from taps_core.runtime.outbox import Entry, Outbox

__all__ = [
    "CREDIT",
    "DONE",
    "PER_OPERATION",
    "ROUNDS",
    "TURN",
    "TURN_OPERATION",
    "SendOutcome",
    "YieldOnce",
    "afresh",
]

E = TypeVar("E", bound=BaseException)

#: Work of one Connection without a real wait: 64 KiB, or 128 operations; a small one
#: counts for 512 bytes. Whoever finds nothing left lets the loop run.
CREDIT: Final = 64 * 1024
PER_OPERATION: Final = 512
#: Large Messages may use up so many credits in one turn, while they are fewer than 128:
#: a turn of the loop costs as much as copying 64 KiB.
ROUNDS: Final = 4
#: The same, counted together: 256 KiB, or 128 operations of 2 KiB.
TURN: Final = ROUNDS * CREDIT
TURN_OPERATION: Final = ROUNDS * PER_OPERATION


# An exhausted iterator stays exhausted, so every ``await`` may share it.
_EXHAUSTED: Final[Any] = iter(())


class _Done(Coroutine[Any, Any, None]):
    """Finished already. One object serves every Send that was taken at once."""

    __slots__ = ()

    __await__ = _EXHAUSTED.__iter__  # gives the iterator itself, and is no Python function

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


#: The outcome of a Send that the stack took at once.
DONE: Final = _Done()


class YieldOnce(Coroutine[Any, Any, None]):
    """Done, but lets the loop run once: timeouts fire, gathered writes leave.

    Args:
        rested: Called when it has.
    """

    __slots__ = ("_rested", "_yielded")

    def __init__(self, rested: Callable[[], None]) -> None:
        self._rested = rested
        self._yielded = False

    def __await__(self) -> Generator[Any, Any, None]:
        yield
        self._rested()

    def send(self, value: Any) -> None:
        """As of a coroutine: yields once, then is done."""
        if self._yielded:
            self._rested()
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

    Args:
        outbox: Where the Send waits.
        entry: The Send.
        rest: Lets the loop run once even if the fate is known already.
    """

    __slots__ = ("_entry", "_outbox", "_rest", "_wait")

    def __init__(self, outbox: Outbox, entry: Entry, rest: bool = False) -> None:
        self._outbox = outbox
        self._entry = entry
        self._rest = rest
        self._wait: Generator[Any, Any, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        entry = self._entry
        entry.handled = True
        if not entry.done:
            if entry.future is not None:
                raise RuntimeError("this Send is being awaited already")
            entry.future = asyncio.get_running_loop().create_future()
            try:
                yield from entry.future
            except asyncio.CancelledError:
                self._outbox.withdraw(entry)
                raise
            finally:
                entry.future = None
        elif self._rest:
            self._rest = False
            yield
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
            self._entry.handled = True
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
        if entry.done and entry.error is not None:
            entry.handled = True
            raise entry.error

    def close(self) -> None:
        """Stop waiting; the Send goes on."""
        if self._wait is not None:
            self._wait.close()

    def __del__(self) -> None:
        entry = self._entry
        if not entry.handled:
            entry.dropped = True
            if entry.error is not None:
                self._outbox.unhandled(entry.error)


def afresh(error: E) -> E:
    """An error of the same content: whoever is told has an exception of its own.

    One that is raised twice would carry the traceback of both.
    """
    # Not through the constructor: a plugin's own class may want other arguments.
    again = type(error).__new__(type(error), *error.args)
    again.args = error.args
    again.__dict__.update(error.__dict__)
    if isinstance(error, OSError) and isinstance(again, OSError):
        again.errno, again.strerror = error.errno, error.strerror  # kept elsewhere
    again.__cause__ = error.__cause__
    return again
