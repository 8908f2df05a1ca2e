"""When the next data may leave, so that a rate is kept (RFC 9622, section 8.1.8).

A Message leaves whole, as soon as those before it are paid for: each is due ``size / rate``
seconds after the one before it was. So a Message of any size gets through in the end, and
there is no burst after a rest. A loop that comes late makes up for up to :data:`LATE`
seconds. Any second has no more than the rate, what was made up for, and one Message.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LATE", "Pace"]

#: Seconds of lateness that are made up for: timers of a busy loop are late by
#: milliseconds each time, and the rate would never be reached.
LATE: Final = 0.02


class Pace:
    """One limit.

    Args:
        rate: In bit/s; ``math.inf`` for none.
        now: Seconds, of any clock that is used throughout.

    Attributes:
        due: When the next data may leave.
    """

    __slots__ = ("_rate", "due")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate / 8
        self.due = now

    @property
    def rate(self) -> float:
        """In bit/s."""
        return self._rate * 8

    def change(self, rate: float, now: float) -> None:
        """Another rate: at which what has left is paid for, too."""
        if self.due > now:
            self.due = now + (self.due - now) * self._rate * 8 / rate
        self._rate = rate / 8

    def left(self, size: int, now: float) -> None:
        """So many bytes have left."""
        # Longer ago is no lateness: nothing was to be sent.
        since = self.due if self.due >= now - LATE else now
        self.due = since + size / self._rate
