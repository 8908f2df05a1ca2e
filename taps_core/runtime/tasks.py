"""Waiting for tasks that must be seen to their end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["until_done"]


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
