"""The race driver: performs on asyncio what the planner decides.

Rules it keeps (RFC 9623, section 4.4; design of this library):

* losers are cancelled *and* over before the winner is handed out;
* cancelling the race leaves no task, no timer and no flow behind;
* one attempt's failure, a plugin's bug included, ends that attempt only, and
  every error is kept.

Where there is one leaf there is no race, and :func:`only` is all it takes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from taps_core.model.errors import EstablishmentError, Reason, TapsError
from taps_core.model.flow import Flow
from taps_core.model.reports import Attempt
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Sequence,
    )
    from typing import TypeAlias

    from taps_core.planning.candidates import Leaf
    from taps_core.planning.race import RacePlanner
    from taps_core.runtime.tasks import Interruptible

    MakeAttempt: TypeAlias = Callable[[Leaf], Awaitable[Flow]]
    LateTask: TypeAlias = asyncio.Task[Iterable[Leaf] | None]
    Changed: TypeAlias = Callable[[Attempt], object]

__all__ = ["Late", "common", "failure", "is_transient", "only", "race", "unfinished"]

T = TypeVar("T")

logger = logging.getLogger("taps_core")

#: Seconds that a flow which came too late may take to say that it is closed.
#: It is local work of one loop turn; the bound is for plugins that never say it.
LATE_FLOW_GRACE: Final = 1.0

#: Errors of the system that may be gone at the next try. What is missing is
#: a matter of configuration or permission and stays as it is.
_TRANSIENT: Final = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)


class Late(Protocol):
    """Leaves that become known while the race runs; an asynchronous generator is one."""

    def __aiter__(self) -> AsyncIterator[Iterable[Leaf]]:
        """Itself."""

    def __anext__(self) -> Awaitable[Iterable[Leaf]]:
        """The next ones."""

    def aclose(self) -> Coroutine[Any, Any, None]:
        """No more are wanted; returns when nothing of it is left."""


def _unwatched(_: Attempt) -> None:
    """Nobody wants to know."""


async def race(
    planner: RacePlanner,
    attempt: MakeAttempt,
    *,
    late: Late | None = None,
    changed: Changed = _unwatched,
) -> tuple[Leaf, Flow]:
    """Make attempts until one succeeds.

    Args:
        planner: Not started. Its ``attempts`` are the report, live.
        attempt: Makes one attempt; returns an established, unstarted flow.
            Cancelling it leaves nothing behind.
        late: Gives further leaves as they become known, and ends; closed in
            any case. With a planner that expects more, and only then. An
            ``OSError`` or ``TapsError`` of it, or a group of them, is kept and ends it
            as well.
        changed: Told of each attempt that began or ended.

    Returns:
        The winner and its flow.

    Raises:
        EstablishmentError: Nothing succeeded, or there was nothing to try.
            ``__cause__`` is the only error, or an ExceptionGroup of all.
        ValueError: ``late`` and the planner do not fit together.
    """
    if planner.expecting != (late is not None):
        raise ValueError("a planner that expects more needs late leaves, and no other takes them")
    contest = _Contest(planner, attempt, late, changed)
    try:
        return await contest.run()
    finally:
        await contest.clean_up()


async def only(
    leaf: Leaf,
    attempt: Callable[[], Awaitable[Flow]],
    attempts: list[Attempt],
    began: float,
    loop: asyncio.AbstractEventLoop,
    changed: Changed = _unwatched,
    work: Interruptible | None = None,
) -> Flow:
    """The one attempt that can be made: in the caller's own task, without planner and timer.

    Args:
        leaf: What is tried.
        attempt: Makes the attempt; else as for :func:`race`.
        attempts: The report, to which it is added.
        began: When establishment began, in the loop's time.
        loop: That is running.
        changed: As for :func:`race`.
        work: What this is a part of, if it can be interrupted.

    Raises:
        EstablishmentError: It failed; ``__cause__`` is why.
    """
    record = Attempt(leaf, loop.time() - began)
    attempts.append(record)
    changed(record)
    outcome = "cancelled"
    try:
        flow = await attempt()
        if not _is_flow(type(flow)):
            raise _no_flow(leaf, flow)
        outcome = "ready"
        return flow
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if work.ended if work is not None else task is None or task.cancelling():
            record.error = unfinished(error)
            raise
        record.error = _stray_cancellation(leaf, error)
        outcome = "failed"
    except Exception as error:  # noqa: BLE001  # a plugin's code: its bugs end this attempt only
        _log_unless_expected(leaf, error)
        record.error = error
        outcome = "failed"
    finally:
        record.outcome = outcome
        record.ended = loop.time() - began
        changed(record)
    raise failure(attempts)


class _Contest:
    """A race of several: one task for each attempt, all owned here."""

    def __init__(
        self, planner: RacePlanner, attempt: MakeAttempt, late: Late | None, changed: Changed
    ) -> None:
        self._planner = planner
        self._changed = changed
        self._attempt = attempt
        self._late = late
        self._loop = asyncio.get_running_loop()
        #: Running or not yet looked at, in order of start.
        self._tasks: dict[asyncio.Task[Flow], Leaf] = {}
        #: Waits for the next late leaves.
        self._late_task: LateTask | None = None
        #: Why names gave nothing more.
        self._late_errors: list[BaseException] = []
        self._winner: tuple[Leaf, Flow] | None = None

    async def run(self) -> tuple[Leaf, Flow]:
        planner, loop = self._planner, self._loop
        self._wait_for_late()
        self._start(planner.start(loop.time()))
        while not planner.failed:
            deadline = planner.deadline()
            done, _ = await asyncio.wait(
                self._all_tasks(),
                timeout=None if deadline is None else max(0.0, deadline - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._look_at_attempts(done):
                await self._end_all()
                assert self._winner is not None
                winner, self._winner = self._winner, None
                return winner
            if self._late_task in done:
                self._look_at_late()
            self._start(planner.wake(loop.time()))
        raise failure(planner.attempts, self._late_errors)

    def _all_tasks(self) -> list[asyncio.Task[Any]]:
        tasks: list[asyncio.Task[Any]] = [*self._tasks]
        if self._late_task is not None:
            tasks.append(self._late_task)
        return tasks

    def _start(self, leaves: list[Leaf]) -> None:
        for leaf in leaves:
            record = self._planner.attempt_of(leaf)
            self._tasks[self._loop.create_task(_run(self._attempt, leaf, record))] = leaf
            self._changed(record)

    def _tell(self, *leaves: Leaf) -> None:
        for leaf in leaves:
            self._changed(self._planner.attempt_of(leaf))

    def _look_at_attempts(self, done: set[asyncio.Task[Any]]) -> bool:
        """Report what ended; whether there is a winner."""
        now = self._loop.time()
        # In order of start, successes first: of two in one turn the better
        # candidate wins, and a failure beside it starts nothing.
        ended = [task for task in self._tasks if task in done]
        ended.sort(key=lambda task: task.cancelled() or task.exception() is not None)
        for task in ended:
            error = _error(task, self._tasks[task])
            if error is None and self._winner is None:
                leaf = self._tasks.pop(task)
                losers = self._planner.attempt_ready(leaf, now)
                self._winner = leaf, task.result()
                self._tell(leaf, *losers)
            elif error is not None:
                leaf = self._tasks.pop(task)
                _log_unless_expected(leaf, error)
                due = self._planner.attempt_failed(leaf, error, now)
                self._tell(leaf)
                self._start(due)
        return self._winner is not None

    def _wait_for_late(self) -> None:
        if self._late is not None:
            self._late_task = self._loop.create_task(_next(self._late))

    def _look_at_late(self) -> None:
        assert self._late_task is not None
        leaves: Iterable[Leaf] | None = None
        try:
            leaves = self._late_task.result()
        except* (OSError, TapsError) as group:
            self._late_errors += group.exceptions
        self._late_task = None
        more = leaves is not None
        self._start(self._planner.add(leaves or (), self._loop.time(), more=more))
        if more:
            self._wait_for_late()

    async def clean_up(self) -> None:
        """After whatever end: nothing of this race is left.

        Does not wait after a winner was handed out, so that it cannot be lost.
        """
        self._tell(*self._planner.cancel(self._loop.time()))
        try:
            if self._winner is not None:
                # Cancelled while the losers ended: the application never sees it.
                flow, self._winner = self._winner[1], None
                await until_done([self._loop.create_task(_close(flow))])
        finally:
            await self._end_all()

    async def _end_all(self) -> None:
        """Cancel what runs; returns when it is over and what came too late is closed."""
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        try:
            await until_done(tasks)
        finally:
            await self._close_late()

    async def _close_late(self) -> None:
        """Close the flows that came too late, and the source of late leaves."""
        if self._late_task is not None and not self._late_task.cancelled():
            self._late_task.exception()  # looked at: nobody needs more leaves now
        self._late_task = None
        closing: list[asyncio.Task[Any]] = []
        for task, leaf in self._tasks.items():
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                closing.append(self._loop.create_task(_close(task.result())))
            else:
                _log_unless_expected(leaf, error)
        self._tasks.clear()
        late, self._late = self._late, None
        if late is not None:
            closing.append(self._loop.create_task(late.aclose()))
        await until_done(closing)


async def _run(attempt: MakeAttempt, leaf: Leaf, record: Attempt) -> Flow:
    try:
        flow = await attempt(leaf)
    except asyncio.CancelledError as error:
        record.error = unfinished(error)
        raise
    if not _is_flow(type(flow)):
        raise _no_flow(leaf, flow)
    return flow


@lru_cache(maxsize=64)
def _is_flow(made: type) -> bool:
    """Abstract classes take long to say so, each time."""
    return issubclass(made, Flow)


def _no_flow(leaf: Leaf, given: object) -> TypeError:
    return TypeError(f"{leaf.stack} is connected, and gave {given!r} in place of a Flow")


async def _next(late: Late) -> Iterable[Leaf] | None:
    """The next late leaves, ``None`` after the last."""
    return await anext(late, None)


class _LastWords:
    """Above a flow that nobody wants: hears only that it is over."""

    def __init__(self, over: asyncio.Future[None]) -> None:
        self._over = over

    def received(self, parts: Sequence[Any]) -> None:
        """Nobody wants it."""

    def finished(self) -> None:
        """Nobody wants it."""

    def writable(self, writable: bool, /) -> None:
        """Nothing is sent."""

    def outcome(self, record: Any, error: Any) -> None:
        """Nothing is sent."""

    def notified(self, event: Any) -> None:
        """Nobody wants it."""

    def failed(self, error: Any, fatal: bool) -> None:
        """Nobody wants it."""

    def closed(self, error: Exception | None) -> None:
        """It is over."""
        if not self._over.done():
            self._over.set_result(None)


async def _close(flow: Flow) -> None:
    """Abort a flow that came too late, and wait until it says that it is closed."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        try:
            flow.start(_LastWords(over))
        finally:
            flow.abort()
        async with asyncio.timeout(LATE_FLOW_GRACE):
            await over
    except TimeoutError:
        logger.warning("%r was aborted and did not say that it is closed", flow)
    except Exception:
        # A plugin's bug in a flow that lost: it must not cost the winner.
        logger.exception("aborting %r failed", flow)


