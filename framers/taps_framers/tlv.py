"""TLV: type, length, then so many bytes of value, which is the Message."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    LONG_READ,
    FramerDefinition,
    MessageContext,
    PropertyError,
    Reason,
    SendError,
)
from taps_framers.integers import (
    DEFAULT_MAX_LENGTH,
    ByteOrder,
    check_max_length,
    integers,
    largest,
)
from taps_framers.prefix import PrefixCodec

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, SendRecord

__all__ = ["TLV", "TLVCodec"]

#: Under which the type stands in a MessageContext, besides the framer's name.
_KEY: Final = "type"


@dataclasses.dataclass(frozen=True)
class TLV(FramerDefinition):
    """Messages behind a type and their length.

    The type goes with the MessageContext (RFC 9622, section 9.1.2.2)::

        await connection.send(data, MessageContext().add("tlv", "type", 7))
        message.context.get("tlv", "type")

    Raises:
        PropertyError: A parameter that cannot be.
    """

    type_width: int = 1
    """Bytes of the type: 1, 2, 4 or 8."""
    length_width: int = 4
    """Bytes of the length, which counts the value alone: 1, 2, 4 or 8."""
    _: dataclasses.KW_ONLY
    max_length: int = DEFAULT_MAX_LENGTH
    """Largest Message in bytes; what the width allows, if that is less."""
    byteorder: ByteOrder = "big"
    """Order of the bytes of type and length."""
    default_type: int = 0
    """Type of a Message whose context names none."""

    name = "tlv"

    def __post_init__(self) -> None:
        check_max_length(self.max_length)
        integers(self.byteorder, self.type_width, self.length_width)
        if not 0 <= self.default_type <= largest(self.type_width):
            raise PropertyError(
                f"{self.default_type!r}: default_type does not fit {self.type_width} bytes"
            )

    def create(self) -> TLVCodec:
        """For one Connection."""
        return TLVCodec(self)


class TLVCodec(PrefixCodec):
    """The codec of :class:`TLV`."""

    def __init__(self, definition: TLV) -> None:
        super().__init__("tlv", min(definition.max_length, largest(definition.length_width)))
        header = integers(definition.byteorder, definition.type_width, definition.length_width)
        self._width = header.size
        self._pack = header.pack
        self._unpack_from = header.unpack_from
        self._default_type = definition.default_type
        self._largest_type = largest(definition.type_width)

    def _header(self, length: int, record: SendRecord | None) -> bytes:
        kind: Any = self._default_type
        if record is not None:
            kind = record.context.get(self._name, _KEY, default=kind)
            if not isinstance(kind, int) or not 0 <= kind <= self._largest_type:
                raise SendError(
                    f"tlv: {kind!r} is no type between 0 and {self._largest_type}",
                    reason=Reason.INVALID_MESSAGE_PROPERTIES,
                    context=record.context,
                )
        return self._pack(kind, length)

    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """Messages from ``start`` on, each with a context that holds its type."""
        size = len(data)
        position = start
        if self._left:
            position = self._continue(data, start, parts)
            if self._left:
                return size
        width = self._width
        unpack_from = self._unpack_from
        limit = self.max_length
        append = parts.append
        last_header = min(size - width, position + LONG_READ)
        while position <= last_header:
            kind, length = unpack_from(data, position)
            if length > limit:
                raise self._too_long(length)
            context = MessageContext().add(self._name, _KEY, kind)
            begin = position + width
            position = begin + length
            if position > size:
                if begin < size:
                    append((data[begin:], context, False))
                self._left = position - size
                self._context = context
                return size
            append((data[begin:position], context, True))
        return position
