"""JSON lines: objects as JSON text, one a line."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from taps_core.plugin import (
    Codec,
    FramerDefinition,
    Reason,
    SendError,
    deframing_failed,
    too_large,
)
from taps_framers.integers import check_max_length

if TYPE_CHECKING:
    from taps_core.plugin import PartTuple, ReceiveError, SendRecord

__all__ = ["JSONLines", "JSONLinesCodec"]


@dataclasses.dataclass(frozen=True)
class JSONLines(FramerDefinition):
    """Messages are objects: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None``.

    On the wire each is compact JSON in UTF-8 on a line of its own. Blank lines
    are ignored, as some senders keep a connection alive with them. ``NaN`` and
    infinities, which are no JSON, are refused both ways.

    As its Messages are objects, no framer can be added after this one.

    Raises:
        PropertyError: A parameter that cannot be.
    """

    _: dataclasses.KW_ONLY
    max_length: int = 1024 * 1024
    """Largest Message in bytes of its JSON text."""

    name = "json-lines"
    objects = True

    def __post_init__(self) -> None:
        check_max_length(self.max_length)

    def create(self) -> JSONLinesCodec:
        """For one Connection."""
        return JSONLinesCodec(self)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder(parse_constant=_no_number).decode


class JSONLinesCodec(Codec):
    """The codec of :class:`JSONLines`.

    JSON can only be read whole, so here, unlike in other codecs, the parts of
    a line are collected.
    """

    objects = True

    def __init__(self, definition: JSONLines) -> None:
        self.max_length = definition.max_length
        self._collected = bytearray()

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        """The object as a line."""
        try:
            line = _encode(data).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SendError(
                f"json-lines: {type(data).__name__} cannot be written as JSON: {error}",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
            ) from error
        if len(line) > self.max_length:
            raise too_large("json-lines", len(line), self.max_length)
        return line + b"\n"

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """The objects of all lines that end in ``data``."""
        lines = data.split(b"\n")
        rest = lines.pop()
        collected = self._collected
        if lines and collected:
            collected += lines[0]
            lines[0] = bytes(collected)
            collected.clear()
        for line in lines:
            if len(line) > self.max_length:
                raise self._too_long()
            if line and not line.isspace():
                parts.append((_parsed(line), None, True))
        collected += rest
        if len(collected) > self.max_length:
            raise self._too_long()
        return len(data)

    def _too_long(self) -> ReceiveError:
        return deframing_failed(
            f"json-lines: a line of more than {self.max_length} bytes", detail="too-large"
        )

    @property
    def incomplete(self) -> bool:
        """Whether a line has begun and its end did not come."""
        return bool(self._collected)

    def reset(self) -> None:
        """The next byte begins a line."""
        self._collected.clear()


def _parsed(line: bytes) -> Any:
    try:
        return _decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise deframing_failed(f"json-lines: not JSON: {error}", detail="not-json") from error
