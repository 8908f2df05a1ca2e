"""The cancellation sweep: cancel a coroutine everywhere it can be cancelled, each time anew.

Code that waits can be cancelled wherever it waits, and each place is a path
that no other test takes. A sweep takes them all: it runs a scenario, cancels
the coroutine under test at step 1; runs it again, cancels at step 2; and so on
until the coroutine ends before its time has come.

What a step is: a task can only be cancelled by another callback of the loop,
so «before the n-th callback that the loop runs» reaches every moment at which
the outside may do it, the one included in which the coroutine has its result
but has not run yet. That is where Messages get lost. Input and output are no
callbacks of that kind, so «the moment it waits for the n-th time» adds the
places where it waits for a socket, and those inside of one callback.
Both are counted, never timed: the same scenario takes the same steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.testing.aio import run

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Iterator

    from taps_core.testing.aio import LoopName
    from taps_core.testing.memory import MemoryNetwork

__all__ = ["Cancellation", "Scenario", "SweepError", "sweep"]

#: Turns of the loop between the end of the coroutine and the scenario's check: a
#: peer in memory has heard of it then.
_GRACE_TURNS = 20

#: Makes the world for one run, gives what makes the coroutine under test, and
#: looks at what is left when it has ended.
Scenario: TypeAlias = Callable[[], AbstractAsyncContextManager[Callable[[], Awaitable[Any]]]]


class Cancellation(enum.Enum):
    """How the coroutine is cancelled, and what the steps are."""

    CANCEL = "cancel"
    """``task.cancel()`` before the n-th callback that the loop runs."""
    TIMEOUT = "timeout"
    """``asyncio.timeout`` around it is over then."""
    TWICE = "twice"
    """``task.cancel()`` the moment it waits for the n-th time, and again the moment
    it waits for the m-th time while it cleans up, for every n and m."""


class SweepError(AssertionError):
    """The coroutine did not end as it has to when it is cancelled."""


def sweep(
    scenario: Scenario,
    *networks: MemoryNetwork,
    loop: LoopName = "asyncio",
    cancellations: Iterable[Cancellation] = tuple(Cancellation),
    timeout: float | None = 60.0,
) -> int:
    """Run ``scenario`` again and again, its coroutine cancelled one step later each time.

    ::

        @contextlib.asynccontextmanager
        async def receiving():
            async with a_pair() as (client, server):
                await server.send(b"hello")
                got = []

                async def receive():
                    got.append(await client.receive())

                yield receive
                # Cancelled or not: the Message was received once.
                assert got or (await client.receive()).data == b"hello"

        sweep(receiving)

    The scenario is an async context manager. Entering it makes everything anew
    and gives what is called to make the coroutine under test (or another
    awaitable). That one must come to an end without being cancelled, too: the
    first run lets it. When it has ended, and the loop has run a little, the
    scenario goes on behind its ``yield``: the place for what must hold whether
    it was cancelled or not. Its own failures are failures of the sweep.

    Each run is one of :func:`~taps_core.testing.run`: strict, on a loop of its
    own, and nothing may be left. Besides, the coroutine must end as cancelled
    once it was cancelled: returning or raising something else is a failure.

    Args:
        scenario: Makes the async context manager for one run.
        *networks: On which no flow and no listener may be left after any run.
        loop: Whose event loop.
        cancellations: In which ways; each is a sweep of its own.
        timeout: Seconds after which one run has hung.

    Returns:
        How many runs were cancelled.

    Raises:
        SweepError: It was cancelled and did not end so.
        Exception: What a run raised, with a note that says at which step it was.
    """

    def one(trial: _Trial) -> None:
        async def main() -> None:
            async with scenario() as act:
                await trial.run(act)
                for _ in range(_GRACE_TURNS):
                    await asyncio.sleep(0)

        try:
            run(main, *networks, loop=loop, timeout=timeout)
        except BaseException as error:
            error.add_note(f"sweep: {trial}")
            raise

    one(_Trial(None))
    count = 0
    for cancellation in cancellations:
        step = again = 1
        while True:
            trial = _Trial(cancellation, step, again)
            one(trial)
            if not trial.cancelled:
                break
            count += 1
            if trial.cancelled_again:
                again += 1
            else:
                step, again = step + 1, 1
    return count


class _Trial:
    """One run of the coroutine, cancelled at one step.

    Attributes:
        cancelled: The step came before the coroutine had ended.
        cancelled_again: So did that of the second cancellation.
    """

    def __init__(self, cancellation: Cancellation | None, step: int = 0, again: int = 0) -> None:
        self.cancelled = False
        self.cancelled_again = False
        self._cancellation = cancellation
        self._step = step
        self._again = again
        self._where = ""
        self._task: asyncio.Task[Any] | None = None
        self._watched: _Watched | None = None
        self._scope: asyncio.Timeout | None = None

    def __str__(self) -> str:
        match self._cancellation:
            case None:
                return "not cancelled"
            case Cancellation.TWICE:
                text = f"cancelled at wait {self._step}"
            case Cancellation.TIMEOUT:
                text = f"timed out before callback {self._step} of the loop"
            case Cancellation.CANCEL:
                text = f"cancelled before callback {self._step} of the loop"
        if not self.cancelled:
            return f"to be {text}, which did not come"
        if self.cancelled_again:
            text += f" and at wait {self._again} after that"
        return f"{text}: {self._where}"

    async def run(self, act: Callable[[], Awaitable[Any]]) -> None:
        """Let it run to its end, and look how it ended."""
        loop = asyncio.get_running_loop()
        made = act()
        coroutine = made if isinstance(made, Coroutine) else _await(made)
        if self._cancellation is Cancellation.TIMEOUT:
            coroutine = self._timed(coroutine)
        self._watched = _Watched(coroutine, self._waits)
        with _counted(loop, self._callback):
            self._task = loop.create_task(self._watched, name="under test")
            await asyncio.wait([self._task])
        if self._scope is not None:
            self.cancelled = self._scope.expired()
        task = self._task
        # Nothing of the run is to outlive it here.
        self._task = self._watched = self._scope = None
        self._judge(task)

    def _judge(self, task: asyncio.Task[Any]) -> None:
        if not self.cancelled:
            task.result()
            return
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TimeoutError) and self._cancellation is Cancellation.TIMEOUT:
            return
        how = f"returned {task.result()!r}" if error is None else f"raised {error!r}"
        raise SweepError(f"it was cancelled, and {how}") from error

    async def _timed(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        # None: the step may have come before it began.
        deadline = 0 if self.cancelled else None
        async with asyncio.timeout(deadline) as self._scope:
            return await coroutine

    def _callback(self, number: int) -> None:
        """The loop is about to run a callback."""
        if number == self._step and self._cancellation in (
            Cancellation.CANCEL,
            Cancellation.TIMEOUT,
        ):
            self._cancel()

    def _waits(self, number: int) -> None:
        """It waits; the number begins anew when it is cancelled."""
        if self._cancellation is not Cancellation.TWICE:
            return
        if not self.cancelled and number == self._step:
            self._cancel()
            assert self._watched is not None
            self._watched.waits = 0
        elif self.cancelled and not self.cancelled_again and number == self._again:
            assert self._task is not None
            self.cancelled_again = self._task.cancel()

    def _cancel(self) -> None:
        task = self._task
        assert task is not None
        assert self._watched is not None
        if task.done():
            return
        self._where = self._watched.where()
        if self._cancellation is not Cancellation.TIMEOUT:
            self.cancelled = task.cancel()
            return
        self.cancelled = True
        if self._scope is not None:
            self._scope.reschedule(0)


class _Watched(Coroutine[Any, Any, Any]):
    """Tells each time the coroutine waits. To its task it is the coroutine itself."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], told: Callable[[int], None]) -> None:
        self._coroutine = coroutine
        self._told = told
        self.waits = 0

    def where(self) -> str:
        """Where it waits, from the outside in."""
        places: list[str] = []
        inner: Any = self._coroutine
        while inner is not None:
            frame: types.FrameType | None
            frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
            if frame is not None and frame.f_code.co_filename != __file__:
                code = frame.f_code
                name = code.co_qualname.rpartition("<locals>.")[2]
                places.append(f"{name} ({PurePath(code.co_filename).name}:{frame.f_lineno})")
            inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
        return "in " + " → ".join(places) if places else f"in {self._coroutine!r}"

    def send(self, value: Any) -> Any:
        """A step of it."""
        return self._waiting(self._coroutine.send(value))

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """A step that begins with an exception."""
        # The form with three arguments is the one that is going away.
        error = typ if val is None else val
        return self._waiting(self._coroutine.throw(error))

    def close(self) -> None:
        """As of a coroutine."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def _waiting(self, what: Any) -> Any:
        self.waits += 1
        self._told(self.waits)
        return what


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@contextlib.contextmanager
def _counted(loop: asyncio.AbstractEventLoop, told: Callable[[int], None]) -> Iterator[None]:
    """Call ``told(n)`` before the n-th callback that is given to the loop inside.

    All steps of tasks and all callbacks of futures go this way, on each loop.
    An attribute of the loop at hand serves for those of every make.
    """
    call_soon = loop.call_soon
    number = 0

    def step(callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        nonlocal number
        number += 1
        told(number)
        callback(*arguments)

    def counting(
        callback: Callable[..., object], *arguments: Any, context: Any = None
    ) -> asyncio.Handle:
        return call_soon(step, callback, arguments, context=context)

    loop.call_soon = counting  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        del loop.call_soon  # the method is there again
