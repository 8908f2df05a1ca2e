"""Framers with one defect each, and the test that has to name it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from taps_core.model.framer import Codec, deframing_failed, too_large
from taps_core.model.layers import FramerDefinition

if TYPE_CHECKING:
    from taps_core.model.flow import PartTuple
    from taps_core.model.messages import SendRecord

__all__ = ["SABOTAGED", "Honest"]

LIMIT = 30_000


class HonestCodec(Codec):
    """A length of four bytes before each Message; refuses Messages that begin with a zero."""

    max_length = LIMIT

    def encode(self, data: Any, record: SendRecord | None, /) -> bytes:
        whole: bytes = b"".join(data) if isinstance(data, tuple) else data
        self.check(whole)
        return len(whole).to_bytes(4) + whole

    def check(self, whole: bytes) -> None:
        if len(whole) > self.max_length:
            raise too_large("honest", len(whole), self.max_length)
        if whole[:1] == b"\0":
            self.refuse()

    def refuse(self) -> None:
        raise too_large("begins with a zero", None, 0)

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        position = 0
        while (message := self.next(data, position)) is not None:
            position += 4 + len(message)
            parts.append((self.made(message), None, True))
        return position

    def made(self, message: bytes) -> Any:
        return message

    def next(self, data: bytes, position: int) -> bytes | None:
        if len(data) - position < 4:
            return None
        length = int.from_bytes(data[position : position + 4])
        if length > self.max_length:
            self.too_long(length)
        if len(data) - position - 4 < length:
            return None
        return data[position + 4 : position + 4 + length]

    def too_long(self, length: int) -> None:
        raise deframing_failed(f"a length of {length}")


@dataclasses.dataclass(frozen=True)
class Honest(FramerDefinition):
    """Without a defect."""

    codec: ClassVar[type[HonestCodec]] = HonestCodec
    caught_by: ClassVar[str] = ""
    name = "honest"

    def create(self) -> HonestCodec:
        return self.codec()


SABOTAGED: list[type[Honest]] = []


def sabotage(caught_by: str) -> Any:
    """A decorator: a definition that makes codecs of the class below it."""

    def decorate(cls: type[HonestCodec]) -> type[HonestCodec]:
        definition = type(cls.__name__, (Honest,), {"codec": cls, "caught_by": caught_by})
        SABOTAGED.append(definition)
        return cls

    return decorate


@sabotage("test_messages_come_back_as_they_were")
class Strips(HonestCodec):
    """Takes line ends for its own."""

    def made(self, message: bytes) -> Any:
        return message.rstrip(b"\r\n") or message


@sabotage("test_an_empty_message_is_a_message")
class LosesEmptyMessages(HonestCodec):
    """Finds nothing in a frame of length 0."""

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        found: list[PartTuple] = []
        consumed = super().decode(data, found)
        parts.extend(part for part in found if part[0])
        return consumed


@sabotage("test_a_stream_may_be_cut_anywhere")
class WantsWholeHeaders(HonestCodec):
    """Takes half a header for a whole one."""

    def next(self, data: bytes, position: int) -> bytes | None:
        if 0 < len(data) - position < 4 and len(data) == 3:
            return b""  # three zeros are a length of zero
        return super().next(data, position)

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        if len(data) == 3 and data == b"\0\0\0":
            parts.append((b"", None, True))
            return 3
        return super().decode(data, parts)


@sabotage("test_one_read_may_bring_several_messages")
class OneByOne(HonestCodec):
    """Finds sixteen Messages in a read, and looks for the others at the next one."""

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        position = 0
        for _ in range(16):
            message = self.next(data, position)
            if message is None:
                break
            position += 4 + len(message)
            parts.append((message, None, True))
        return position


@sabotage("test_data_comes_up_as_bytes")
class MakesViews(HonestCodec):
    """Saves a copy."""

    def made(self, message: bytes) -> Any:
        return bytearray(message)


@sabotage("test_connections_share_nothing")
class SharesState(HonestCodec):
    """Keeps what it stands in where all Connections keep it."""

    standing: ClassVar[list[bytes]] = []

    def __init__(self) -> None:
        self.standing.clear()

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        self.standing.append(data)
        whole = b"".join(self.standing)
        found: list[PartTuple] = []
        consumed = super().decode(whole, found)
        self.standing[:] = [whole[consumed:]] if whole[consumed:] else []
        parts.extend(found)
        return len(data)

    @property
    def incomplete(self) -> bool:
        return bool(self.standing)

    def too_long(self, length: int) -> None:
        self.standing.clear()
        super().too_long(length)


@sabotage("test_what_cannot_be_framed_raises_send_error")
class RefusesInItsOwnWords(HonestCodec):
    """Raises what it likes."""

    def refuse(self) -> None:
        raise ValueError("begins with a zero")


@sabotage("test_a_message_too_large_is_refused")
class TakesEverything(HonestCodec):
    """Does not look at the size of what it sends."""

    def check(self, whole: bytes) -> None:
        if whole[:1] == b"\0":
            self.refuse()


@sabotage("test_the_largest_message_is_carried")
class OneTooFew(HonestCodec):
    """Receives what is below the limit, and sends what is at it too."""

    def next(self, data: bytes, position: int) -> bytes | None:
        if data[position : position + 4] == LIMIT.to_bytes(4):
            self.too_long(LIMIT)
        return super().next(data, position)


@sabotage("test_a_cut_off_message_is_an_error")
class ForgetsTheRest(HonestCodec):
    """Eats what it cannot parse yet, and remembers it without saying so."""

    rest = b""

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        whole = self.rest + data
        consumed = super().decode(whole, parts)
        self.rest = whole[consumed:]
        return len(data)

    def reset(self) -> None:
        self.rest = b""


@sabotage("test_garbage_ends_in_a_documented_error")
class TripsOverGarbage(HonestCodec):
    """Lets an exception of its own escape."""

    def too_long(self, length: int) -> None:
        if length % 2:
            raise ZeroDivisionError("by a length that nobody expected")
        super().too_long(length)


@sabotage("test_garbage_is_held_within_bounds")
class WaitsForever(HonestCodec):
    """Has a limit, and waits for longer Messages all the same."""

    hoard: list[bytes]

    def __init__(self) -> None:
        self.hoard = []

    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        if self.hoard:
            self.hoard.append(bytes(bytearray(data)))
            return len(data)
        return super().decode(data, parts)

    def next(self, data: bytes, position: int) -> bytes | None:
        length = int.from_bytes(data[position : position + 4])
        if length > self.max_length and data[:1] == b"9" and len(data) - position == 4:
            self.hoard.append(data)
        return super().next(data, position)

    @property
    def incomplete(self) -> bool:
        return bool(self.hoard)

    def too_long(self, length: int) -> None:
        if not self.hoard:
            super().too_long(length)
