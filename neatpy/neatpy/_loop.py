"""The event loop that all Preconnections of a process share, and what is open on it.

Nothing happens before it runs: what ``initiate()`` and ``listen()`` ask for before waits here, so
that handlers can be assigned. ``start()`` runs it. Where another loop of asyncio's runs already,
Connections and Listeners live on that one, and ``start()`` has nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import taps_core as taps

__all__ = ["Work", "begin", "run"]

logger = logging.getLogger("neatpy")

#: Seconds that what was sent may take to be delivered once the loop is to stop, and that peers
#: then have for closing on their side.
DELIVERY: Final = 10.0
FAREWELL: Final = 1.0
#: Seconds between two looks at what is delivered.
LOOK: Final = 0.05


class Open(Protocol):
    """A Connection or a Listener that has not ended."""

    def _wind_up(self) -> None:
        """End in order."""

    def _break_off(self) -> None:
        """End at once."""

    @property
    def _undelivered(self) -> bool:
        """Whether something that was sent has not reached the peer, as far as is known."""


class Work:
    """What is open on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[Open] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._systems: set[taps.System] = set()
        #: Those that are to end, and whether that was all.
        self._ending: set[Open] = set()
        self._over = False
        self._changed = asyncio.Event()

    @staticmethod
    def here() -> Work:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        work = _works.get(loop)
        if work is None:
            work = _works[loop] = Work()
        return work

    def enter(self, opened: Open, system: taps.System) -> None:
        """It is open from now on."""
        self._open.add(opened)
        self._systems.add(system)

    def leave(self, ended: Open) -> None:
        """It has ended, and its handlers were told."""
        self._open.discard(ended)
        self._changed.set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is not forgotten."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):  # SystemExit and its like have left the loop already
            self._loop.call_exception_handler(
                {"message": "NEATPy's own mistake", "exception": error, "task": task}
            )

    def stop(self) -> None:
        """End everything in order; then the loop stops, if it is ours."""
        ending = self._open - self._ending
        self._ending |= ending
        for each in ending:
            each._wind_up()
        _ = self.spawn(self._wind_up(ending))

    async def _wind_up(self, ending: set[Open]) -> None:
        try:
            await self._delivered(ending)
        finally:
            for each in ending & self._open:
                each._break_off()
        while ending & self._open:
            await self._next_change()
        self._ending -= ending
        # What handlers have begun since is not waited for.
        self._over = True
        self._changed.set()

    async def _delivered(self, ending: set[Open]) -> None:
        now = self._loop.time()
        deadline, farewell = now + DELIVERY, now + FAREWELL
        while left := ending & self._open:
            now = self._loop.time()
            if now >= deadline:
                logger.warning("not everything was delivered %g s after stop()", DELIVERY)
                return
            if any(each._undelivered for each in left):
                farewell = now + FAREWELL
            elif now >= farewell:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._next_change()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def until_over(self) -> None:
        """Until everything has ended, by itself or by ``stop()``."""
        self._over = False
        while self._open and not self._over:
            await self._next_change()

    async def close(self) -> None:
        """End what is left at once, and wait until it is gone."""
        for each in list(self._open):
            each._break_off()
        while tasks := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=FAREWELL)
            for task in tasks:
                task.cancel()
        for system in self._systems:
            await system.close()


_works: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Work]] = (
    weakref.WeakKeyDictionary()
)
#: What was asked for while no loop ran.
_waiting: Final[list[Callable[[], None]]] = []


def begin(action: Callable[[], None]) -> None:
    """Do it on the loop: now, if that runs, else as soon as it does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _waiting.append(action)
    else:
        action()


def run() -> None:
    """Run the loop until all that was asked for has ended, or ``stop()`` was called.

    From a handler it does nothing: the loop runs.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            runner.run(_main())


async def _main() -> None:
    work = Work.here()
    try:
        actions = list(_waiting)
        _waiting.clear()
        for action in actions:
            action()
        await work.until_over()
    finally:
        await work.close()
