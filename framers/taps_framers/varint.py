"""Varint: the length as protobuf writes it (unsigned LEB128), then so many bytes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from taps_core.plugin import LONG_READ, FramerDefinition, deframing_failed
from taps_framers.integers import DEFAULT_MAX_LENGTH, check_max_length
from taps_framers.prefix import PrefixCodec

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, SendRecord

__all__ = ["Varint", "VarintCodec"]

#: Seven bits a byte: 64-bit integers need ten bytes, and no length needs more.
_LAST_SHIFT: Final = 63
_ONE_BYTE: Final = tuple(bytes((length,)) for length in range(0x80))


@dataclasses.dataclass(frozen=True)
class Varint(FramerDefinition):
    """Messages behind their length as a varint.

    The length is an unsigned LEB128 integer, seven bits a byte, least
    significant first: what protobuf's «delimited» streams use. (It is not the
    variable-length integer of QUIC.) Lengths that were written longer than
    needed are accepted, as protobuf does, up to ten bytes.

    Raises:
        PropertyError: A parameter that cannot be.
    """

    _: dataclasses.KW_ONLY
    max_length: int = DEFAULT_MAX_LENGTH
    """Largest Message in bytes."""

    name = "varint"

    def __post_init__(self) -> None:
        check_max_length(self.max_length)

    def create(self) -> VarintCodec:
        """For one Connection."""
        return VarintCodec(self)


class VarintCodec(PrefixCodec):
    """The codec of :class:`Varint`."""

    def __init__(self, definition: Varint) -> None:
        super().__init__("varint", definition.max_length)

    def _header(self, length: int, record: SendRecord | None) -> bytes:
        if length < 0x80:
            return _ONE_BYTE[length]
        header = bytearray()
        while length > 0x7F:
            header.append(length & 0x7F | 0x80)
            length >>= 7
        header.append(length)
        return bytes(header)

    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """Messages from ``start`` on whose headers are in the next LONG_READ bytes."""
        size = len(data)
        position = start
        if self._left:
            position = self._continue(data, start, parts)
            if self._left:
                return size
        limit = self.max_length
        append = parts.append
        end_of_headers = min(size, position + LONG_READ)
        while position < end_of_headers:
            length = data[position]
            begin = position + 1
            if length > 0x7F:
                length &= 0x7F
                shift = 7
                while True:
                    if begin == size:
                        return position
                    byte = data[begin]
                    begin += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                    if shift > _LAST_SHIFT:
                        raise deframing_failed("varint: a length of more than ten bytes")
            end = begin + length
            if end > size or length > limit:
                if length > limit:
                    raise self._too_long(length)
                if begin < size:
                    append((data[begin:], None, False))
                self._left = end - size
                return size
            append((data[begin:end], None, True))
            position = end
        return position
