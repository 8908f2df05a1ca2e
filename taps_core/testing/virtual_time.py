"""An event loop on virtual time: its clock goes on when nothing else is left to do.

``time()`` begins at 0.0 and stands still while anything is ready to run. When
nothing is, it jumps to the next timer. So ``asyncio.sleep``, ``timeout``,
``wait_for`` and ``call_at`` cost no real time, and what they say is exact.
Timers for the same time run in the order in which they were set.

What really happens elsewhere cannot be jumped over:

* Work in threads (``run_in_executor``, ``to_thread``, ``getaddrinfo``) stops the
  clock until it is done. Threads that the loop was not told of are not waited for.
* Sockets, pipes and subprocesses have no place here: waiting for one is a
  RuntimeError that says so.

Nothing ready, no timer and no thread means that nothing will ever happen again:
that is a :class:`DeadlockError`, at once, with what each task waits for.

Three private names of asyncio's loop are used: its heap of timers, a timer's
flag for being in there, and the clock's resolution. A selector alone would do,
since it is told how long it may wait; but that is a difference, and adding it to
the time leaves a rounding error, so that times would not be exact.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable
    from concurrent.futures import Executor

__all__ = ["DeadlockError", "VirtualClockLoop", "waiting"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Real seconds that work in threads may take. Only what is broken takes so long.
PATIENCE: Final = 60.0


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set: nothing will ever happen again.

    Attributes:
        waiting: A sentence for each task: its name, and where it waits.
    """

    def __init__(self, message: str, waiting: list[str]) -> None:
        super().__init__("\n- ".join([message, *waiting]))
        self.waiting = waiting


class _Timer(asyncio.TimerHandle):
    """A timer with a place among those for the same time."""

    __slots__ = ("key",)

    def __init__(self, place: int, when: float, *how: Any) -> None:
        super().__init__(when, *how)
        self.key = when, place

    def __lt__(self, other: _Timer) -> bool:  # type: ignore[override]  # no others are made
        return self.key < other.key


class _Clockwork(selectors.DefaultSelector):
    """Where the loop comes when nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualClockLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the first is the loop's own pipe
            raise RuntimeError(
                "nothing real can be waited for on a virtual clock (a socket, a pipe, a "
                "subprocess): use the virtual network, or run without a virtual clock"
            )
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Signals and other threads come by the loop's own pipe.
        came = super().select(0)
        if came or (timeout is not None and timeout <= 0) or self.loop is None:
            return came
        if self.loop.waits_for_threads:
            came = super().select(PATIENCE)
            if not came:
                raise DeadlockError(
                    f"work in a thread goes on after {PATIENCE:g} real seconds; waiting:",
                    waiting(self.loop),
                )
            return came
        self.loop.jump()
        return []


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on virtual time; see the module.

    Args:
        limit: Time at which it has hung: jumping beyond raises TimeoutError
            from ``run_until_complete``, once. ``math.inf``: never.

    Attributes:
        jumps: How often the clock went on: what virtual time costs.
    """

    _scheduled: list[_Timer]

    def __init__(self, limit: float = math.inf) -> None:
        self.jumps = 0
        self._now = 0.0
        self._limit = limit
        self._places = 0
        self._threads: set[asyncio.Future[Any]] = set()
        clockwork = _Clockwork()
        super().__init__(clockwork)
        clockwork.loop = self
        self._clock_resolution = math.ulp(0.0)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    @property
    def waits_for_threads(self) -> bool:
        """Whether work goes on in threads, so that the clock stands still."""
        return bool(self._threads)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Like ``call_later``, at a time of this clock; first come, first served."""
        if when is None:
            raise TypeError("when cannot be None")
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        self._places += 1
        timer = _Timer(self._places, when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]  # noqa: SLF001  # see the module
        return timer

    def jump(self) -> None:
        """Go on to the next timer. Called by the loop when nothing is ready.

        Raises:
            DeadlockError: There is none.
            TimeoutError: It is beyond the limit.
        """
        when = self._scheduled[0].when() if self._scheduled else math.inf
        if when == math.inf:
            raise DeadlockError(
                f"deadlock at {self._now:g} s: nothing is ready and no timer is set; waiting:",
                waiting(self),
            )
        if when > self._limit:
            limit, self._limit = self._limit, math.inf  # what is cancelled now may take its time
            raise TimeoutError(
                "\n- ".join([f"not done after {limit:g} virtual seconds; waiting:", *waiting(self)])
            )
        self.jumps += 1
        self._now = max(self._now, when)
        # What the loop adds to the time when it looks for timers that are due: the
        # least that makes a difference, so that none runs early, and none never.
        self._clock_resolution = math.ulp(self._now)

    # -- work in threads

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run in a thread; the clock waits for it."""
        future = super().run_in_executor(executor, func, *args)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        return future

    async def shutdown_default_executor(self, *how: Any, **more: Any) -> None:
        """Wait for its threads, which end in real time."""
        ending: asyncio.Future[Any] = self.create_future()
        self._threads.add(ending)
        try:
            await super().shutdown_default_executor(*how, **more)
        finally:
            self._threads.discard(ending)


def waiting(loop: asyncio.AbstractEventLoop) -> list[str]:
    """A sentence for each task that is not done: its name, and where it waits."""
    return sorted(f"{task.get_name()}: {_where(task)}" for task in asyncio.all_tasks(loop))


def _where(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines that await each other, with the lines where they do."""
    places = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            break
        code = frame.f_code
        file = code.co_filename.replace("\\", "/").rpartition("/")[2]
        places.append(f"{code.co_qualname} ({file}:{frame.f_lineno})")
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")
    return " → ".join(places) or repr(task.get_coro())


def _first(thing: Any, *names: str) -> Any:
    """The first of these attributes that it has, ``None`` without any."""
    return next((getattr(thing, name) for name in names if hasattr(thing, name)), None)
