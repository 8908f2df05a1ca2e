"""The flow that drives a :class:`~taps_core.model.framer.Framer`.

A framer gets RFC 9623's events and acts through this object, its control.
What it does takes effect in order, never in the middle of an event:

* What it delivers is gathered and goes up when the event is over; from inside
  a downward call (``send``, ``close``) it goes up in a later loop turn.
* ``start_passthrough`` begins when the event is over and all bytes that were
  claimed have arrived.
* Before the framer has made the Connection ready nothing is above it. What
  comes up meanwhile, and until ``start``, is held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.errors import (
    ConnectionError,
    EstablishmentError,
    Reason,
    ReceiveError,
    SendError,
    TapsError,
)
from taps_core.model.flow import LayerFlow
from taps_core.model.framer import (
    HEADER_ROOM,
    FramerControl,
    Parsed,
    cut_off,
    deframing_failed,
    too_large,
)
from taps_core.runtime.framed_sends import Fates, FramedRecord
from taps_core.runtime.held import HeldCalls
from taps_core.runtime.receive_cursor import ReceiveCursor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taps_core.model.events import Event
    from taps_core.model.flow import Data, Flow, PartTuple, Receiver
    from taps_core.model.framer import Framer
    from taps_core.model.layers import FramerDefinition, SecurityLayer
    from taps_core.model.messages import MessageContext, SendRecord

__all__ = ["FramerFlow"]

T = TypeVar("T")

#: The flow below is paused while more than this is held for a start to come.
HELD: Final = 64 * 1024


class FramerFlow(LayerFlow, FramerControl):
    """Messages above, whatever the framer makes of them below.

    Attributes:
        prepended: What the framer put above itself, lowest first; for the
            connector, once :meth:`negotiate` has returned.
    """

    def __init__(
        self, lower: Flow, framer: Framer, *, datagrams: bool, boundaries: bool = True
    ) -> None:
        """Put ``framer`` over ``lower``.

        Args:
            lower: An established, unstarted flow.
            framer: A fresh one, for this flow alone.
            datagrams: Whether the unit of the stack below is the datagram.
            boundaries: Whether the framer finds Message boundaries; then a
                Message may not be longer than its ``max_length``, nor be cut off.
        """
        super().__init__(lower)
        self.session = lower.session  # not framed, as in CodecFlow
        self.prepended: list[FramerDefinition | type[Framer] | SecurityLayer] = []
        self._framer = framer
        self._datagrams = datagrams
        self._boundaries = boundaries
        self._down = lower.send
        self._cursor = ReceiveCursor(framer.max_length)
        self._held = HeldCalls(HELD, self._held_full)
        self.receiver = self._held
        self._arrived: deque[PartTuple] = deque()
        # -- where the framer is in its life
        self._waiter: asyncio.Future[None] | None = None
        self._lower_started = False
        self._ready = False
        self._stopping = False
        self._stopped = False
        self._finish_wanted = False
        self._close_wanted = False
        self._passthrough_wanted = False
        self._passing = False
        self._error: Exception | None = None
        self._aborted = False
        self._gone = False
        # -- receiving
        self._deaf = False  # nothing more is parsed
        self._silent = False  # closed or aborted from above: nothing more goes up
        self._peer_finished = False
        self._end_waits = False  # the peer's, for what the framer has still to deliver
        self._skipping = False  # a datagram is lost, and its other parts with it
        self._part_ended = False
        self._paused = False
        self._held_paused = False
        # -- events
        self._busy = False
        self._later: asyncio.Handle | None = None
        # -- the Send that the framer works on
        self._record: SendRecord | None = None
        self._accepted = 0
        self._unflushed = False
        self._message_size = 0
        self._fates = Fates()
        framer.attach(self)

    # -- set-up

    async def negotiate(self) -> None:
        """Let the framer start and wait until it makes the Connection ready.

        Where it does so at once and sends nothing, the flow below is not
        even started. A failure or cancellation aborts the flow below.

        Raises:
            EstablishmentError, OSError: It failed, or the flow below did.
        """
        try:
            self._fire(self._framer.start)
            self._pump(look=True)
            if not self._ready and self._error is None:
                self._start_lower()
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        except BaseException:
            self.abort()
            raise
        if self._error is not None:
            raise _establishment_error(self._error)

    def start(self, receiver: Receiver) -> None:
        """Connect the layer above; it gets what was held from the next loop turn on."""
        if self._error is not None and not self._lower_started:
            # It failed before there was a flow that could say so.
            self.closed(None)
        if self._held.calls:
            asyncio.get_running_loop().call_soon(self._release, receiver)
        else:
            self.receiver = receiver
        if not self._gone:
            self._start_lower()

    def _start_lower(self) -> None:
        if not self._lower_started:
            self._lower_started = True
            self.lower.start(self)

    def _release(self, receiver: Receiver) -> None:
        self.receiver = receiver
        error = self._held.give(self._up)
        if error is not None:
            self._fail(error)
            return
        if self._held_paused:
            self._held_paused = False
            if not self._paused and not self._gone:
                self.lower.resume()

    def _up(self, name: str, *arguments: Any) -> None:
        if not self._silent or name in ("outcome", "closed"):
            getattr(self.receiver, name)(*arguments)

    def _held_full(self) -> None:
        if not self._ready:
            self._fail(deframing_failed("too much was delivered before the set-up was done"))
        elif not self._held_paused and not self._gone:
            self._held_paused = True
            self.lower.pause()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- events

    def _event(self, event: Callable[..., T], *arguments: Any) -> T:
        """Call the framer; what it raises is an error of this library afterwards."""
        self._busy = True
        try:
            return event(*arguments)
        except TapsError:
            raise
        except Exception as error:
            # A foreign class, and bytes from the network: the mistake ends this
            # Connection, and its cause stays attached.
            raise ConnectionError(
                f"{type(self._framer).__name__} failed: {error!r}", reason=Reason.PROTOCOL_FAILED
            ) from error
        finally:
            self._busy = False

    def _fire(self, event: Callable[[], object]) -> None:
        """An event that is nobody's call: what fails ends the Connection."""
        try:
            self._event(event)
        except TapsError as error:
            self._fail(error)
        self._flush_own()

    def _flush_own(self) -> None:
        if self._unflushed:
            self._unflushed = False
            if self._error is None and not self._gone:
                self.lower.flush()

    def _soon(self) -> None:
        """What an action has caused takes effect when the caller has returned."""
        if self._later is None and not self._gone:
            self._later = asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._later = None
        self._pump(look=True)

    # -- receiving

    def received(self, parts: Sequence[PartTuple]) -> None:
        """Let the framer parse what arrived and pass up what it delivers."""
        if self._deaf:
            return
        if self._passing and not self._arrived:
            # A deliver() from outside an event may wait for its turn.
            self._emit()
            if not self._silent:
                self.receiver.received(parts)
            return
        self._arrived.extend(parts)
        if not self._busy:
            self._pump()

    def _pump(self, look: bool = False) -> None:
        """Parse all that is there; ``look``: also what the framer had left before."""
        while True:
            try:
                if look:
                    self._parse(bool(self._cursor.unparsed))
                while self._arrived and not self._deaf:
                    self._parse_part(*self._arrived.popleft())
                break
            except ReceiveError as error:
                look = False
                self._lose(error)
            except TapsError as error:
                self._fail(error)
                break
        self._flush_own()
        self._emit()
        if self._end_waits:
            self._pass_up_end()

    def _parse_part(self, data: Any, context: MessageContext | None, end: bool) -> None:
        cursor = self._cursor
        if self._skipping:
            self._skipping = not end
            return
        if self._passing:
            cursor.out.append((data, context, end))
            return
        self._part_ended = end
        self._parse(cursor.take(data, context, end))
        if end and not self._deaf:
            cursor.end_message()

    def _parse(self, something: bool) -> None:
        cursor = self._cursor
        while something and not cursor.claiming and not self._deaf:
            if self._passthrough_wanted:
                break
            cursor.moved = False
            self._event(self._framer.handle_received_data)
            if not cursor.moved:
                break
            something = bool(cursor.unparsed)
        if self._passthrough_wanted and not cursor.claiming:
            self._passing = True
            cursor.pass_on()
        if cursor.unparsed > self._framer.max_length + HEADER_ROOM:
            raise deframing_failed(f"{cursor.unparsed} bytes are not yet a Message")

    def _lose(self, error: ReceiveError) -> None:
        """A Message, or everything that would still come, cannot be received."""
        cursor = self._cursor
        if error.context is None:
            error.context = cursor.context
        if not self._ready and not self._datagrams:
            self._fail(error)
            return
        if self._datagrams:
            self._skipping = not self._part_ended
            cursor.drop()
        self._emit()
        if not self._datagrams:
            self._stop_receiving()
        if not self._silent:
            self.receiver.failed(error, not self._datagrams)

    def _stop_receiving(self) -> None:
        self._deaf = True
        self._arrived.clear()
        self._cursor.drop()
        self._no_answer()

    def _emit(self) -> None:
        parts = self._cursor.out
        if not parts:
            return
        self._cursor.out = []
        if not self._silent:
            self.receiver.received(parts)

    def failed(self, error: ReceiveError, fatal: bool) -> None:
        """A Message of the framer below was lost, and what was parsed of it."""
        if self._deaf:
            return
        if fatal and not self._ready:
            self._fail(error)
            return
        self._skipping = False
        self._cursor.drop()
        self._emit()
        if fatal:
            self._stop_receiving()
        if not self._silent:
            self.receiver.failed(error, fatal)

    def finished(self) -> None:
        """The end of the stream may not cut off a Message."""
        if self._deaf:
            return
        if not self._ready:
            self._fail(
                EstablishmentError(
                    f"the peer ended before {type(self._framer).__name__} was done",
                    reason=Reason.PROTOCOL_FAILED,
                )
            )
        else:
            self._peer_finished = self._end_waits = True
            self._pump()
            self._no_answer()

    def _pass_up_end(self) -> None:
        """Pass up that the peer will send no more, unless the framer has more to deliver."""
        if self._deaf:
            return
        try:
            if not self._passing and not self._event(self._framer.handle_end_of_data):
                return
            self._end_waits = False
            self._emit()
            if self._incomplete:
                raise cut_off()
        except ReceiveError as error:
            self._end_waits = False
            self._stop_receiving()
            if not self._silent:
                self.receiver.failed(error, True)
        except TapsError as error:
            self._fail(error)
        else:
            if not self._silent:
                self.receiver.finished()
        self._flush_own()

    @property
    def _incomplete(self) -> bool:
        cursor = self._cursor
        return not self._passing and bool(
            cursor.unparsed or cursor.claiming or (self._boundaries and cursor.midway)
        )

    def writable(self, writable: bool, /) -> None:
        """Pass up."""
        if not self._silent:
            self.receiver.writable(writable)

    def notified(self, event: Event) -> None:
        """Pass up."""
        if not self._silent:
            self.receiver.notified(event)

    def pause(self) -> None:
        """Pass down."""
        self._paused = True
        self.lower.pause()

    def resume(self) -> None:
        """Pass down."""
        self._paused = False
        if not self._held_paused:
            self.lower.resume()

    # -- sending

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Give the framer a Message, or a part of one."""
        if self._passthrough_wanted:
            return self._down(data, record, end_of_message)
        if self._busy:
            # Only a framer that reaches around its control gets here.
            raise SendError("a framer sent a Message of its own Connection to itself")
        size = self._message_size + self._checked_size(data)
        self._record = record
        if record is not None and record.length is not None:
            # With what the framer adds, the length is not known below.
            self._record = FramedRecord(record, self, None)
        self._accepted = 0
        context = None if record is None else record.context
        self._cursor.moved = False
        refused = True
        try:
            self._event(self._framer.new_sent_message, data, context, end_of_message)
            refused = False
            self._message_size = size
        except SendError:
            raise
        except TapsError as error:
            raise SendError(str(error), reason=error.reason) from error
        finally:
            if end_of_message:
                self._message_size = 0
            self._record = None
            self._unflushed = False  # whoever called us flushes
            if record is not None and self._accepted > (0 if refused else 1):
                self._fates.expect(record, self._accepted, not refused)
            if self._cursor.out or self._cursor.moved or self._end_waits:
                self._soon()
        return True if self._accepted else None

    def _checked_size(self, data: Data) -> int:
        if not self._boundaries or not isinstance(data, (bytes, tuple)):
            return 0
        size = len(data) if isinstance(data, bytes) else sum(map(len, data))
        if self._message_size + size > self._framer.max_length:
            raise too_large("Message", self._message_size + size, self._framer.max_length)
        return size

    def outcome(self, record: SendRecord, error: SendError | None) -> None:
        """Pass up once for each Send of the layer above."""
        if isinstance(record, FramedRecord) and record.layer is self:
            record = record.upper
        complete, error = self._fates.settle(record, error)
        if complete:
            self.receiver.outcome(record, error)

    def read(self, property: str, /) -> Any:
        """As below, but no Message may be longer than the framer lets it be."""
        value = self.lower.read(property)
        if property in ("sendMsgMaxLen", "recvMsgMaxLen") and self._boundaries:
            longest = self._framer.max_length
            return longest if value is None else min(value, longest)
        return value

    # -- the end

    def finish(self) -> None:
        """Half-close, when the framer has said what it has to say."""
        self._finish_wanted = True
        self._stop()

    def close(self) -> None:
        """Close, when the framer has said what it has to say."""
        self._silent = True
        self._close_wanted = True
        if self._paused:
            # The framer may wait for an answer.
            self._paused = False
            self.lower.resume()
        self._stop()

    def abort(self) -> None:
        """Abort the flow below; the framer is not asked."""
        self._silent = True
        self._deaf = True
        self._arrived.clear()
        if not self._gone and self._error is None and not self._aborted:
            self._aborted = True
            self.lower.abort()

    def _stop(self) -> None:
        """Nothing can be said after a half-close, so ``stop`` comes before the first of both."""
        if self._error is not None or self._aborted or self._gone:
            return
        if self._passthrough_wanted:
            self._stopping = self._stopped = True
        if self._stopped:
            self._end_lower()
        elif not self._stopping:
            self._stopping = True
            self._fire(self._framer.stop)
            if self._deaf or self._peer_finished:
                self._no_answer()
            if self._cursor.out:
                self._soon()

    def _no_answer(self) -> None:
        """Nothing comes any more: do not wait for the end of ``stop``."""
        if self._stopping:
            self.make_connection_closed()

    def _end_lower(self) -> None:
        self.lower.flush()
        if self._close_wanted:
            self.lower.close()
        elif self._finish_wanted:
            self._finish_wanted = False
            self.lower.finish()

    def _fail(self, error: Exception) -> None:
        """End the Connection by ``error``; before it is ready, this candidate."""
        if self._error is None and not self._gone:
            self._error = error
            # What was delivered before still goes up, but not from here: this
            # may be a downward call.
            self._deaf = True
            self._arrived.clear()
            if not self._aborted:
                self._aborted = True
                self.lower.abort()
            self._wake()

    def closed(self, error: Exception | None) -> None:
        """Pass up, with the error of the framer if it has failed."""
        if self._gone:
            return
        self._gone = True
        if not self._ready:
            if self._error is None:
                self._error = error or ConnectionError("the peer closed")
            self._wake()
            return
        self._emit()
        if error is None and not self._deaf and not self._silent and self._incomplete:
            self.receiver.failed(cut_off(), True)
        self._deaf = True
        self.receiver.closed(_connection_error(self._error) if self._error else error)

    # -- actions of the framer

    def send_below(self, data: Data, end_of_message: bool) -> None:
        """Pass down, with the record of the Send that the framer works on."""
        if self._gone or self._error is not None:
            raise SendError("the Connection is closed", reason=Reason.CONNECTION_CLOSED)
        self._start_lower()
        if self._down(data, self._record, end_of_message):
            self._accepted += 1
        self._unflushed = True
        if not self._busy:
            self._soon()

    def parse(self, minimum: int, maximum: int) -> Parsed | None:
        """Look at received bytes from the cursor."""
        return self._cursor.parse(minimum, maximum)

    def advance_receive_cursor(self, length: int) -> None:
        """Discard."""
        self._cursor.advance(length)
        self._outside()

    def deliver_and_advance_receive_cursor(
        self, context: MessageContext | None, length: int, end_of_message: bool
    ) -> None:
        """Deliver received bytes and what comes behind them."""
        self._cursor.deliver_and_advance(context, length, end_of_message)
        self._outside()

    def deliver(self, data: Any, context: MessageContext | None, end_of_message: bool) -> None:
        """Deliver what the framer made."""
        self._cursor.append(data, context, end_of_message)
        self._outside()

    def _outside(self) -> None:
        """After an action: in an event, whoever fired it goes on; else do so later."""
        if not self._busy:
            self._soon()

    def make_connection_ready(self) -> None:
        """Set-up is done."""
        if self._error is None and not self._gone:
            self._ready = True
            self._wake()

    def make_connection_closed(self) -> None:
        """The work of ``stop`` is done; without a stop there is nothing to do."""
        if self._stopping and not self._stopped:
            self._stopped = True
            if not self._gone and self._error is None:
                self._end_lower()

    def fail_connection(self, error: Exception) -> None:
        """End the Connection, or this candidate."""
        self._fail(error)

    def prepend_framer(self, other: FramerDefinition | type[Framer] | SecurityLayer) -> None:
        """Put another layer above this one; later ones go above earlier ones.

        Raises:
            RuntimeError: The Connection is ready.
        """
        if self._ready:
            raise RuntimeError("prepend_framer: only before make_connection_ready")
        self.prepended.append(other)

    def start_passthrough(self) -> None:
        """From the end of this event on, bytes pass as they are."""
        self._passthrough_wanted = True
        self._outside()


def _establishment_error(error: Exception) -> Exception:
    """What an attempt may fail with."""
    if isinstance(error, (EstablishmentError, OSError)):
        return error
    failure = EstablishmentError(
        str(error), reason=error.reason if isinstance(error, TapsError) else None
    )
    failure.__cause__ = error
    return failure


def _connection_error(error: Exception) -> Exception:
    """What ``closed`` may pass up."""
    if isinstance(error, (TapsError, OSError)):
        return error
    failure = ConnectionError(str(error), reason=Reason.PROTOCOL_FAILED)
    failure.__cause__ = error
    return failure
