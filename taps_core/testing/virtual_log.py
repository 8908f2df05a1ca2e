"""What happened on a virtual network, entry by entry."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventLog", "LogEntry"]


class LogEntry(NamedTuple):
    """One thing that happened."""

    time: float
    """Virtual seconds."""
    event: str
    """``sent``, ``lost``, ``delivered``, ``unreachable`` of packets, ``resolved`` and
    ``unresolved`` of names, ``path`` of paths."""
    transport: str = ""
    packet: str = ""
    """What it is to the transport: ``syn``, ``data``, ``ack``, ``datagram``, …"""
    source: str = ""
    """Address and port; for a name, the host that asked."""
    target: str = ""
    """Address and port; for a path, from where to where; the name that was asked for."""
    size: int = 0
    """Bytes, overhead included."""
    number: int = -1
    """Of the packet, where packets are numbered: the same one again is a retransmission."""
    detail: str = ""
    """Why it was lost, what it was besides (``reordered``, ``again``), what came of a name."""

    def as_json(self) -> dict[str, Any]:
        """As values that ``json`` can write; what says nothing is left out."""
        return {
            name: value
            for name, value in zip(self._fields, self, strict=True)
            if name in ("time", "event") or value != self._field_defaults[name]
        }


class EventLog(Sequence[LogEntry]):
    """The last entries, the oldest first.

    Args:
        limit: How many are kept; 0: none.

    Attributes:
        dropped: How many were not.
    """

    def __init__(self, limit: int) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=limit)
        self.dropped = 0

    def append(self, entry: LogEntry) -> None:
        """Remember ``entry``, and forget the oldest if need be."""
        if len(self._entries) == self._entries.maxlen:
            self.dropped += 1
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget all entries so far."""
        self._entries.clear()

    def named(self, event: str, packet: str | None = None) -> list[LogEntry]:
        """The entries of one event, and of one kind of packet if given."""
        return [entry for entry in self if entry.event == event and packet in (None, entry.packet)]

    def as_json(self) -> str:
        """One line of JSON for each entry: the same run gives the same text."""
        return "".join(json.dumps(entry.as_json()) + "\n" for entry in self)

    @overload
    def __getitem__(self, index: int) -> LogEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[LogEntry]: ...
    def __getitem__(self, index: int | slice) -> LogEntry | list[LogEntry]:
        if isinstance(index, slice):
            return list(self._entries)[index]
        return self._entries[index]

    def __iter__(self) -> Iterator[LogEntry]:
        return iter(self._entries)  # by index it would take the square of its length

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<EventLog of {len(self)} entries, {self.dropped} dropped>"
