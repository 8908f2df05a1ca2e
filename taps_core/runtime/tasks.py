"""Tasks with an owner, and waiting for those that must be seen to their end."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

__all__ = ["Team", "until_done"]


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
