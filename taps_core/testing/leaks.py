"""Nothing is left behind: tasks, file descriptors, threads, warnings, flows in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["LeakError", "Network", "no_leaks"]

#: Seconds that a thread whose work is done may take to end.
_THREAD_GRACE = 2.0

_aside = threading.Lock()


class Network(Protocol):
    """What can be asked whether anything is open on it."""

    @property
    def flows(self) -> Sequence[object]:
        """Ends of flows that are not closed."""

    @property
    def open_listeners(self) -> int:
        """Listeners that are not closed."""


class LeakError(AssertionError):
    """Something was left behind.

    Attributes:
        leaks: A sentence for each thing.
    """

    def __init__(self, leaks: list[str]) -> None:
        super().__init__("left behind:\n" + "\n".join(f"- {leak}" for leak in leaks))
        self.leaks = leaks


@contextlib.contextmanager
def no_leaks(*networks: Network) -> Iterator[None]:
    """Fail if the block leaves anything behind.

    Looked at: tasks of the running loop (if there is one), threads, file
    descriptors (where the system lists them), ResourceWarnings, coroutines that
    were never awaited, exceptions in finalizers, what asyncio logs as errors
    («Task was destroyed but it is pending!», «exception was never retrieved»),
    and flows and listeners of ``networks``.

    An exception that leaves the block passes; nothing is looked at then.

    Raises:
        LeakError: Something was left.
    """
    with older_objects_aside(), _collected() as leaks:
        tasks = _tasks()
        threads = set(threading.enumerate())
        descriptors = _descriptors()
        yield
        for task in _tasks() - tasks:
            leaks.append(f"task {task.get_name()}: {task.get_coro()!r}")
        leaks += _left_threads(threads)
        # Cycles with a socket or a coroutine in them, and what those held.
        for _ in range(3):
            if not gc.collect():
                break
        after = _descriptors()
        leaks += [
            f"file descriptor {number}: {target}"
            for number, target in after.items()
            if descriptors.get(number) != target
        ]
        for network in networks:
            leaks += [f"flow {flow!r}" for flow in network.flows]
            if network.open_listeners:
                leaks.append(f"{network.open_listeners} listeners on {network!r}")
        if leaks:
            raise LeakError(leaks)


@contextlib.contextmanager
def older_objects_aside() -> Iterator[None]:
    """Keep the garbage collector from what was there before: not this block's.

    It also makes a collection cheap, which otherwise is most of a short test. A block inside
    another leaves aside what the outer one set aside, and collects what came since.
    """
    if not _aside.acquire(blocking=False):  # an outer block has it
        gc.collect()
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        # Python 3.12 freezes some objects of its own when it starts; nothing
        # but a little time is lost by letting those go too.
        gc.unfreeze()
        _aside.release()


@contextlib.contextmanager
def _collected() -> Iterator[list[str]]:
    """What Python says on the side while the block runs, as sentences."""
    found: list[str] = []

    def unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        # Sentences only: keeping the object would bring it back to life.
        what = unraisable.err_msg or "Exception ignored in"
        found.append(f"{what} {unraisable.object!r}: {unraisable.exc_value!r}")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"asyncio: {record.getMessage()}")

    handler = Handler(logging.ERROR)
    logger = logging.getLogger("asyncio")
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # A warning in a finalizer that is an error reaches the hook.
            warnings.simplefilter("error", ResourceWarning)
            warnings.filterwarnings("error", "coroutine .* was never awaited", RuntimeWarning)
            yield found
    finally:
        logger.removeHandler(handler)
        sys.unraisablehook = hook


def _tasks() -> set[asyncio.Task[object]]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return set()
    return {task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task(loop)}


def _left_threads(before: set[threading.Thread]) -> list[str]:
    left = []
    for thread in threading.enumerate():
        if thread not in before and thread is not threading.current_thread():
            thread.join(_THREAD_GRACE)
            if thread.is_alive():
                left.append(f"thread {thread.name}")
    return left


def _descriptors() -> dict[int, str]:
    """Number → what it is, of every open file descriptor; empty where nobody tells."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            numbers = [int(name) for name in os.listdir(folder)]
        except (OSError, ValueError):
            continue
        found = {}
        for number in numbers:
            try:
                # Not by pathlib, which takes longer than all the rest of a short run.
                found[number] = os.readlink(f"{folder}/{number}")
            except OSError as error:
                # The one that listed the folder is closed; where the entries
                # are no links, being open is all that is known.
                if _is_open(number):
                    found[number] = f"open ({error.strerror})"
        return found
    return {}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
