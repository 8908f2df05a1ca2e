"""Message Framers (RFC 9622, section 9.1.2; RFC 9623, section 6).

Two ways to write one:

* :class:`Codec`, for everything that only turns Messages into bytes and back:
  ``encode`` one Message, ``decode`` all that a read brought. The fast way.
* :class:`Framer`, with the RFC's events and cursor actions, for protocols
  that speak before the application does, change modes or answer by
  themselves.

Both are made anew for each Connection by a
:class:`~taps_core.plugin.FramerDefinition`. Errors of the peer's framing are
raised as :class:`~taps_core.ReceiveError` (``DEFRAMING_FAILED``): on a stream
that ends the receive side, on datagrams it costs that datagram.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.model.errors import CUT_OFF, Reason, ReceiveError, SendError

if TYPE_CHECKING:
    from taps_core.model.flow import Data, PartTuple
    from taps_core.model.layers import FramerDefinition, SecurityLayer
    from taps_core.model.messages import MessageContext, SendRecord

__all__ = [
    "HEADER_ROOM",
    "LONG_READ",
    "Codec",
    "Framer",
    "FramerControl",
    "Parsed",
    "cut_off",
    "deframing_failed",
    "too_large",
]

#: Bytes above which a read is decoded step by step.
LONG_READ: Final = 16 * 1024
#: Bytes beyond ``max_length`` that may wait to be parsed: room for headers.
HEADER_ROOM: Final = 64 * 1024


def deframing_failed(sentence: str, *, detail: str | None = None) -> ReceiveError:
    """The error for bytes that are no frame."""
    return ReceiveError(sentence, reason=Reason.DEFRAMING_FAILED, detail=detail)


def cut_off() -> ReceiveError:
    """The error for a frame whose end will not come."""
    return deframing_failed("the data ended inside a frame", detail=CUT_OFF)


def too_large(what: str, size: int | None, limit: int) -> SendError:
    """The error for a Message above a framer's ``max_length``."""
    size_text = "more" if size is None else f"{size}"
    return SendError(
        f"{what}: {size_text} bytes, at most {limit} allowed", reason=Reason.MESSAGE_TOO_LARGE
    )


class Codec(ABC):
    """Turns Messages into bytes and back; one object per Connection and direction pair."""

    #: Largest Message, in bytes of its payload. Mandatory: memory is bounded by it.
    max_length: int
    #: True for a codec that takes and makes objects rather than bytes.
    objects: bool = False
    #: True where ``begin`` and ``finish`` can frame a Message sent in parts: the
    #: parts themselves go out as they are. Otherwise they are collected, up to
    #: ``max_length``, and encoded as one.
    streams: bool = False
    #: Bytes that ``finish`` returns, always.
    trailer: int = 0

    @abstractmethod
    def encode(self, data: Any, record: SendRecord | None, /) -> bytes | tuple[bytes, ...]:
        """A whole Message as it goes down.

        Args:
            data: ``bytes``, a tuple of ``bytes`` (several buffers of one
                Message), or the object that this framer takes.
            record: As in ``Flow.send``.

        Returns:
            The frame, or buffers that follow each other: nothing is joined
            that the kernel can gather.

        Raises:
            SendError: It cannot be a frame (too large, holds the delimiter…).
        """

    def begin(self, length: int | None, record: SendRecord | None, /) -> bytes | None:
        """What goes out before the first part of a Message sent in parts.

        ``None``: cannot start without knowing more (``length``), so collect.

        Raises:
            SendError: No Message of that length can be sent.
        """
        return None

    def finish(self) -> bytes:
        """What goes out after the last part of a Message sent in parts: ``trailer`` bytes."""
        return b""

    @abstractmethod
    def decode(self, data: bytes, parts: list[PartTuple], /) -> int:
        """Parse as many frames as ``data`` holds; append them to ``parts``.

        Parts of a Message are appended as they come (``end_of_message`` False
        on all but the last): the Connection assembles, within its bound. Only
        incomplete headers are left for the next call.

        Args:
            data: What the last call left, followed by what arrived.
            parts: Receives ``(payload, context or None, end_of_message)``. A
                context belongs to one Message (all parts of it); what the
                layers below say of the Message is added to it.

        Returns:
            Bytes consumed. The rest comes again, with more behind it.

        Raises:
            ReceiveError: ``data`` is not a frame (:func:`deframing_failed`).
                What was appended before is still delivered.
        """

    def decode_from(self, data: bytes, start: int, parts: list[PartTuple], /) -> int:
        """As ``decode``, but from ``start`` on, and only some of what is there.

        For long reads. Every byte may be a Message, and each Message is an object of
        some hundred bytes, so the layer above has its say in between. This one decodes
        slices, which costs a copy; a codec for large Messages can do better.

        Args:
            data: As for ``decode``.
            start: Where to begin.
            parts: For some Messages: up to LONG_READ or so.

        Returns:
            Where it stopped; ``start`` if nothing can be done before more arrives.
        """
        size = LONG_READ
        while True:
            reached = start + self.decode(data[start : start + size], parts)
            if reached > start or start + size >= len(data):
                return reached
            size *= 2

    @property
    def incomplete(self) -> bool:
        """Whether ``decode`` stands in the middle of a Message (rest bytes aside)."""
        return False

    def reset(self) -> None:  # noqa: B027  # codecs without state between frames need none
        """Forget the Message that was cut off; the next byte begins a frame."""


