"""A Receiver for flows that are up before anything is above them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.model.errors import ReceiveError, SendError
    from taps_core.model.events import Event
    from taps_core.model.flow import PartTuple
    from taps_core.model.messages import SendRecord

__all__ = ["HeldCalls"]

#: What an object that is not ``bytes`` counts for, and every part besides its data.
PART_SIZE: Final = 128
#: SoftErrors and PathChanges that are kept; they are news, not data.
MAX_EVENTS: Final = 64


class HeldCalls:
    """Keeps what comes up, in order, for the Receiver to come.

    Attributes:
        calls: Name and arguments of each call.
    """

    __slots__ = ("_events", "_full", "_limit", "_size", "calls")

    def __init__(self, limit: int, full: Callable[[], None]) -> None:
        """Keep about ``limit`` bytes.

        Args:
            limit: Above this much, call ``full``.
            full: Lets no more come, say by pausing the flow below.
        """
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._limit = limit
        self._full = full
        self._size = 0
        self._events = 0

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All calls; nothing is held any more."""
        calls, self.calls = self.calls, []
        return calls

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            self._full()

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Keep."""
        self.calls.append(("received", (parts,)))
        for data, _, _ in parts:
            self._grow(PART_SIZE + (len(data) if isinstance(data, bytes) else 0))

    def finished(self) -> None:
        """Keep."""
        self.calls.append(("finished", ()))

    def writable(self, writable: bool, /) -> None:
        """Keep."""
        self.calls.append(("writable", (writable,)))

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Keep."""
        self.calls.append(("outcome", (record, error)))

    def notified(self, event: Event) -> None:
        """Keep, unless there are too many already."""
        self._events += 1
        if self._events <= MAX_EVENTS:
            self.calls.append(("notified", (event,)))

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """Keep."""
        self.calls.append(("failed", (error, fatal)))
        self._grow(PART_SIZE)

    def closed(self, error: Exception | None) -> None:
        """Keep."""
        self.calls.append(("closed", (error,)))