def _error(task: asyncio.Task[Flow], leaf: Leaf) -> Exception | None:
    """Why the attempt failed; a ``BaseException`` that is none is raised here."""
    try:
        task.result()
    except asyncio.CancelledError as error:
        return _stray_cancellation(leaf, error)
    except Exception as error:  # noqa: BLE001  # a plugin's code: its bugs end this attempt only
        return error
    return None


def _stray_cancellation(leaf: Leaf, error: asyncio.CancelledError) -> EstablishmentError:
    """Nobody cancelled the attempt, yet it says so: a plugin lost one of its own."""
    stray = EstablishmentError(f"{leaf.what}: cancelled from within")
    stray.__cause__ = error
    return stray


def _log_unless_expected(leaf: Leaf, error: BaseException) -> None:
    if not isinstance(error, (OSError, TapsError)):
        logger.error("%s: the attempt failed by a bug", leaf.what, exc_info=error)


def failure(
    attempts: Sequence[Attempt], others: Sequence[BaseException] = ()
) -> EstablishmentError:
    """What to raise when no attempt succeeded.

    Args:
        attempts: In order of start.
        others: What prevented further attempts, such as a name that could
            not be resolved.

    Returns:
        With all attempts; reason and ``errno`` are those of the errors where they
        agree, detail that of those which have one. ``__cause__`` is the only error, or
        an ExceptionGroup.
    """
    failed = [attempt.error for attempt in attempts if attempt.outcome == "failed"]
    errors = [error for error in failed if error is not None] + [*others]
    lines = [_line(attempt) for attempt in attempts] + [f"{_sentence(error)}" for error in others]
    if not lines:
        message = "there was nothing to try"
    elif len(lines) == 1:
        message = lines[0]
    else:
        message = "no attempt succeeded:" + "".join(f"\n  {line}" for line in lines)
    details: list[str | None] = [getattr(each, "detail", None) for each in errors]
    fallback = Reason.ESTABLISHMENT_FAILED if lines else Reason.NO_CANDIDATES
    error = EstablishmentError(
        message,
        reason=common([getattr(each, "reason", None) for each in errors]) or fallback,
        detail=common([each for each in details if each is not None]),
        attempts=attempts,
        transient=any(map(is_transient, errors)),
    )
    number = common([getattr(each, "errno", None) for each in errors])
    if number is not None:
        error.errno = number
        error.strerror = os.strerror(number)
    if len(errors) == 1:
        error.__cause__ = errors[0]
    elif errors:
        error.__cause__ = BaseExceptionGroup("all attempts failed", errors)
    return error


def unfinished(error: BaseException) -> EstablishmentError | None:
    """What was not done yet when an attempt was cancelled, where its layers say so."""
    said = error.__cause__
    return said if isinstance(said, EstablishmentError) else None


def is_transient(error: BaseException) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, EstablishmentError):
        return error.transient
    if isinstance(error, TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT


def _line(attempt: Attempt) -> str:
    took = "" if attempt.ended is None else f" (after {_ms(attempt.ended - attempt.started)})"
    why = attempt.outcome if attempt.error is None else _sentence(attempt.error)
    return f"{attempt.what}: {why}{took}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _sentence(error: BaseException) -> str:
    if isinstance(error, (OSError, TapsError)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def common(values: Sequence[T | None]) -> T | None:
    """What all of them are, if they agree."""
    return values[0] if len(set(values)) == 1 else None