class Parsed(NamedTuple):
    """What :meth:`Framer.parse` shows."""

    data: bytes
    context: MessageContext | None
    end_of_message: bool


class FramerControl(ABC):
    """What a :class:`Framer` acts through; implemented by the runtime and by test rigs."""

    @abstractmethod
    def send_below(self, data: Data, end_of_message: bool) -> None:
        """To the next lower protocol."""

    @abstractmethod
    def parse(self, minimum: int, maximum: int) -> Parsed | None:
        """Look at received bytes from the cursor; ``None`` below the minimum."""

    @abstractmethod
    def advance_receive_cursor(self, length: int) -> None:
        """Discard ``length`` bytes, also ones that have not arrived yet."""

    @abstractmethod
    def deliver_and_advance_receive_cursor(
        self, context: MessageContext | None, length: int, end_of_message: bool
    ) -> None:
        """Deliver the next ``length`` bytes, also ones that have not arrived yet."""

    @abstractmethod
    def deliver(self, data: Any, context: MessageContext | None, end_of_message: bool) -> None:
        """Deliver what the framer made."""

    @abstractmethod
    def make_connection_ready(self) -> None:
        """Set-up is done."""

    @abstractmethod
    def make_connection_closed(self) -> None:
        """``stop`` is done."""

    @abstractmethod
    def fail_connection(self, error: Exception) -> None:
        """End the Connection; before it is ready, this candidate."""

    @abstractmethod
    def prepend_framer(self, other: FramerDefinition | type[Framer] | SecurityLayer) -> None:
        """Put another layer above this one; only before it is ready."""

    @abstractmethod
    def start_passthrough(self) -> None:
        """No more work: bytes pass as they are."""


