"""The system's own resolver (``getaddrinfo``), which blocks: in threads, and no more than some."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taps_core.planning.answers import Answer
from taps_core.planning.derivation import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SystemNames"]

#: Threads at most: one is lost for as long as the system waits for a network that is gone.
_MAX_THREADS: Final = 16

#: What the system says, as EstablishmentError.detail and whether it may be better later.
_DETAILS: Final[dict[str, tuple[str, bool]]] = {
    "EAI_NONAME": ("no-such-name", False),
    "EAI_NODATA": ("no-address", False),
    "EAI_ADDRFAMILY": ("no-address", False),
    "EAI_AGAIN": ("server-failure", True),
    "EAI_FAIL": ("server-failure", True),
}


class _Job:
    __slots__ = ("future", "loop", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()

    def settle(self, answer: Answer) -> None:
        """In the loop of whoever asked."""
        if not self.future.done():
            self.future.set_result(answer)


class SystemNames:
    """Asks the system's resolver; whoever gives up is free at once, and the thread ends later.

    asyncio's own threads are for other work as well: a few names of a network that is gone
    would bring that to a stop, and the end of the program, too. These are daemons.

    Args:
        look_up: As ``socket.getaddrinfo``.
        threads: At most; further names wait for their turn.
    """

    def __init__(
        self, look_up: Callable[..., Any] = socket.getaddrinfo, *, threads: int = _MAX_THREADS
    ) -> None:
        self._look_up = look_up
        self._most = threads
        self._running = 0
        self._waiting: deque[_Job] = deque()
        self._lock = threading.Lock()

    async def ask(self, name: str, lifetime: float) -> Answer:
        """Addresses of both families, in the system's order; raises nothing but CancelledError."""
        job = _Job(name)
        with self._lock:
            crowded = self._running >= self._most
            if crowded:
                self._waiting.append(job)
            else:
                self._running += 1
        if not crowded:
            threading.Thread(target=self._work, args=(job,), name="taps-names", daemon=True).start()
        try:
            async with asyncio.timeout(lifetime):
                return await job.future
        except TimeoutError:
            busy = f", which is busy with {self._most} other names" if crowded else ""
            return Answer(
                problem=f"no answer within {round(lifetime, 2):g} s (the system's resolver{busy})",
                detail="timeout",
                transient=True,
            )
        finally:
            with self._lock:
                if job in self._waiting:
                    self._waiting.remove(job)

    def _work(self, job: _Job | None) -> None:
        while job is not None:
            answer = self._answer(job.name)
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                job.loop.call_soon_threadsafe(job.settle, answer)
            with self._lock:
                job = self._waiting.popleft() if self._waiting else None
                if job is None:
                    self._running -= 1

    def _answer(self, name: str) -> Answer:
        try:
            found = self._look_up(name, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            return _refused(error)
        except (OSError, UnicodeError, ValueError) as error:
            return Answer(problem=f"{type(error).__name__}: {error}", detail="bad-name")
        addresses = dict.fromkeys(
            _address(sockaddr) for family, *_, sockaddr in found if family in _FAMILIES
        )
        if not addresses:
            return Answer(problem="no address", detail="no-address", server=_SERVER)
        return Answer(records=tuple(addresses)[:_MAX_READ], server=_SERVER)


_SERVER: Final = "the system's resolver"
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
#: Enough that both families have what they may have of MAX_ADDRESSES, as a rule.
_MAX_READ: Final = 4 * MAX_ADDRESSES


def _address(sockaddr: Any) -> str:
    address = str(sockaddr[0])
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in address:
        return f"{address}%{sockaddr[3]}"
    return address


def _refused(error: socket.gaierror) -> Answer:
    for name, (detail, transient) in _DETAILS.items():
        if error.errno == getattr(socket, name, None):
            return Answer(
                problem="no such name" if detail == "no-such-name" else str(error.strerror),
                detail=detail,
                transient=transient,
                server=_SERVER,
            )
    return Answer(
        problem=str(error.strerror), detail="server-failure", transient=True, server=_SERVER
    )
