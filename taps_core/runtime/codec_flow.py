"""The flow that drives a :class:`~taps_core.model.framer.Codec`.

Down: one ``encode`` and one ``send`` per Message. Up: one ``decode`` per part
that arrives, one ``received`` per read. Nothing is copied here except the
beginning of a header that the segment before had cut off.

Whether a frame may go on in the next part is told by the part: a byte stream
never ends a Message, so frames run on; where the layer below ends one (a
datagram, an SCTP Message, another framer's Message), frames end with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.errors import ConnectionError, Reason, ReceiveError, SendError
from taps_core.model.flow import LayerFlow
from taps_core.model.framer import HEADER_ROOM, LONG_READ, cut_off, deframing_failed, too_large
from taps_core.runtime.framed_sends import FramedRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.model.flow import Data, Flow, PartTuple
    from taps_core.model.framer import Codec
    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["CodecFlow"]


#: Messages after which a long read has done enough for one step.
FEW: Final = 32


class _Outgoing:
    """A Message that is being sent in parts.

    ``head`` is set while it waits for the first part; ``left`` is how many
    bytes may (``exact``: must) still come. ``collected`` is a list where the
    codec wants the Message whole. ``refused`` is what was wrong with it: then
    its other parts are refused with the same words.
    """

    __slots__ = (
        "collected",
        "exact",
        "head",
        "left",
        "limit",
        "lower_length",
        "refused",
        "started",
    )

    def __init__(self, length: int | None, limit: int) -> None:
        self.exact = length is not None
        self.limit = limit if length is None else length
        self.left = self.limit
        self.head = b""
        self.started = False
        self.collected: list[bytes] | None = None
        self.lower_length: int | None = None
        self.refused: SendError | None = None


class CodecFlow(LayerFlow):
    """Messages above, frames below.

    A frame that cannot be parsed, or that is cut off, is a ReceiveError with
    DEFRAMING_FAILED. On a datagram stack it costs that datagram; elsewhere it
    ends the receive side, and what still comes is discarded. What was found
    before it is delivered.

    Messages sent in parts go out as they come where the codec can frame them
    so; otherwise they are collected. A part that does not fit the declared
    length is refused. Where that leaves a Message which has begun to leave
    without an end, the peer would take what follows for its rest: the
    Connection is aborted, and ``closed`` comes up with a ConnectionError.
    """

    # Within the object: as entries of a dict they take twice the room.
    __slots__ = (
        "_backlog",
        "_codec",
        "_datagrams",
        "_deaf",
        "_done",
        "_error",
        "_finished_behind",
        "_open_context",
        "_outgoing",
        "_paused",
        "_plain",
        "_rest",
        "_skipping",
        "flush",
        "session",
    )

    def __init__(self, lower: Flow, codec: Codec, *, datagrams: bool) -> None:
        """Put ``codec`` over ``lower``.

        Args:
            lower: An established, unstarted flow.
            codec: A fresh one, for this flow alone.
            datagrams: Whether the unit of the stack below is the datagram.
        """
        super().__init__(lower)
        # Streams of the association below are not framed: who opens one
        # chooses its framers (RFC 9622, section 7.4).
        self.session = lower.session
        self._codec = codec
        self._datagrams = datagrams
        # Once per turn and Message: nothing to do here.
        self.flush = lower.flush  # type: ignore[method-assign]  # same signature, one call less
        self._outgoing: _Outgoing | None = None
        self._rest = b""
        # The context of the Message that decode stands in.
        self._open_context: MessageContext | None = None
        # A datagram is lost, and its other parts with it.
        self._skipping = False
        # What arrived and waits to be decoded, as the layer above has paused; of the
        # first part so many bytes are done. An end that came behind it waits too.
        self._backlog: deque[PartTuple] | None = None
        self._done = 0
        self._finished_behind = False
        self._paused = False
        # Nothing is received any more: a fatal error, or close or abort from above.
        self._deaf = False
        # None of all that: what comes begins with a frame, and goes up at once.
        self._plain = True
        self._error: ConnectionError | None = None

    # -- down

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Frame a Message, or a part of one, and pass it down."""
        if end_of_message and self._outgoing is None and (record is None or record.length is None):
            return self.lower.send(self._codec.encode(data, record), record, True)
        return self._send_part(data, record, end_of_message)

    def write_through(self, data: Data, /) -> None:
        """Frame a Message and let it leave."""
        if self._outgoing is None:
            self.lower.write_through(self._codec.encode(data, None))
        else:
            super().write_through(data)

    def _send_part(self, data: Data, record: SendRecord | None, end: bool) -> bool | None:
        message = self._outgoing
        if message is None:
            message = self._outgoing = _Outgoing(
                None if record is None else record.length, self._codec.max_length
            )
            if not end:
                self._open(message, record)
            else:
                # Whole, yet with a length to hold it to.
                message.collected = []
        try:
            size = self._admit(message, data, end)
            if message.collected is None:
                accepted = self._pass_part(message, data, record, end)
            else:
                accepted = self._collect(message.collected, data, record, end)
        except SendError as error:
            self._refuse(message, error, end)
            raise
        message.left -= size
        if end:
            self._outgoing = None
        return accepted

    def _open(self, message: _Outgoing, record: SendRecord | None) -> None:
        codec = self._codec
        length = message.limit if message.exact else None
        head = None
        try:
            if codec.streams:
                head = codec.begin(length, record)
            if head is None and message.exact and message.limit > codec.max_length:
                raise too_large("Message", message.limit, codec.max_length)
        except SendError as error:
            message.refused = error
        if head is None:
            message.collected = []
            return
        message.head = head
        if length is not None:
            message.lower_length = len(head) + length + codec.trailer

    def _admit(self, message: _Outgoing, data: Data, end: bool) -> int:
        """The size of a part that fits its Message; otherwise SendError."""
        if message.refused is not None:
            raise SendError(str(message.refused), reason=message.refused.reason)
        if isinstance(data, bytes):
            size = len(data)
        elif isinstance(data, tuple):
            size = sum(map(len, data))
        else:
            raise SendError(
                f"{type(data).__name__}: only bytes can be sent in parts",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
            )
        if size > message.left and not message.exact:
            raise too_large("Message", message.limit - message.left + size, message.limit)
        if size > message.left or (end and message.exact and size < message.left):
            raise SendError(
                f"{message.limit - message.left + size} bytes of a Message"
                f" declared as {message.limit}",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
            )
        return size

    def _pass_part(
        self, message: _Outgoing, data: Data, record: SendRecord | None, end: bool
    ) -> bool | None:
        tail = self._codec.finish() if end else b""
        if message.head or tail:
            buffers = data if isinstance(data, tuple) else (data,)
            data = tuple(part for part in (message.head, *buffers, tail) if part)
        if record is not None and record.length is not None:
            record = FramedRecord(record, self, message.lower_length)
        accepted = self.lower.send(data, record, end)
        message.head = b""
        message.started = True
        return accepted

    def _collect(
        self, collected: list[bytes], data: Data, record: SendRecord | None, end: bool
    ) -> bool | None:
        collected.extend(part for part in (data if isinstance(data, tuple) else (data,)) if part)
        if not end:
            return None
        frame = self._codec.encode(tuple(collected), record)
        if record is not None and record.length is not None:
            record = FramedRecord(record, self, None)
        return self.lower.send(frame, record, True)

    def _refuse(self, message: _Outgoing, error: SendError, end: bool) -> None:
        """A part was not taken: what becomes of its Message?"""
        if message.started:
            # Earlier parts are on their way. Others may fit, but not after the last.
            if end:
                self._give_up(f"a Message cannot be completed: {error}")
        elif end:
            self._outgoing = None
        else:
            message.refused = error
            message.collected = []

    def withdraw(self) -> bool:
        """Forget the Message that is being sent in parts, unless a part has left for good."""
        message = self._outgoing
        if message is not None and message.started and not self.lower.withdraw():
            return False
        self._outgoing = None
        return True

    def _give_up(self, sentence: str, reason: Reason = Reason.LOCAL_ABORT) -> None:
        self._error = ConnectionError(sentence, reason=reason)
        self.abort()

    def close(self) -> None:
        """Close the flow below; nothing is received any more."""
        self._be_deaf()
        self.lower.close()

    def abort(self) -> None:
        """Abort the flow below; nothing is received any more."""
        self._be_deaf()
        self.lower.abort()

    def _be_deaf(self) -> None:
        self._deaf = True
        self._plain = False
        self._rest = b""
        self._backlog = None
        self._finished_behind = False

    def read(self, property: str, /) -> Any:
        """As below, but no Message may be longer than a frame."""
        value = self.lower.read(property)
        if property in ("sendMsgMaxLen", "recvMsgMaxLen"):
            return self._codec.max_length if value is None else min(value, self._codec.max_length)
        return value

    # -- up

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Decode what arrived and pass up what was found."""
        if self._plain and len(parts) == 1:
            data, context, end_of_message = parts[0]
            if context is None and not end_of_message and len(data) <= LONG_READ:
                # One read of a byte stream, at a frame's border: nearly every call.
                out: list[PartTuple] = []
                try:
                    consumed = self._codec.decode(data, out)
                    if consumed != len(data):
                        self._keep(data, consumed, end_of_message)
                except ReceiveError as error:
                    if not self._survive(out, error, context, end_of_message):
                        return
                    out = []
                if out:
                    self.receiver.received(out)
                return
        if self._deaf:
            return
        if self._backlog:
            self._backlog.extend(parts)
        else:
            self._backlog = deque(parts)
            self._work()

    def _work(self, *, paused: bool = False) -> None:
        """Decode the backlog step by step, until it is done or the layer above pauses.

        Args:
            paused: Whether a pause holds nothing back: it is all that will ever come.
        """
        out: list[PartTuple] = []
        while (backlog := self._backlog) and not self._deaf:
            if not self._step(backlog, out):
                return
            # Few are large, and there already as what was read: they can go together.
            if len(out) >= FEW:
                self.receiver.received(out)
                out = []
                if self._paused and not paused:
                    break
        if not self._backlog:
            self._backlog = None
        self._look()
        if out:
            self.receiver.received(out)

    def _look(self) -> None:
        self._plain = self._open_context is None and not (
            self._rest or self._skipping or self._backlog or self._deaf
        )

    def _step(self, backlog: deque[PartTuple], out: list[PartTuple]) -> bool:
        """Decode a part, or some of it; False if receiving has ended."""
        data, context, end = backlog[0]
        if self._skipping:
            backlog.popleft()
            self._skipping = not end
            return True
        if self._rest:
            data = self._rest + data
            self._rest = b""
            backlog[0] = (data, context, end)
        start = self._done
        long = len(data) - start > LONG_READ
        done = False
        try:
            if context is None and self._open_context is None:
                reached = self._decode_from(data, start, out)
            else:
                reached = self._decode_with(data, start, out, context)
            if long and start < reached < len(data):
                self._done = reached
                return True
            done = True
            backlog.popleft()
            self._done = 0
            if reached != len(data):
                self._keep(data, reached, end)
            if end and self._codec.incomplete:
                raise cut_off()
        except ReceiveError as error:
            if not done:
                backlog.popleft()
                self._done = 0
            survives = self._survive(out, error, context, end)
            out.clear()
            return survives
        return True

    def _decode_from(self, data: bytes, start: int, out: list[PartTuple]) -> int:
        if len(data) - start > LONG_READ:
            return self._codec.decode_from(data, start, out)
        return start + self._codec.decode(data[start:] if start else data, out)

    def pause(self) -> None:
        """Deliver no more; what was read waits undecoded."""
        self._paused = True
        self.lower.pause()

    def resume(self) -> None:
        """Deliver again: first, from the next loop turn on, what was read before."""
        self._paused = False
        if self._backlog:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self.lower.resume()

    def _go_on(self) -> None:
        if self._paused or self._deaf:
            return
        try:
            self._work()
            if self._backlog:
                return
            if self._finished_behind:
                self._finished_behind = False
                self.finished()
        except Exception as error:  # noqa: BLE001  # what fails above ends this flow alone, as at a transport's entry
            self._give_up(f"failed on what it received: {error}", Reason.PROTOCOL_FAILED)
            return
        if not (self._paused or self._deaf):
            self.lower.resume()

    def _keep(self, data: bytes, consumed: int, end_of_message: bool) -> None:
        if not isinstance(consumed, int) or not 0 <= consumed <= len(data):
            # Nothing would ever come of it, and nobody would know why.
            raise ValueError(
                f"decode of {type(self._codec).__name__} returned {consumed!r} for the number of "
                f"bytes that it has used of {len(data)}"
            )
        if end_of_message:
            raise cut_off()
        self._rest = data[consumed:]
        self._plain = False
        if len(self._rest) > self._codec.max_length + HEADER_ROOM:
            raise deframing_failed(f"{len(self._rest)} bytes are not yet a frame")

    def _decode_with(
        self, data: bytes, start: int, out: list[PartTuple], context: MessageContext | None
    ) -> int:
        """Decode, and let what is found inherit the context of what it was found in.

        A Message in several parts keeps the context that it began with: its
        parts must carry one and the same.
        """
        inherited = self._open_context if self._codec.incomplete else context
        found = len(out)
        try:
            return self._decode_from(data, start, out)
        finally:
            for index in range(found, len(out)):
                payload, own, end = out[index]
                if inherited is not None:
                    if own is None:
                        out[index] = (payload, inherited, end)
                    else:
                        own.inherit(inherited)
                if end:
                    inherited = context
            self._open_context = inherited if self._codec.incomplete else None

    def _survive(
        self,
        found: list[PartTuple],
        error: ReceiveError,
        context: MessageContext | None,
        end_of_message: bool,
    ) -> bool:
        """Pass up what was found before ``error``, then the error; True if receiving goes on."""
        self._rest = b""
        self._open_context = None
        if error.context is None:
            error.context = context
        if self._datagrams:
            self._codec.reset()
            self._skipping = not end_of_message
            self._look()
            while found and not found[-1][2]:
                found.pop()
        if found:
            self.receiver.received(list(found))
        # Whoever got that may have closed or aborted.
        if not self._deaf:
            if not self._datagrams:
                self._be_deaf()
            self.receiver.failed(error, self._deaf)
        return not self._deaf

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """A Message of the framer below was lost, and what we had of it."""
        self._work(paused=True)
        if self._deaf:
            return
        self._rest = b""
        self._open_context = None
        self._skipping = False
        self._codec.reset()
        if fatal:
            self._be_deaf()
        self._look()
        self.receiver.failed(error, fatal)

    def finished(self) -> None:
        """The end of the stream may not cut off a frame."""
        if self._backlog:
            self._finished_behind = True
            return
        if self._deaf:
            return
        if self._rest or self._codec.incomplete:
            self._deaf = True
            self.receiver.failed(cut_off(), True)
        else:
            self.receiver.finished()

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass up, with the record that came from above."""
        if isinstance(record, FramedRecord) and record.layer is self:
            record = record.upper
        self.receiver.outcome(record, error)

    def closed(self, error: Exception | None) -> None:
        """Pass up, behind all that was read; an orderly end may not cut off a frame either."""
        self._work(paused=True)
        if self._finished_behind:
            self._finished_behind = False
            self.finished()
        if error is None and not self._deaf and (self._rest or self._codec.incomplete):
            self.receiver.failed(cut_off(), True)
        self._deaf = True
        self.receiver.closed(self._error or error)
