"""What framers act through, and how their events follow from what is sent and arrives."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neatpy._flat import one_module
from neatpy._values import SendErrorReason
from neatpy.message_context import MessageContext

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from neatpy.connection import Connection
    from neatpy.framer import Framer

    #: A part of a Message on its way up: data, context, and whether the Message ends with it.
    Piece: TypeAlias = tuple[bytes, MessageContext | None, bool]

__all__ = ["DeframingFailed", "MessageFramer", "Outcome"]

logger = logging.getLogger("neatpy")

#: Bytes that may wait for a framer to make something of them.
MAX_UNPARSED: Final = 16 * 1024 * 1024


class DeframingFailed(Exception):
    """What arrived is no Message of a framer's."""


class Outcome:
    """A sent handler on its way through framers: whatever they make of a Message, it runs once."""

    def __init__(self, handler: Callable[..., object]) -> None:
        self.handler: Callable[..., object] | None = handler
        self._pending = 0
        self._passed_on = False

    def expect(self) -> None:
        """One more piece carries it."""
        self._pending += 1

    def told(self, reason: SendErrorReason | None) -> Callable[..., object] | None:
        """What became of one of them; the handler, if it is to be told now."""
        self._pending -= 1
        if reason is None and (self._pending or not self._passed_on):
            return None
        return self.take()

    def passed_on(self) -> Callable[..., object] | None:
        """The framers are through; the handler, if nothing carries it any more."""
        self._passed_on = True
        return None if self._pending else self.take()

    def take(self) -> Callable[..., object] | None:
        """The handler, which was not told yet; from now on nobody is."""
        handler, self.handler = self.handler, None
        return handler


class _Level:
    """What one framer of a Connection has before it."""

    def __init__(self, framer: Framer) -> None:
        self.framer = framer
        self.buffer = bytearray()
        self.context: MessageContext | None = None
        #: Bytes to discard that have not arrived yet.
        self.skip = 0
        #: Of a Message that was delivered before all of it was there: bytes, context, its end.
        self.claimed = 0
        self.claim: tuple[MessageContext | None, bool] = (None, True)
        #: Whether the framer took something, and whether it wanted more than there was.
        self.moved = False
        self.short = False
        self.made: list[Piece] = []

    def take_in(self, data: bytes, context: MessageContext | None) -> None:
        """More has arrived."""
        self.context = context
        if self.skip:
            skipped = min(self.skip, len(data))
            self.skip -= skipped
            data = data[skipped:]
        if self.claimed and data:
            data = self._fill(data)
        self.buffer += data
        if len(self.buffer) > MAX_UNPARSED:
            raise DeframingFailed(f"{len(self.buffer)} bytes are not yet a Message")

    def _fill(self, data: bytes) -> bytes:
        part = data[: self.claimed]
        self.claimed -= len(part)
        context, end = self.claim
        self.made.append((part, context, end and not self.claimed))
        return data[len(part) :]

    def look(self, connection: Connection) -> None:
        """Let the framer parse what is there, as long as it takes something."""
        while self.buffer and not self.claimed and not self.skip:
            self.moved = self.short = False
            try:
                self.framer.handle_received_data(connection)
            except Exception as error:
                # One that fell over what was not there yet waits for more, like one that looked:
                # there is nothing else that it could do.
                if self.short and not self.moved:
                    return
                raise DeframingFailed(f"{type(self.framer).__name__} raised {error!r}") from error
            if not self.moved:
                return

    @property
    def incomplete(self) -> bool:
        """Whether it stands in the middle of a Message."""
        return bool(self.buffer or self.claimed or self.skip)

    def forget(self) -> None:
        """The next byte begins a Message."""
        self.buffer.clear()
        self.skip = self.claimed = 0


