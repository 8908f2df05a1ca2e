"""What one end of a connection has sent and what it waits to hear of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taps_core.testing.virtual_vigil import MOST_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.testing.memory_wire import Item

__all__ = ["Outbound", "Segment"]

#: Seconds: least retransmission time of data, and of a ``syn`` (RFC 6298).
_LEAST: Final = 0.2
_LEAST_SYN: Final = 1.0


class Segment:
    """Something numbered that is to arrive.

    Attributes:
        what: ``syn``, ``data`` or ``fin``.
        number: Its place.
        item: The data.
        length: Bytes of it.
        closing: Of a ``fin``: whether its sender reads no more.
        tries: How often it was sent again.
        timer: When it is sent again next.
    """

    __slots__ = ("closing", "item", "length", "number", "timer", "tries", "what")

    def __init__(self, what: str, number: int, item: Item | None, closing: bool) -> None:
        self.what = what
        self.number = number
        self.item = item
        # Now: the receiver takes the item apart.
        self.length = 0 if item is None else len(item.data)
        self.closing = closing
        self.tries = 0
        self.timer: asyncio.TimerHandle | None = None


class Outbound:
    """The segments that were sent and not acknowledged, each with its own timer.

    Args:
        send: Sends a segment; returns when it has left.
        round_trip: Gives the round trip at rest, in seconds.
        given_up: Called when a ``syn`` was sent again in vain often enough.

    Attributes:
        next: Number of the next segment.
        sent: Cost of all data so far.
        limit: What the peer allows that to become.
        retries: How often a ``syn`` is sent again.
    """

    def __init__(
        self,
        send: Callable[[Segment], float],
        round_trip: Callable[[], float],
        given_up: Callable[[], None],
        *,
        retries: int,
    ) -> None:
        self.next = 0
        self.sent = 0
        self.limit = 0
        self._send = send
        self._round_trip = round_trip
        self._given_up = given_up
        self._retries = retries
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Segment] = {}

    def __bool__(self) -> bool:
        """Whether anything is to be acknowledged."""
        return bool(self._waiting)

    @property
    def room(self) -> int:
        """What the peer has room for, as far as it has said."""
        return self.limit - self.sent

    @property
    def undelivered(self) -> int:
        """Bytes that are not acknowledged."""
        return sum(segment.length for segment in self._waiting.values())

    def add(self, what: str, item: Item | None = None, *, closing: bool = False) -> None:
        """Send the next segment, and again until it is acknowledged."""
        segment = Segment(what, self.next, item, closing)
        self.next += 1
        if item is not None:
            self.sent += item.cost
        self._waiting[segment.number] = segment
        self._transmit(segment)

    def acknowledged(self, expected: int, number: int) -> list[Segment]:
        """The peer has everything up to ``expected``, and ``number``; what is new in that."""
        # In order of numbers, as they were sent: what is behind ``expected`` is not looked at.
        news = []
        for each in self._waiting.values():
            if each.number >= expected:
                break
            news.append(each)
        alone = self._waiting.get(number)
        if alone is not None and number >= expected:
            news.append(alone)
        for each in news:
            del self._waiting[each.number]
            if each.timer is not None:
                each.timer.cancel()
        return news

    def repeat(self, number: int) -> bool:
        """Send a segment again, now; False if it is acknowledged."""
        segment = self._waiting.get(number)
        if segment is None:
            return False
        if segment.timer is not None:
            segment.timer.cancel()
        self._transmit(segment)
        return True

    def drop(self) -> None:
        """Send nothing again."""
        for segment in self._waiting.values():
            if segment.timer is not None:
                segment.timer.cancel()
        self._waiting.clear()

    def patience(self, what: str = "data", tries: int = 0) -> float:
        """The retransmission time, in seconds."""
        least = _LEAST_SYN if what == "syn" else _LEAST
        return min(max(least, 2 * self._round_trip()) * 2.0**tries, MOST_PATIENCE)

    def _transmit(self, segment: Segment) -> None:
        left = self._send(segment)
        segment.timer = self._loop.call_at(
            left + self.patience(segment.what, segment.tries), self._again, segment
        )

    def _again(self, segment: Segment) -> None:
        if segment.what == "syn" and segment.tries == self._retries:
            self._given_up()
            return
        segment.tries += 1
        self._transmit(segment)
