"""SLIP framing for taps (RFC 1055): the framer ``slip``.

A Message ends with the byte END. Where END is in the data, two other bytes
stand for it, and so it is with the first of those.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from taps_core import plugin as tp

if TYPE_CHECKING:
    from collections.abc import Sequence

END, ESC = b"\xc0", b"\xdb"
#: What follows ESC → what it stands for.
ESCAPED = {b"\xdc": END, b"\xdd": ESC}


@dataclasses.dataclass(frozen=True)
class Slip(tp.FramerDefinition):
    """Messages of one byte or more, as serial lines and OSC carry them."""

    max_length: int = 64 * 1024
    """Largest Message in bytes."""

    name = "slip"
    api_version = 1

    def create(self) -> SlipCodec:
        """For one Connection."""
        return SlipCodec(self.max_length)


class SlipCodec(tp.Codec):
    """The codec of :class:`Slip`."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        # Bytes of the Message that decode stands in which went up already.
        self._passed = 0

    def encode(self, data: Any, record: tp.SendRecord | None, /) -> bytes:
        """The Message with END and ESC replaced, then END."""
        whole: bytes = b"".join(data) if isinstance(data, tuple) else data
        if len(whole) > self.max_length:
            raise tp.too_large("slip", len(whole), self.max_length)
        if not whole:
            # Receivers drop what is empty: senders may begin with END, to end noise.
            reason = tp.Reason.INVALID_MESSAGE_PROPERTIES
            raise tp.SendError("slip: a Message has one byte at least", reason=reason)
        return whole.replace(ESC, b"\xdb\xdd").replace(END, b"\xdb\xdc") + END

    def decode(self, data: bytes, parts: list[tp.PartTuple], /) -> int:
        """All Messages in ``data``, and of the last one what is there."""
        *ends, rest = data.split(END)
        for end in ends:
            if end or self._passed:
                parts.append((self._unescaped(end), None, True))
                self._passed = 0
        begun = rest.removesuffix(ESC)  # what follows ESC has not come yet
        if begun:
            parts.append((self._unescaped(begun), None, False))
        return len(data) - len(rest) + len(begun)

    def _unescaped(self, data: bytes) -> bytes:
        first, *others = data.split(ESC)
        try:
            plain = first + b"".join([ESCAPED[other[:1]] + other[1:] for other in others])
        except KeyError as error:
            raise tp.deframing_failed(f"slip: {error.args[0]!r} follows ESC") from None
        self._passed += len(plain)
        if self._passed > self.max_length:
            raise tp.deframing_failed(f"slip: a Message of more than {self.max_length} bytes")
        return plain

    @property
    def incomplete(self) -> bool:
        """Whether a part of a Message went up without its end."""
        return self._passed > 0

    def reset(self) -> None:
        """The next byte begins a Message."""
        self._passed = 0


@tp.hookimpl
def taps_framers() -> Sequence[tp.FramerDefinition]:
    """What this plugin declares."""
    return [Slip()]
