"""Tasks with an owner, waiting for those that must be seen to their end, and work without one."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable

__all__ = ["Interruptible", "Team", "until_done"]


class Team:
    """Tasks of one owner; each leaves when it is over.

    Attributes:
        tasks: Those that run.
    """

    __slots__ = ("__weakref__", "_context", "_leave", "tasks")

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        # The same for all: a bound method and a copied context for each task would
        # weigh as much as the task, and a Listener has one for each Connection.
        self._leave = self.tasks.discard
        self._context = contextvars.Context()

    def spawn(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, None],
        name: str | None = None,
    ) -> asyncio.Task[None]:
        """A further task, in a copy of the caller's context."""
        task = loop.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._leave, context=self._context)
        return task


async def until_done(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for all of them, also while being cancelled; then be cancelled.

    Cancels nothing itself. What the tasks return or raise stays theirs.

    Raises:
        CancelledError: When all are done, if the caller was cancelled meanwhile.
    """
    cancelled: asyncio.CancelledError | None = None
    tasks = list(tasks)
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class Interruptible:
    """Work that is done by whoever awaits it, in a task of theirs, and that others can end.

    They do not cancel the task for that, which is its owner's business: what the work waits
    for is cancelled, and the work meets a CancelledError. It is done in a copy of the context
    in which this was made, as in a task that had been made then.

    Args:
        begin: Makes the coroutine, once it is awaited for the first and only time.
        loop: Where it will be awaited; ``None``: looked up then.
    """

    __slots__ = (
        "_awaited",
        "_before",
        "_begin",
        "_context",
        "_for_good",
        "_interrupted",
        "_loop",
        "_over",
        "_pending",
        "_task",
    )

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, None]],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._begin: Callable[[], Coroutine[Any, Any, None]] | None = begin
        self._loop = loop
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None
        #: How often the task had been cancelled when it began with this.
        self._before = 0
        #: What it waits for.
        self._awaited: Any = None
        self._interrupted = self._for_good = False
        #: Interrupted, and has not met it yet.
        self._pending = False
        #: Who waits for its end; ``None`` once it has come.
        self._over: list[asyncio.Future[None]] | None = []

    @property
    def begun(self) -> bool:
        """Whether somebody does it, or has done it."""
        return self._begin is None

    @property
    def cancelled(self) -> bool:
        """Whether the task that does it was cancelled meanwhile."""
        return self._task is not None and self._task.cancelling() > self._before

    @property
    def ended(self) -> bool:
        """Whether a CancelledError comes of :meth:`interrupt` or of the task."""
        return self._interrupted or self.cancelled

    def interrupt(self, *, for_good: bool = True) -> None:
        """Let it meet a CancelledError where it waits, or where it will wait next.

        Args:
            for_good: It is to end; else it may go on, see :meth:`resumed`.
        """
        self._interrupted = self._pending = True
        self._for_good = self._for_good or for_good
        if self._awaited is not None:
            self._awaited.cancel()

    def resumed(self) -> bool:
        """It has met a CancelledError and would go on; whether it may."""
        if not self._interrupted or self._for_good or self.cancelled:
            return False
        self._interrupted = False
        return True

    async def over(self) -> None:
        """Until it is done, if it was begun at all."""
        if self._begin is None and self._over is not None:
            waiter = asyncio.get_running_loop().create_future()
            self._over.append(waiter)
            await waiter

    def __await__(self) -> Generator[Any, Any, None]:
        begin, self._begin = self._begin, None
        assert begin is not None, "it is done once"
        task = self._task = asyncio.current_task(self._loop)
        if task is not None:
            self._before = task.cancelling()
        run = self._context.run
        work = run(begin)
        error: BaseException | None = None
        try:
            while True:
                if self._pending:
                    self._pending = False
                    if error is None or isinstance(error, Exception):
                        # What it waited for had come before it could be cancelled.
                        error = asyncio.CancelledError()
                if error is None:
                    self._awaited = run(work.send, None)
                else:
                    self._awaited = run(work.throw, error)
                if not self._pending:  # by what it did itself
                    try:
                        yield self._awaited
                        error = None
                    except BaseException as raised:  # noqa: BLE001  # the work's to deal with
                        error = raised
                self._awaited = None
        except StopIteration:
            return
        except asyncio.CancelledError:
            if not self._interrupted or self.cancelled:
                raise
        finally:
            self._awaited = None
            waiters, self._over = self._over, None
            for waiter in waiters or ():
                if not waiter.done():
                    waiter.set_result(None)
