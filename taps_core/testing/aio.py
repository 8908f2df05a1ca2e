"""Run a coroutine as a test should: strictly, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from taps_core.testing.leaks import LeakError, no_leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from taps_core.testing.memory import MemoryNetwork

__all__ = ["LoopName", "loop_factory", "run"]

T = TypeVar("T")
LoopName = Literal["asyncio", "uvloop"]

#: Turns of the loop that a task may take to end once it was told to.
_GRACE_TURNS = 20


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    *networks: MemoryNetwork,
    loop: LoopName = "asyncio",
    timeout: float | None = 60.0,
) -> T:
    """Run ``main()`` on a loop of its own and return its result.

    Every warning is an error. Besides what ``main`` raises, a failure is
    whatever reaches the loop's exception handler, a task that outlives
    ``main``, and all that :func:`no_leaks` looks at.

    Args:
        main: A coroutine function without parameters (``functools.partial``
            gives it some).
        *networks: On which no flow and no listener may be left.
        loop: Whose event loop: asyncio's own, or uvloop's.
        timeout: Seconds after which it has hung; ``None``: never.

    Raises:
        LeakError: ``main`` itself went well, but something was left or reported.
        ImportError: uvloop is not installed.
    """
    factory = loop_factory(loop)
    reported: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_leaks(*networks):
            with asyncio.Runner(debug=False, loop_factory=factory) as runner:
                runner.get_loop().set_exception_handler(
                    lambda _, context: reported.append(_sentence(context))
                )
                try:
                    result = runner.run(_strictly(main, timeout, reported))
                except BaseException as error:
                    for sentence in reported:
                        error.add_note(sentence)
                    raise
            # Closing the runner cancels what is left; it is reported all the same.
            if reported:
                raise LeakError(reported)
    return result


async def _strictly(
    main: Callable[[], Coroutine[Any, Any, T]], timeout: float | None, reported: list[str]
) -> T:
    async with asyncio.timeout(timeout):
        result = await main()
    for _ in range(_GRACE_TURNS):
        if not _others():
            break
        await asyncio.sleep(0)
    reported += [f"task {task.get_name()} goes on: {task.get_coro()!r}" for task in _others()]
    return result


def _others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def _sentence(context: dict[str, Any]) -> str:
    exception = context.get("exception")
    return f"{context['message']}: {exception!r}" if exception else str(context["message"])


def loop_factory(loop: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an event loop of that name.

    Raises:
        ImportError: uvloop is not installed.
    """
    if loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    # libuv opens a pipe for signals with its first loop and keeps it for good:
    # not for a test to be blamed for.
    with contextlib.closing(uvloop.new_event_loop()):
        pass
    return uvloop.new_event_loop
