"""Run a coroutine as a test should: strictly, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from taps_core.testing.leaks import LeakError, no_leaks
from taps_core.testing.virtual_network import VirtualNetwork
from taps_core.testing.virtual_time import VirtualClockLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeAlias

    from taps_core.testing.leaks import Network

    Scenario: TypeAlias = "Callable[[VirtualNetwork], Coroutine[Any, Any, T]]"

__all__ = ["LoopName", "loop_factory", "run"]

T = TypeVar("T")
LoopName = Literal["asyncio", "uvloop", "virtual"]

#: Turns of the loop that a task may take to end once it was told to.
_GRACE_TURNS = 20
#: Seconds after which something has hung: real ones, and virtual ones, which cost nothing.
_REAL_TIMEOUT: Final = 60.0
_VIRTUAL_TIMEOUT: Final = 24 * 3600.0
_UNSAID: Final = object()


@overload
def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    *networks: Network,
    loop: LoopName = "asyncio",
    timeout: float | None = ...,
) -> T: ...
@overload
def run(
    main: Callable[[], Coroutine[Any, Any, T]] | Scenario[T],
    *networks: Network,
    seed: int | str,
    timeout: float | None = ...,
) -> T: ...
@overload
def run(
    main: Callable[[], Coroutine[Any, Any, T]] | Scenario[T],
    *networks: Network,
    network: VirtualNetwork,
    timeout: float | None = ...,
) -> T: ...
def run(
    main: Callable[..., Coroutine[Any, Any, T]],
    *networks: Network,
    loop: LoopName = "asyncio",
    timeout: Any = _UNSAID,
    seed: int | str | None = None,
    network: VirtualNetwork | None = None,
) -> T:
    """Run ``main()`` on a loop of its own and return its result.

    Every warning is an error. Besides what ``main`` raises, a failure is
    whatever reaches the loop's exception handler, a task that outlives
    ``main``, and all that :func:`no_leaks` looks at.

    With a ``seed`` (or a ``network``), ``main`` is a scenario: it runs on virtual time
    and on the host ``client`` of a fresh :class:`VirtualNetwork` (or of the one that is
    given), and is given the network if it takes a parameter. What
    :meth:`VirtualNetwork.serve` started ends with it; nothing else may be left open on
    any host.

    Args:
        main: A coroutine function without parameters (``functools.partial``
            gives it some), or a scenario.
        *networks: On which no flow and no listener may be left.
        loop: Whose event loop: asyncio's own, uvloop's, or one on virtual time, as
            scenarios have it in any case.
        timeout: Seconds after which it has hung: 60 by default; on virtual time, where
            they cost nothing, a day. ``None``: never.
        seed: Of everything that chance decides on the network.
        network: One that was arranged before, or that is to be looked at afterwards.

    Raises:
        LeakError: ``main`` itself went well, but something was left or reported.
        DeadlockError: On virtual time: nothing will ever happen again.
        ImportError: uvloop is not installed.
    """
    if seed is not None:
        network = VirtualNetwork(seed)
    if network is not None:
        loop = "virtual"
        networks = (network, *networks)
        arguments = [network] if _takes_one(main) else []
        play: Callable[[], Coroutine[Any, Any, T]] = functools.partial(
            network.play, main, *arguments
        )
    else:
        play = main
    if loop == "virtual":
        # Not by a timer: nothing but that timer being left is a deadlock too.
        limit = _VIRTUAL_TIMEOUT if timeout is _UNSAID else timeout
        return _run(play, networks, lambda: VirtualClockLoop(math.inf if limit is None else limit))
    limit = _REAL_TIMEOUT if timeout is _UNSAID else timeout
    return _run(lambda: _in_time(play, limit), networks, loop_factory(loop))


def _takes_one(main: Callable[..., Any]) -> bool:
    """Whether it wants to be given the network."""
    return any(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(main).parameters.values()
    )


async def _in_time(main: Callable[[], Coroutine[Any, Any, T]], timeout: float | None) -> T:
    async with asyncio.timeout(timeout):
        return await main()


def _run(
    main: Callable[[], Coroutine[Any, Any, T]],
    networks: tuple[Network, ...],
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_leaks(*networks):
            # In a function of its own: what its frame holds, the loop above all, is
            # gone before no_leaks has the garbage collected, and is not left as
            # garbage that the next run sets aside as what was there before.
            return _run_on(factory, main)


def _run_on(
    factory: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    reported: list[str] = []
    runner = asyncio.Runner(debug=False, loop_factory=factory)
    try:
        runner.get_loop().set_exception_handler(
            lambda _, context: reported.append(_sentence(context))
        )
        result = runner.run(_strictly(main, reported))
    except BaseException as error:
        for sentence in reported:
            error.add_note(sentence)
        raise
    finally:
        _close(runner, reported)
    # Closing the runner cancels what is left; it is reported all the same.
    if reported:
        raise LeakError(reported)
    return result


def _close(runner: asyncio.Runner, reported: list[str]) -> None:
    """Without raising for what is still open.

    A warning that is an error interrupts uvloop where it closes its handles, and then it
    waits for them forever.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        runner.close()
    reported += [str(warning.message) for warning in caught]


async def _strictly(main: Callable[[], Coroutine[Any, Any, T]], reported: list[str]) -> T:
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
    if loop == "virtual":
        return VirtualClockLoop
    import uvloop

    # libuv opens a pipe for signals with its first loop and keeps it for good:
    # not for a test to be blamed for.
    with contextlib.closing(uvloop.new_event_loop()):
        pass
    return uvloop.new_event_loop
