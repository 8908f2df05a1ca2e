"""Line: a Message, then a delimiter that does not occur in it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    Codec,
    FramerDefinition,
    PropertyError,
    Reason,
    SendError,
    deframing_failed,
    too_large,
)
from taps_framers.integers import check_max_length

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, ReceiveError, SendRecord

__all__ = ["Line", "LineCodec"]

_NEWLINE: Final = b"\n"
_RETURN: Final = b"\r"


@dataclasses.dataclass(frozen=True)
class Line(FramerDefinition):
    """Messages before a delimiter, which is not part of them.

    A Message that holds the delimiter cannot be sent. Long lines are received
    in parts as they come, so that nothing is searched twice.

    Raises:
        PropertyError: A parameter that cannot be.
    """

    delimiter: bytes = _NEWLINE
    """What ends a Message: ``b"\\n"``, ``b"\\r\\n"``, ``b"\\0"``, …"""
    _: dataclasses.KW_ONLY
    max_length: int = 64 * 1024
    """Largest Message in bytes, without the delimiter."""
    accept_crlf: bool = True
    """With the delimiter ``b"\\n"``: whether a ``b"\\r"`` right before it belongs to
    the line end. Such lines are received without it, and a Message that ends
    in one cannot be sent."""

    name = "line"

    def __post_init__(self) -> None:
        check_max_length(self.max_length)
        if not isinstance(self.delimiter, bytes) or not self.delimiter:
            raise PropertyError(f"{self.delimiter!r}: the delimiter is at least one byte")

    def create(self) -> LineCodec:
        """For one Connection."""
        return LineCodec(self)


class LineCodec(Codec):
    """The codec of :class:`Line`."""

    def __init__(self, definition: Line) -> None:
        self.max_length = definition.max_length
        self._delimiter = definition.delimiter
        self._crlf = definition.accept_crlf and definition.delimiter == _NEWLINE
        # What may be the beginning of a line end, longest first.
        delimiter = definition.delimiter
        self._beginnings = [delimiter[:size] for size in range(len(delimiter) - 1, 0, -1)]
        if self._crlf:
            self._beginnings = [_RETURN]
        # Bytes of the line that decode stands in which went up already.
        self._passed = 0

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        """Message and delimiter."""
        delimiter = self._delimiter
        if isinstance(data, tuple):
            data = b"".join(data)
        length = len(data)
        if length > self.max_length:
            raise too_large("line", length, self.max_length)
        frame: bytes = data + delimiter
        # In the frame, not in the Message: its end and the delimiter may make
        # another one together.
        if frame.find(delimiter) != length:
            raise _unsendable(f"line: the Message holds the delimiter {delimiter!r}")
        if self._crlf and data[-1:] == _RETURN:
            raise _unsendable(r"line: the b'\r' at the end would be taken for the line end's")
        return frame

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """All lines in ``data``, and of the last one what is there."""
        lines = data.split(self._delimiter)
        rest = lines.pop()
        if lines:
            if self._crlf:
                lines = [line[:-1] if line[-1:] == _RETURN else line for line in lines]
            if len(data) + self._passed > self.max_length:
                self._check_lengths(lines, parts)
            parts.extend([(line, None, True) for line in lines])
            self._passed = 0
        if not rest:
            return len(data)
        kept = 0
        for beginning in self._beginnings:
            if rest.endswith(beginning):
                kept = len(beginning)
                rest = rest[:-kept]
                break
        self._passed += len(rest)
        if self._passed > self.max_length:
            raise self._too_long()
        if rest:
            parts.append((rest, None, False))
        return len(data) - kept

    def _check_lengths(self, lines: list[bytes], parts: list[PartTuple]) -> None:
        length = self._passed
        for index, line in enumerate(lines):
            length += len(line)
            if length > self.max_length:
                parts.extend([(line, None, True) for line in lines[:index]])
                raise self._too_long()
            length = 0

    def _too_long(self) -> ReceiveError:
        return deframing_failed(
            f"line: a Message of more than {self.max_length} bytes", detail="too-large"
        )

    @property
    def incomplete(self) -> bool:
        """Whether a part of a line went up without its end."""
        return self._passed > 0

    def reset(self) -> None:
        """The next byte begins a line."""
        self._passed = 0


def _unsendable(sentence: str) -> SendError:
    return SendError(sentence, reason=Reason.INVALID_MESSAGE_PROPERTIES)
