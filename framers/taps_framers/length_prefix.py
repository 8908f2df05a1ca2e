"""Length prefix: a fixed-width integer, then so many bytes."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import LONG_READ, FramerDefinition, too_large
from taps_framers.integers import (
    DEFAULT_MAX_LENGTH,
    ByteOrder,
    check_max_length,
    integers,
    largest,
)
from taps_framers.prefix import JOINED, PrefixCodec

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.plugin import PartTuple, SendRecord

__all__ = ["LengthPrefix", "LengthPrefixCodec"]

#: So many Messages of one length in a row are worth looking for.
RUN: Final = 32
_NONE: Final = -1
_NEVER: Final = -2
_CUTS_NOTHING: Final = Struct("")


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
        integers(self.byteorder, self.width)

    def create(self) -> LengthPrefixCodec:
        """For one Connection."""
        return LengthPrefixCodec(self)


@lru_cache(maxsize=64)
def _functions(
    byteorder: ByteOrder, width: int, max_length: int
) -> tuple[int, Callable[[int], bytes], Callable[..., tuple[int]]]:
    """The largest length, ``pack`` and ``unpack_from``: once for all Connections."""
    integer = integers(byteorder, width)
    return min(max_length, largest(width)), integer.pack, integer.unpack_from


class LengthPrefixCodec(PrefixCodec):
    """The codec of :class:`LengthPrefix`."""

    __slots__ = ("_cut", "_pack", "_unpack_from", "_width")

    def __init__(self, definition: LengthPrefix) -> None:
        width = definition.width
        max_length, self._pack, self._unpack_from = _functions(
            definition.byteorder, width, definition.max_length
        )
        super().__init__("length-prefix", max_length)
        self._width = width
        #: Cuts a frame of the length that runs had lately.
        self._cut = _CUTS_NOTHING

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
        if not self._left:
            size = len(data)
            width = self._width
            if size >= width:
                (length,) = self._unpack_from(data)
                if length == size - width and length <= self.max_length:
                    # One frame and nothing else: what a request or an answer looks like.
                    parts.append((data[width:], None, True))
                    return size
        return super().decode(data, parts)

    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """Messages from ``start`` on whose headers are in the next LONG_READ bytes."""
        size = len(data)
        width = self._width
        position = start
        if self._left:
            position = self._continue(data, start, parts)
            if self._left:
                return size
        unpack_from = self._unpack_from
        limit = self.max_length
        append = parts.append
        last_header = min(size - width, position + LONG_READ)
        before = _NONE
        while True:
            if position > last_header:
                if len(parts) >= RUN or position > size - width:
                    return position
                # The Messages are large: a step may as well have some of them.
                last_header = min(size - width, position + LONG_READ)
            (length,) = unpack_from(data, position)
            if length == before and size - position >= RUN * (width + length):
                end = self._run(data, position, length, parts)
                before = length if end > position else _NEVER  # tried once for each read
                position = end
                continue
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
            if before != _NEVER:
                before = length

    def _run(self, data: bytes, position: int, length: int, parts: list[PartTuple]) -> int:
        """Messages of one length that follow each other: cut without a step of Python for each.

        Args:
            data: At ``position``, room for so many frames at least.
            position: Of the first header.
            length: What is in it.
            parts: For the Messages.

        Returns:
            Where the run ends; ``position`` where there is none.
        """
        width = self._width
        frame = width + length
        header = data[position : position + width]
        end = position + RUN * frame
        for place in range(width):
            # One byte of all the headers at once.
            if data[position + place : end : frame] != header[place : place + 1] * RUN:
                return position
        cut = self._cut
        if cut.size != frame:
            cut = self._cut = Struct(f"{width}x{length}s")
        found = cut.iter_unpack(memoryview(data)[position:end])
        parts.extend([(message, None, True) for (message,) in found])
        return end
