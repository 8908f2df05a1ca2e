"""Connections that came in and wait for somebody to take them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.runtime.connection import Connection

__all__ = ["Arrivals"]


class Arrivals:
    """A line of Connections and a line of takers, the longest waiting first in both.

    A Connection that an event told of as well is somebody's already: it is
    not counted as waiting, and leaves the line when it ends.

    Attributes:
        untold: How many nobody knows of yet.
        over: Nothing comes any more.
    """

    __slots__ = ("_line", "_takers", "over", "untold")

    def __init__(self) -> None:
        self.untold = 0
        self.over = False
        self._line: dict[Connection[Any], bool] = {}
        self._takers: deque[asyncio.Future[None]] = deque()

    def __contains__(self, connection: object) -> bool:
        return connection in self._line

    def __iter__(self) -> Iterator[Connection[Any]]:
        return iter(tuple(self._line))

    def put(self, connection: Connection[Any], *, told: bool) -> None:
        """At the end of the line; ``told``: an event told of it."""
        self._line[connection] = told
        self.untold += not told
        self._signal()

    def ended(self, connection: Connection[Any]) -> None:
        """It is closed. What nobody knows of stays, with what it received."""
        if self._line.get(connection):
            del self._line[connection]

    async def take(self) -> Connection[Any] | None:
        """The next one, ``None`` if nothing comes any more. Cancelling loses none."""
        takers = self._takers
        while takers or not self._line:
            if self.over:
                return None
            future = asyncio.get_running_loop().create_future()
            takers.append(future)
            try:
                await future
            except BaseException:
                takers.remove(future)
                self._signal()
                raise
            # Only the first is signalled, and it stays so until it runs.
            takers.remove(future)
            if self._line:
                break
        connection = next(iter(self._line))
        self.untold -= not self._line.pop(connection)
        self._signal()
        return connection

    def drop_untold(self) -> None:
        """Abort those that nobody knows of."""
        for connection, told in tuple(self._line.items()):
            if not told:
                del self._line[connection]
                self.untold -= 1
                connection.abort()

    def end(self) -> None:
        """Nothing comes any more: whoever waits gets ``None``."""
        self.over = True
        for future in self._takers:
            _wake(future)

    def _signal(self) -> None:
        if self._takers and self._line:
            _wake(self._takers[0])


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
