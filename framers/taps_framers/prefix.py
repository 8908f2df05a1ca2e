"""What framers share that write a header with the length before each Message."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import Codec, deframing_failed, too_large

if TYPE_CHECKING:
    from taps_core.plugin import MessageContext, PartTuple, ReceiveError, SendRecord

__all__ = ["JOINED", "PrefixCodec"]

#: Up to this size a Message is joined to its header: copying it is cheaper than
#: a second buffer for the kernel to gather.
JOINED: Final = 2048


class PrefixCodec(Codec):
    """A header with the length, then the Message; parts go through as they come."""

    # Within the object: as entries of a dict they take twice the room.
    __slots__ = ("_context", "_left", "_name", "max_length")

    streams = True

    def __init__(self, name: str, max_length: int) -> None:
        """Begin between two frames.

        Args:
            name: For error messages.
            max_length: Largest Message in bytes, in both directions.
        """
        self.max_length = max_length
        self._name = name
        # Bytes of the Message that decode stands in which have not arrived, and
        # the context of its parts.
        self._left = 0
        self._context: MessageContext | None = None

    @abstractmethod
    def _header(self, length: int, record: SendRecord | None) -> bytes:
        """What goes before a Message of ``length`` bytes, which is not too many."""

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes | tuple[bytes, ...]:
        """Header and Message."""
        if isinstance(data, tuple):
            return (self._checked_header(sum(map(len, data)), record), *data)
        header = self._checked_header(len(data), record)
        return header + data if len(data) < JOINED else (header, data)

    def begin(self, length: int | None, record: SendRecord | None, /) -> bytes | None:
        """The header, once the length is known."""
        return None if length is None else self._checked_header(length, record)

    def _checked_header(self, length: int, record: SendRecord | None) -> bytes:
        if length > self.max_length:
            raise too_large(self._name, length, self.max_length)
        return self._header(length, record)

    @property
    def incomplete(self) -> bool:
        """Whether a Message has begun and not all of it came."""
        return self._left > 0

    def reset(self) -> None:
        """The next byte begins a header."""
        self._left = 0
        self._context = None

    @abstractmethod
    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """Messages from ``start`` on whose headers are in the next LONG_READ bytes."""

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """All Messages in ``data``."""
        position = self.decode_from(data, 0, parts)
        while position < len(data):
            reached = self.decode_from(data, position, parts)
            if reached == position:
                break
            position = reached
        return position

    def _continue(self, data: bytes, start: int, parts: list[PartTuple]) -> int:
        """More of the Message that decode stands in; where that ends."""
        left = self._left
        size = len(data) - start
        if size < left:
            if size:
                parts.append((data[start:], self._context, False))
            self._left = left - size
            return len(data)
        parts.append((data[start : start + left], self._context, True))
        self._left = 0
        self._context = None
        return start + left

    def _too_long(self, length: int) -> ReceiveError:
        return deframing_failed(
            f"{self._name}: a Message of {length} bytes, at most {self.max_length} allowed",
            detail="too-large",
        )
