"""Netstring: the length in decimal digits, ``:``, so many bytes, ``,``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from taps_core.plugin import LONG_READ, FramerDefinition, deframing_failed
from taps_framers.integers import DEFAULT_MAX_LENGTH, check_max_length
from taps_framers.prefix import PrefixCodec

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, ReceiveError, SendRecord

__all__ = ["Netstring", "NetstringCodec"]


@dataclasses.dataclass(frozen=True)
class Netstring(FramerDefinition):
    """Messages as netstrings: ``12:hello world!,``.

    Lengths have no leading zeros. A Message ends only when its comma is there.

    Raises:
        PropertyError: A parameter that cannot be.
    """

    _: dataclasses.KW_ONLY
    max_length: int = DEFAULT_MAX_LENGTH
    """Largest Message in bytes."""

    name = "netstring"

    def __post_init__(self) -> None:
        check_max_length(self.max_length)

    def create(self) -> NetstringCodec:
        """For one Connection."""
        return NetstringCodec(self)


class NetstringCodec(PrefixCodec):
    """The codec of :class:`Netstring`. The comma counts as a last byte in ``_left``."""

    trailer = 1

    def __init__(self, definition: Netstring) -> None:
        super().__init__("netstring", definition.max_length)
        self._digits = len(str(definition.max_length))

    def _header(self, length: int, record: SendRecord | None) -> bytes:
        return b"%d:" % length

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes | tuple[bytes, ...]:
        """Length, Message and comma."""
        frame = super().encode(data, record)
        return (*frame, b",") if isinstance(frame, tuple) else frame + b","

    def finish(self) -> bytes:
        """The comma."""
        return b","

    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """Messages from ``start`` on whose lengths are in the next LONG_READ bytes."""
        size = len(data)
        position = start
        if self._left:
            position = self._continue(data, start, parts)
            if self._left:
                return size
        limit = self.max_length
        digits = self._digits
        append = parts.append
        end_of_lengths = min(size, position + LONG_READ)
        while position < end_of_lengths:
            colon = data.find(b":", position, position + digits + 1)
            if colon < 0:
                self._check_digits(data[position : position + digits + 1])
                return position
            text = data[position:colon]
            # int() would take spaces, signs and underscores as well.
            if not text.isdigit() or (text[0] == 0x30 and len(text) > 1):
                raise self._no_length(text)
            length = int(text)
            if length > limit:
                raise self._too_long(length)
            begin = colon + 1
            end = begin + length
            if end >= size:
                if begin < size:
                    append((data[begin:], None, False))
                self._left = end + 1 - size
                return size
            if data[end] != 0x2C:
                raise self._no_comma()
            append((data[begin:end], None, True))
            position = end + 1
        return position

    def _continue(self, data: bytes, start: int, parts: list[PartTuple]) -> int:
        left = self._left
        size = len(data) - start
        if size < left:
            if size:
                parts.append((data[start:], None, False))
            self._left = left - size
            return len(data)
        comma = start + left - 1
        if data[comma] != 0x2C:
            raise self._no_comma()
        parts.append((data[start:comma], None, True))
        self._left = 0
        return comma + 1

    def _check_digits(self, text: bytes) -> None:
        """The beginning of a length, without its colon yet."""
        if not text.isdigit() or len(text) > self._digits or (text[0] == 0x30 and len(text) > 1):
            raise self._no_length(text)

    @staticmethod
    def _no_length(text: bytes) -> ReceiveError:
        return deframing_failed(f"netstring: {text!r} is no length")

    @staticmethod
    def _no_comma() -> ReceiveError:
        return deframing_failed("netstring: no comma behind the Message")