class MessageFramer:
    """The framers of one Connection: ``connection.message_framer``.

    The framer that was added last comes first for what is sent, and last for what arrives. Within
    an event each acts for itself; outside of events only the one framer that there is can act.
    """

    def __init__(self, connection: Connection, framers: tuple[Framer, ...]) -> None:
        self._connection = connection
        self._levels = tuple(map(_Level, framers))
        self._acting: int | None = None

    # -- actions

    def send(
        self,
        connection: Connection,
        message_data: bytes,
        message_context: MessageContext | None = None,
        sent_handler: Any = None,
        is_end_of_message: bool = True,
    ) -> None:
        """Pass on what a framer made of a Message: to the next framer, and then to the protocols.

        Args:
            connection: The Connection, here and below.
            message_data: The data.
            message_context: As the framer was given it.
            sent_handler: Likewise; it runs once, when all that carries it was sent.
            is_end_of_message: Likewise.
        """
        level = self._level_of_caller() - 1
        if level >= 0:
            with _Acting(self, level):
                self._levels[level].framer.new_sent_message(
                    connection,
                    message_data,
                    message_context or MessageContext(),
                    sent_handler,
                    is_end_of_message,
                )
            return
        if isinstance(sent_handler, Outcome):
            sent_handler.expect()
        connection._pass_down(message_data, sent_handler, message_context, is_end_of_message)

    def parse(
        self,
        connection: Connection,
        minimum_incomplete_length: int,
        maximum_length: float = math.inf,
    ) -> tuple[bytes, MessageContext, bool] | tuple[None, None, None]:
        """Look at what has arrived and was not taken.

        Args:
            connection: The Connection.
            minimum_incomplete_length: Bytes that are needed at least.
            maximum_length: Bytes to see at most.

        Returns:
            Data, its context and True; three times ``None`` if there is less than the minimum.
        """
        level = self._levels[self._level_of_caller()]
        if len(level.buffer) < minimum_incomplete_length:
            level.short = True
            return None, None, None
        size = min(len(level.buffer), maximum_length)
        return bytes(level.buffer[: int(size)]), level.context or MessageContext(), True

    def advance_receive_cursor(self, connection: Connection, length: int) -> None:
        """Discard ``length`` bytes, also ones that have not arrived yet."""
        level = self._levels[self._level_of_caller()]
        there = min(length, len(level.buffer))
        del level.buffer[:there]
        level.skip += length - there
        level.moved = True

    def deliver_and_advance_receive_cursor(
        self,
        connection: Connection,
        message_context: MessageContext | None,
        length: int,
        is_end_of_message: bool,
    ) -> None:
        """Deliver the next ``length`` bytes, also ones that have not arrived yet.

        Args:
            connection: The Connection.
            message_context: As ``parse`` gave it.
            length: How many.
            is_end_of_message: Whether they are the end of a Message.
        """
        level = self._levels[self._level_of_caller()]
        data = bytes(level.buffer[:length])
        del level.buffer[:length]
        level.moved = True
        level.claimed = length - len(data)
        level.claim = (message_context, is_end_of_message)
        if data or not level.claimed:
            level.made.append((data, message_context, is_end_of_message and not level.claimed))

    def deliver(
        self,
        connection: Connection,
        message_context: MessageContext | None,
        data: bytes,
        is_end_of_message: bool,
    ) -> None:
        """Deliver what the framer made; the cursor stays.

        Args:
            connection: The Connection.
            message_context: As ``parse`` gave it.
            data: What is to be delivered.
            is_end_of_message: Whether it is the end of a Message.
        """
        level = self._levels[self._level_of_caller()]
        level.made.append((bytes(data), message_context, is_end_of_message))

    def _level_of_caller(self) -> int:
        if self._acting is not None:
            return self._acting
        if len(self._levels) == 1:
            return 0
        raise RuntimeError("outside of an event it is not known which framer acts")

    # -- what the Connection asks for

    def _start(self) -> None:
        for level, each in enumerate(self._levels):
            with _Acting(self, level):
                each.framer.start(self._connection)

    def _stop(self) -> None:
        for level, each in reversed(tuple(enumerate(self._levels))):
            with _Acting(self, level):
                each.framer.stop(self._connection)

    def _new_sent_message(
        self, data: bytes, handler: Any, context: MessageContext | None, end: bool
    ) -> tuple[Callable[..., object] | None, SendErrorReason | None]:
        """Frame and send; a sent handler that is to be told at once, and what."""
        outcome = None if handler is None else Outcome(handler)
        top = len(self._levels) - 1
        framer = self._levels[top].framer
        try:
            with _Acting(self, top):
                framer.new_sent_message(
                    self._connection, data, context or MessageContext(), outcome, end
                )
        except Exception:
            # An application's framer may raise anything; it costs that Message.
            logger.exception("%s could not frame a Message", type(framer).__name__)
            failed = SendErrorReason.FAILURE_UNDERLYING_STACK
            return (None if outcome is None else outcome.take()), failed
        return (None if outcome is None else outcome.passed_on()), None

    def _received(self, data: bytes, context: MessageContext | None, end: bool) -> list[Piece]:
        """What comes out on top.

        Args:
            data: What arrived.
            context: Its context.
            end: Whether a Message of the protocols below ends with it; of a stream, never.

        Raises:
            DeframingFailed: A framer cannot make Messages of it.
        """
        pieces: list[Piece] = [(data, context, end)]
        for number, level in enumerate(self._levels):
            made: list[Piece] = []
            for each in pieces:
                made += self._parsed(number, level, *each)
            pieces = made
        return pieces

    def _parsed(
        self, number: int, level: _Level, data: bytes, context: MessageContext | None, end: bool
    ) -> Iterator[Piece]:
        level.take_in(data, context)
        with _Acting(self, number):
            level.look(self._connection)
        made, level.made = level.made, []
        if end and level.incomplete:
            level.forget()
            raise DeframingFailed("a Message ended inside what a framer takes for one")
        return iter(made)

    @property
    def _incomplete(self) -> bool:
        """Whether the end of what arrives would cut something off."""
        return any(level.incomplete for level in self._levels)


class _Acting:
    """Says whose event it is while the block runs."""

    __slots__ = ("_before", "_framers", "_level")

    def __init__(self, framers: MessageFramer, level: int) -> None:
        self._framers = framers
        self._level = level

    def __enter__(self) -> None:
        self._before = self._framers._acting
        self._framers._acting = self._level

    def __exit__(self, *_: object) -> None:
        self._framers._acting = self._before
