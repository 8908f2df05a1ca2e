"""What a listener dropped for lack of room: counted by cause, and said in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from taps_udp.options import kernel_drops

if TYPE_CHECKING:
    import asyncio
    import socket

__all__ = ["BUSY", "DISPLACED", "PAUSED", "UNREAD", "Drops"]

#: Datagrams for which the socket had no room; of UDP-Lite also those covered too little.
KERNEL: Final = "kernel"
#: Datagrams of unknown remotes that came while the listener was paused and held its most.
PAUSED: Final = "paused"
#: Datagrams of flows that were not read, and held their most.
UNREAD: Final = "unread"
#: Flows that were never answered, and made room for newer ones.
DISPLACED: Final = "displaced"

#: Seconds from the first drop to the line in the log, and between two lines.
SOON: Final = 1.0
OFTEN: Final = 60.0
#: Datagrams of one wake-up from which on the kernel may have dropped some, and seconds
#: between two looks at its count.
BUSY: Final = 16
_LOOKS: Final = 1.0

_log: Final = logging.getLogger("taps_udp")


class Drops:
    """The counts of one listener.

    Args:
        loop: Where it runs.
        sock: Its socket.
        where: Its address, for the log.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, where: str) -> None:
        self._loop = loop
        self._sock = sock
        self._where = where
        self._counts: dict[str, int] = {}
        #: What the log was told of.
        self._told: dict[str, int] = {}
        self._next_line = self._next_look = 0.0
        self._line: asyncio.TimerHandle | None = None

    def count(self, cause: str) -> None:
        """One more."""
        self._counts[cause] = self._counts.get(cause, 0) + 1
        self._announce()

    def look(self, now: float) -> None:
        """See what the kernel dropped, if it is time to; ``now`` is the loop's."""
        if now >= self._next_look:
            self._next_look = now + _LOOKS
            self._ask_kernel()

    def by_cause(self) -> dict[str, int]:
        """How many until now; of what never happened there is nothing."""
        self._ask_kernel()
        return dict(self._counts)

    def end(self) -> None:
        """The socket is about to be closed: the last line, if there is one to come."""
        self._ask_kernel()
        if self._line is not None:
            self._line.cancel()
            self._say()

    def _ask_kernel(self) -> None:
        """Whoever asked: what is new has to be in the log, too."""
        dropped = kernel_drops(self._sock)
        if dropped and dropped != self._counts.get(KERNEL):
            self._counts[KERNEL] = dropped
            self._announce()

    def _announce(self) -> None:
        if self._line is None:
            now = self._loop.time()
            self._line = self._loop.call_at(max(now + SOON, self._next_line), self._say)

    def _say(self) -> None:
        # First, as it is part of this line.
        counts = self.by_cause()
        self._line = None
        self._next_line = self._loop.time() + OFTEN
        news = {cause: number - self._told.get(cause, 0) for cause, number in counts.items()}
        self._told = counts
        listed = ", ".join(f"{number} {cause}" for cause, number in news.items() if number)
        _log.warning("%s: dropped for lack of room: %s", self._where, listed)
