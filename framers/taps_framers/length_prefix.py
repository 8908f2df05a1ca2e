"""Length prefix: a fixed-width integer, then so many bytes."""

from __future__ import annotations

import dataclasses
from struct import Struct
from typing import TYPE_CHECKING, Any

from taps_core.plugin import FramerDefinition, too_large
from taps_framers.integers import (
    DEFAULT_MAX_LENGTH,
    ByteOrder,
    check_max_length,
    integer_format,
    largest,
)
from taps_framers.prefix import JOINED, PrefixCodec

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, SendRecord

__all__ = ["LengthPrefix", "LengthPrefixCodec"]


@dataclasses.dataclass(frozen=True)
class LengthPrefix(FramerDefinition):
    """Messages behind their length.

    The length counts the Message alone, not itself.

    Raises:
        PropertyError: A parameter that cannot be.
    """

    width: int = 4
    """Bytes of the length: 1, 2, 4 or 8."""
    _: dataclasses.KW_ONLY
    max_length: int = DEFAULT_MAX_LENGTH
    """Largest Message in bytes; what the width allows, if that is less."""
    byteorder: ByteOrder = "big"
    """Order of the length's bytes."""

    name = "length-prefix"

    def __post_init__(self) -> None:
        check_max_length(self.max_length)
        integer_format(self.byteorder, self.width)

    def create(self) -> LengthPrefixCodec:
        """For one Connection."""
        return LengthPrefixCodec(self)


class LengthPrefixCodec(PrefixCodec):
    """The codec of :class:`LengthPrefix`."""

    def __init__(self, definition: LengthPrefix) -> None:
        super().__init__("length-prefix", min(definition.max_length, largest(definition.width)))
        self._width = definition.width
        integer = Struct(integer_format(definition.byteorder, definition.width))
        self._pack = integer.pack
        self._unpack_from = integer.unpack_from

    def _header(self, length: int, record: SendRecord | None) -> bytes:
        return self._pack(length)

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes | tuple[bytes, ...]:
        """Length and Message."""
        # The commonest framer: not a call more than needed.
        if type(data) is bytes:
            length = len(data)
            if length > self.max_length:
                raise too_large(self._name, length, self.max_length)
            if length < JOINED:
                return self._pack(length) + data
        return super().encode(data, record)

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """All Messages in ``data``."""
        size = len(data)
        position = 0
        width = self._width
        unpack_from = self._unpack_from
        limit = self.max_length
        if self._left:
            position = self._continue(data, parts)
            if self._left:
                return size
        elif size >= width:
            (length,) = unpack_from(data)
            if length == size - width and length <= limit:
                # One frame and nothing else: what a request or an answer looks like.
                parts.append((data[width:], None, True))
                return size
        append = parts.append
        last_header = size - width
        while position <= last_header:
            (length,) = unpack_from(data, position)
            start = position + width
            position = start + length
            if position > size or length > limit:
                if length > limit:
                    raise self._too_long(length)
                if start < size:
                    append((data[start:], None, False))
                self._left = position - size
                return size
            append((data[start:position], None, True))
        return position