class Framer:
    """A framer with RFC 9623's events (override) and actions (call).

    Events and actions of one framer are serialised. Subclasses take no
    mandatory constructor arguments if the class itself is to be given to a
    Preconnection; parameters belong into a FramerDefinition.
    """

    #: Largest Message, in bytes. More than this (and some room for headers)
    #: unparsed is an error.
    max_length: int = 16 * 1024 * 1024
    #: True for a framer that takes and makes objects rather than bytes.
    objects: bool = False
    #: As FramerDefinition.boundaries, for classes given directly.
    boundaries: bool = True
    #: As FramerDefinition.below_security, for classes given directly.
    below_security: bool = False
    #: As FramerDefinition.alpn, for classes given directly.
    alpn: tuple[str, ...] = ()
    #: As FramerDefinition.handshakes, for classes given directly.
    handshakes: bool = False

    _control: FramerControl

    def attach(self, control: FramerControl) -> None:
        """What the framer acts through; called once, by the runtime or a test rig."""
        self._control = control

    # -- events (RFC 9623, section 6.1)

    def start(self) -> None:
        """Establishment began. May send and wait for answers before it calls
        :meth:`make_connection_ready`, which is all that this default does.
        """  # noqa: D205  # the RFC's event in one sentence
        self.make_connection_ready()

    def stop(self) -> None:
        """Teardown began. May send; must end in :meth:`make_connection_closed`."""
        self.make_connection_closed()

    def new_sent_message(
        self, data: Any, context: MessageContext | None, end_of_message: bool
    ) -> None:
        """The application (or the layer above) sends; default: as it is."""
        self.send(data, end_of_message)

    def handle_received_data(self) -> None:
        """Something can be parsed. Called again as long as progress is made."""
        parsed = self.parse(0, self.max_length)
        if parsed is not None and (parsed.data or parsed.end_of_message):
            self.deliver_and_advance_receive_cursor(
                parsed.context, len(parsed.data), parsed.end_of_message
            )

    def handle_end_of_data(self) -> bool:
        """The peer will send no more. Called on streams, after ``handle_received_data``.

        Returns:
            Whether the application may be told now; bytes that are not parsed are then
            a Message that was cut off. False holds the end back, for Messages that can be
            delivered only when something else has been done: asked again after each Send.

        Raises:
            ReceiveError: What has been parsed is no whole Message.
        """
        return True

    # -- actions (RFC 9623, sections 6.1 to 6.3)

    def send(self, data: Data, end_of_message: bool = True) -> None:
        """Hand the result to the next lower protocol."""
        self._control.send_below(data, end_of_message)

    def parse(self, minimum_incomplete_length: int, maximum_length: int) -> Parsed | None:
        """Look at received bytes from the cursor, without moving it.

        Returns:
            ``None`` if fewer than ``minimum_incomplete_length`` bytes are
            there. ``end_of_message`` says that a Message of the layer below
            ends behind the bytes returned: nothing can be parsed or claimed
            across that.
        """
        return self._control.parse(minimum_incomplete_length, maximum_length)

    def advance_receive_cursor(self, length: int) -> None:
        """Discard ``length`` bytes, e.g. a header."""
        self._control.advance_receive_cursor(length)

    def deliver_and_advance_receive_cursor(
        self, context: MessageContext | None, length: int, end_of_message: bool
    ) -> None:
        """Deliver ``length`` bytes of the stream; may claim bytes not yet received."""
        self._control.deliver_and_advance_receive_cursor(context, length, end_of_message)

    def deliver(
        self, context: MessageContext | None, data: Any, end_of_message: bool = True
    ) -> None:
        """Deliver what the framer made; the cursor stays."""
        self._control.deliver(data, context, end_of_message)

    def make_connection_ready(self) -> None:
        """Set-up is done; Ready may follow."""
        self._control.make_connection_ready()

    def make_connection_closed(self) -> None:
        """The work of :meth:`stop` is done; Closed may follow."""
        self._control.make_connection_closed()

    def fail_connection(self, error: Exception) -> None:
        """A fatal error: ends the Connection, or before Ready this candidate."""
        self._control.fail_connection(error)

    def prepend_framer(self, other: FramerDefinition | type[Framer] | SecurityLayer) -> None:
        """Put a framer or a security layer above this one (STARTTLS); only before ready."""
        self._control.prepend_framer(other)

    def start_passthrough(self) -> None:
        """No more work (SOCKS, CONNECT, STARTTLS): bytes pass as they are, uncopied."""
        self._control.start_passthrough()
