"""The sending half of a Connection (RFC 9622, section 9.2).

While the stack takes data and nothing is special about a Send, ``send`` is:
hand down, flush, return one shared finished object. Everything else goes
through the outbox.

What was gathered leaves at 64 KiB, and at 128 operations (``_credit``). With the
latter, and after four rounds of the former, the loop runs once, so that timeouts
fire and a full stack is noticed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from taps_core.model.capabilities import DataUnit
from taps_core.model.errors import (
    ConnectionError,
    Expired,
    Reason,
    SendError,
    SendFailed,
)
from taps_core.model.events import (
    Sent,
)
from taps_core.model.messages import MessageContext, SendRecord
from taps_core.model.properties import ConnectionState, message_property
from taps_core.runtime.awaitables import (
    CREDIT,
    DONE,
    PER_OPERATION,
    ROUNDS,
    SendOutcome,
    YieldOnce,
)
from taps_core.runtime.connection_base import ConnectionBase
from taps_core.runtime.outbox import Entry, Outbox, Series
from taps_core.runtime.sending import Sending
from taps_core.runtime.system_errors import stack_failed

if TYPE_CHECKING:
    from collections.abc import (
        Coroutine,
        Generator,
        Mapping,
    )

    from taps_core.model.keywords import MessageKeywords

__all__ = ["SendingHalf"]

T = TypeVar("T")
logger = logging.getLogger("taps_core")

#: Handed down from the outbox in one turn of the loop.
DRAIN: Final = 256 * 1024
_FINISH: Final = object()
#: Seconds that are left to a Message whose time is up while it is handed down.
_LEAST_LIFETIME: Final = 1e-6
#: Message Properties that the Connection itself deals with.
_OWN_PROPERTIES: Final = frozenset({"safelyReplayable", "final", "msgPriority"})
#: Defaults that do not keep a Send from the short way, where nothing waits to be overtaken.
_IDLE_DEFAULTS: Final = frozenset({"safelyReplayable", "msgPriority"})


class SendingHalf(ConnectionBase[T]):
    """What sends."""

    __slots__ = ()

    def send(
        self,
        data: Any,
        context: MessageContext | None = None,
        *,
        end_of_message: bool = True,
        **message_properties: Unpack[MessageKeywords],
    ) -> Coroutine[Any, Any, None]:
        """Send a Message, or a part of one (RFC 9622, section 9.2).

        Frames and hands down at once; the result waits for Sent. While the
        stack takes data that is immediate; when it is full, awaiting is the
        backpressure. The buffer is the caller's again when this returns.

        Args:
            data: ``bytes``, ``bytearray`` or ``memoryview``; with a framer that
                takes objects, an object.
            context: Message Properties and framer values; a copy is taken.
                Parts of one Message are sent with the same context object.
            end_of_message: False for a part that others follow. A part that
                fails fails the Message: nothing else of it is taken, and if
                something has left, the Connection ends.
            **message_properties: Message Properties without their ``msg``:
                ``priority``, ``lifetime`` (seconds), ``final``, … Those of a
                Message in parts are given with the first one.

        Returns:
            An awaitable. It raises :class:`SendError` (or :class:`Expired`),
            and :class:`ConnectionError` where the Connection ended first.

        Raises:
            PropertyError: No such Message Property, or not such a value.
            TypeError: Data that the stack cannot carry.
            SendFailed: The Connection is closed.
        """
        if (
            self._fast
            and self._credit > 0
            and context is None
            and not message_properties
            and end_of_message
            and type(data) is bytes
        ):
            through = self._through
            try:
                if through:
                    self._through_down(data)
                    self._through = False
                else:
                    self._down(data, None, True)
            except SendError as error:
                return self._failed(error)
            except Exception as problem:  # noqa: BLE001  # a layer of others: this Send alone pays
                return self._failed(stack_failed(problem, SendError))
            size = len(data)
            credit = self._credit - (size if size > PER_OPERATION else PER_OPERATION)
            self._credit = credit
            if credit <= 0:
                if size < CREDIT or not through:
                    return self._exhausted(size)
                # As there, for a large Message that left already: it is one operation.
                credit += size - PER_OPERATION
                rounds = self._rounds = self._rounds + size // CREDIT
                if rounds >= ROUNDS or credit <= 0:
                    return YieldOnce(self._fresh_turn)
                self._credit = credit
                self._through = True
                return DONE
            if through:
                return DONE
            if self._turn is None and not self._batch:
                self._turn = self._loop.call_soon(self._end_turn)
            return DONE
        return self._send(data, context, end_of_message, message_properties)

    def send_nowait(
        self,
        data: Any,
        context: MessageContext | None = None,
        *,
        end_of_message: bool = True,
        **message_properties: Unpack[MessageKeywords],
    ) -> None:
        """The same Send, fire-and-forget: its outcome comes as an event.

        Raises:
            SendError: It was refused at once: QUEUE_FULL when too much waits
                already. Nothing was sent.
            PropertyError, TypeError, SendFailed: As :meth:`send`.
        """
        outcome = self.send(data, context, end_of_message=end_of_message, **message_properties)
        if outcome is not DONE and isinstance(outcome, SendOutcome):
            outcome.raise_if_refused()

    def _send(
        self,
        data: Any,
        context: MessageContext | None,
        end: bool,
        keywords: Mapping[str, Any],
        length: int | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Everything that is not the usual case."""
        if self._state is ConnectionState.CLOSED:
            raise self._lost()
        if type(data) is not bytes:
            data = self._own(data)
        if context is not None and not isinstance(context, MessageContext):
            raise TypeError(f"context: a MessageContext, not {context!r}")
        outbox = self._outbox
        if outbox is not None and context is not None:
            series = outbox.series_of(context)
            if series is not None:
                return self._send_more(outbox, series, data, context, end, keywords, length)
        sent_context = MessageContext() if context is None else context.copy()
        for name, value in keywords.items():
            sent_context.add(name, value)
        properties = {**self._defaults, **sent_context.properties}
        if properties.get("msgLifetime") == math.inf:
            del properties["msgLifetime"]
        entry = self._entry(data, sent_context, properties, length, end)
        refusal = self._refusal() or self._stack_refusal(entry, properties)
        if refusal is not None:
            if not end and context is not None:
                self._make_outbox().reject(context, entry, refusal, properties)
            return self._failed(refusal, entry)
        if end and not outbox and self._can_hand_down():
            return self._direct(entry, bool(properties.get("final")))
        outbox = self._make_outbox()
        try:
            outbox.check_room(entry.size)
        except SendError as error:
            return self._failed(error, entry)
        self._queue(entry, properties, None if end else context)
        return self._queued_outcome(outbox, entry)

    def _send_more(
        self,
        outbox: Outbox,
        series: Series,
        data: Any,
        context: MessageContext,
        end: bool,
        keywords: Mapping[str, Any],
        length: int | None,
    ) -> Coroutine[Any, Any, None]:
        """A further part: context and properties are those that the Message began with."""
        entry = self._entry(data, series.context, series.properties, length, end)
        entry.deadline = series.deadline
        refusal = self._refusal(continued=True)
        for name, value in keywords.items():
            canonical, checked = message_property(name, value)
            if refusal is None and series.context.get(canonical) != checked:
                refusal = SendError(
                    f"{name}: properties of a Message in parts are given with its first part",
                    reason=Reason.INVALID_MESSAGE_PROPERTIES,
                )
        if refusal is None and series.dead is None:
            try:
                outbox.check_room(entry.size)
            except SendError as error:
                refusal = error
        if refusal is not None:
            outcome = self._failed(refusal, entry)
            outbox.spoil(context, refusal, ended=end)
            self._resume()
            return outcome
        entry.final = bool(series.properties.get("final"))
        outbox.proceed(context, entry)
        return self._queued_outcome(outbox, entry)

    def _own(self, data: Any) -> Any:
        """Bytes that the caller cannot change any more, or an object for a framer."""
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        if self._flow is not None and not self._objects:
            raise TypeError(
                f"{self._stack} carries bytes, not {type(data).__name__}; "
                "a framer such as json-lines takes objects"
            )
        return data

    def _entry(
        self,
        data: Any,
        context: MessageContext,
        properties: Mapping[str, Any],
        length: int | None,
        end: bool,
    ) -> Entry:
        lifetime = properties.get("msgLifetime")
        entry = Entry(
            data,
            self._record(context, properties, length),
            end,
            context,
            len(data) if type(data) is bytes else PER_OPERATION,
            None if lifetime is None else self._loop.time() + lifetime,
        )
        if self._stack is None:
            entry.unchecked = properties
        return entry

    def _queue(
        self,
        entry: Entry,
        properties: Mapping[str, Any],
        owner: MessageContext | None = None,
        *,
        first: bool = False,
    ) -> None:
        """Put a Message, or the first part of one, into the outbox."""
        entry.final = bool(properties.get("final"))
        self._final = self._final or entry.final
        self._fast = False
        # Priorities begin at 0: nothing goes before the early Message.
        priority = -1 if first else properties.get("msgPriority", 100)
        self._make_outbox().begin(entry, priority, entry.final, properties, owner)

    def _queued_outcome(self, outbox: Outbox, entry: Entry) -> Coroutine[Any, Any, None]:
        self._let_leave()
        if not entry.done:
            if self._credit <= 0:
                self._need_turn()
            return SendOutcome(outbox, entry)
        exhausted = self._charge(entry.size)
        if entry.error is None:
            return self._exhausted(entry.size) if exhausted else DONE
        if exhausted:
            self._rest()
        return SendOutcome(outbox, entry, rest=exhausted)

    def _record(
        self, context: MessageContext, properties: Mapping[str, Any], length: int | None
    ) -> SendRecord | None:
        dispatcher = self._dispatcher
        special = properties.keys() - _OWN_PROPERTIES
        if (
            not special
            and length is None
            and not context._framers
            and (dispatcher is None or not dispatcher.wants(Sent, SendError))
        ):
            return None
        return SendRecord(context, {name: properties[name] for name in special}, length)

    def _refusal(self, *, continued: bool = False) -> SendError | None:
        """Why this Send cannot be at this time, if it cannot."""
        early = self._early
        if self._state is ConnectionState.CLOSING or self._close_wanted:
            return SendError("the Connection is closing", reason=Reason.CONNECTION_CLOSED)
        if not continued and (self._final or (early is not None and early.context.get("final"))):
            return SendError(
                "a Final Message was sent before", reason=Reason.INVALID_MESSAGE_PROPERTIES
            )
        return self._wrong_direction() if self._blueprint.receives_only else None

    def _wrong_direction(self) -> SendError:
        return SendError(
            "direction is Unidirectional receive", reason=Reason.INVALID_MESSAGE_PROPERTIES
        )

    def _stack_refusal(self, entry: Entry, properties: Mapping[str, Any]) -> SendError | None:
        """Why this stack cannot carry the Message, if it cannot (RFC 9622, section 9.1.3)."""
        stack = self._stack
        if stack is None or not (properties or stack.capabilities.may_duplicate):
            return None
        reason = Reason.INVALID_MESSAGE_PROPERTIES
        reliable = properties.get("msgReliable")
        if stack.capabilities.may_duplicate and not properties.get("safelyReplayable", False):
            sentence = f"{stack} may deliver twice: the Message must be safelyReplayable"
        elif (
            reliable is not None
            and reliable is not self.properties.get("reliability")
            and not self.properties.get("perMsgReliability")
        ):
            sentence = "msgReliable cannot be changed without perMsgReliability"
        elif properties.get("msgOrdered") is True and not self.properties.get("preserveOrder"):
            sentence = f"{stack} does not keep the order of Messages"
        elif properties.get("noSegmentation") and self._is_segmented(entry):
            sentence = f"{entry.size} bytes do not leave in one packet"
            reason = Reason.MESSAGE_TOO_LARGE
        elif not entry.end and properties.get("noSegmentation") and self._cuts_packets:
            sentence = f"noSegmentation: on {stack} each part leaves in a packet of its own"
        else:
            return None
        return SendError(sentence, reason=reason, context=entry.context)

    def _is_segmented(self, entry: Entry) -> bool:
        flow = self._flow
        limit = None if flow is None else flow.read("singularTransmissionMsgMaxLen")
        return limit is not None and entry.size > limit

    @property
    def _cuts_packets(self) -> bool:
        """Whether where packets begin is up to us: they carry a stream, not Messages."""
        stack = self._stack
        assert stack is not None
        return stack.bare.data_unit is DataUnit.BYTE_STREAM and stack.has_effect("noSegmentation")

    def _direct(self, entry: Entry, final: bool) -> Coroutine[Any, Any, None]:
        """Past the empty outbox, with a record or a Final mark."""
        entry.final = final
        try:
            later = self.hand_down(entry)
        except SendError as error:
            return self._failed(error, entry)
        except Exception as problem:  # noqa: BLE001  # likewise
            return self._failed(stack_failed(problem, SendError), entry)
        if final:
            self._final = True
            self._fast = False
        exhausted = self._charge(entry.size)
        if self._through and not exhausted:
            self._through = False
            self._flush()
        elif not self._batch and not exhausted:
            self._need_turn()
        if later and entry.record is not None:
            outbox = self._make_outbox()
            outbox.expect(entry)
            if exhausted:
                self._rest()
            return SendOutcome(outbox, entry)
        entry.done = True
        self.sent(entry, None)
        return self._exhausted(entry.size) if exhausted else DONE

    def _failed(self, error: SendError, entry: Entry | None = None) -> SendOutcome:
        if entry is None:
            entry = Entry(None, None, True, MessageContext(), 0)
        if error.context is None:
            error.context = entry.context
        entry.done = True
        entry.error = error
        self.sent(entry, error)
        # One that fails again and again is no excuse for keeping the loop.
        exhausted = self._charge(0)
        if exhausted:
            self._rest()
        return SendOutcome(self._make_outbox(), entry, rest=exhausted)

    def _make_outbox(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self, self._loop)
        return self._outbox

    def _can_hand_down(self) -> bool:
        return (
            self._flow is not None
            and self._accepting
            and self._credit > 0
            and self._state in (ConnectionState.ESTABLISHED, ConnectionState.CLOSING)
        )

    def _refresh(self) -> None:
        """Work out again whether Sends may take the short way."""
        defaults, dispatcher, stack = self._defaults, self._dispatcher, self._stack
        self._fast = (
            self._state is ConnectionState.ESTABLISHED
            and self._accepting
            and not self._final
            and not self._outbox
            and not self._objects
            and self._log is None
            and (not defaults or defaults.keys() <= _IDLE_DEFAULTS)
            and (dispatcher is None or not dispatcher.wants(Sent, SendError, Expired))
            and (
                stack is None
                or not stack.capabilities.may_duplicate
                or bool(defaults.get("safelyReplayable"))
            )
            and not self._blueprint.receives_only
        )

    def _charge(self, size: int) -> bool:
        """Count an operation; whether the credit is used up."""
        self._credit -= max(size, PER_OPERATION)
        return self._credit <= 0

    def _exhausted(self, size: int) -> Coroutine[Any, Any, None]:
        """Let everything leave and, at the end of a turn, the loop run as soon as it is awaited.

        Whoever does not await it finds no credit with the next Send, which then waits.

        Args:
            size: Of the Message that used up the credit.
        """
        self._flush()
        # In this turn; at the most, as those before may have been larger than counted here.
        operations = 1 + (CREDIT - self._credit - max(size, PER_OPERATION)) // PER_OPERATION
        self._rounds += max(1, size // CREDIT)
        if self._rounds >= ROUNDS or operations * PER_OPERATION >= CREDIT:
            return YieldOnce(self._fresh_turn)
        self._credit = CREDIT - operations * PER_OPERATION
        # Nothing is left to gather with.
        self._through = not self._batch
        return DONE

    def _rest(self) -> None:
        self._flush()
        self._need_turn()

    def _need_turn(self) -> None:
        """Have the loop run, then go on with what waits."""
        if self._turn is None and self._state is not ConnectionState.CLOSED:
            self._turn = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn = None
        if not self._batch:
            self._flush()
        self._fresh_turn()
        if self._outbox:
            self._resume(over_limit=True)

    def _resume(self, *, over_limit: bool = False) -> None:
        """Let go what waits, if it may.

        Args:
            over_limit: What waits is what a batch has no room for: it leaves
                before the batch ends.
        """
        if self._outbox and self._let_leave() and over_limit and self._batch:
            self._flush()
        self._refresh()

    def _let_leave(self) -> bool:
        """What waits leaves, or waits for its turn in the group; whether it may leave now."""
        if self._can_hand_down():
            self._drain()
            return True
        if not self._accepting and self._credit > 0 and self._flow is not None:
            self._group.wait_turn(self)  # type: ignore[arg-type]  # only Connections are made
        return False

    def _flush(self) -> None:
        """Let what was gathered leave, if there is a stack and it still listens."""
        closed = self._close_told or self._state is ConnectionState.CLOSED
        if self._flow is not None and not closed:
            try:
                self._flush_down()
            except Exception as problem:  # noqa: BLE001  # a layer of others: what it holds is lost
                self._break(problem)

    def _before_wait(self) -> None:
        """A receiver is about to wait, perhaps for the answer to what was gathered."""
        if self._batch:
            self._flush()
        elif self._turn is not None and not self._outbox:
            self._turn.cancel()
            self._end_turn()

    def _fresh_turn(self) -> None:
        """After a real wait: full credit, and the next Message is written through."""
        self._credit = CREDIT
        self._rounds = 0
        self._through = not self._batch

    def _drain(self) -> None:
        outbox = self._outbox
        if outbox is None or self._flow is None:
            return
        more = outbox.drain(DRAIN) <= 0 and outbox.messages > 0
        if self._state is ConnectionState.CLOSED:
            return
        if not self._batch:
            self._flush()
        if more and self._accepting and self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn)
        self._close_if_drained()
        self._refresh()

    # What the arbiter of the group asks.

    def _let_one_leave(self) -> int | None:
        """Hand down one Send that waits: its bytes; None: none can leave. Internal."""
        outbox = self._outbox
        left = 1 if outbox is None else outbox.drain(1)
        return None if left == 1 else 1 - PER_OPERATION - left

    def _have_left(self, *, own_turn: bool) -> None:
        """Several of those were handed down, by a turn of the loop or in a Send. Internal."""
        if own_turn or (self._through and not self._batch):
            self._through = False
            self._flush()
        elif not self._batch:
            self._need_turn()
        self._close_if_drained()

    # What the outbox asks of its host.

    def hand_down(self, entry: Entry) -> bool:
        """Give one Send to the stack. Internal."""
        flow = self._flow
        assert flow is not None
        if entry.data is _FINISH:
            self._flush_down()
            flow.finish()
            return False
        if type(entry.data) is not bytes and not self._objects:
            raise SendError(
                f"{self._stack} carries bytes, not {type(entry.data).__name__}",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
            )
        if entry.unchecked is not None:
            refusal = self._stack_refusal(entry, entry.unchecked)
            if refusal is not None:
                raise refusal
        if entry.series is not None and entry.record is not None and entry.deadline is not None:
            # What it has waited here is part of its lifetime.
            left = max(entry.deadline - self._loop.time(), _LEAST_LIFETIME)
            properties = dict(entry.record.properties)
            # Adding a time to a lifetime and taking it away again may round up.
            properties["msgLifetime"] = min(left, properties.get("msgLifetime", left))
            entry.record = SendRecord(entry.context, properties, entry.record.length)
        record = entry.record
        if record is not None and record.properties.get("noSegmentation") and self._cuts_packets:
            # Not behind others in their packet, where it may not fit any more.
            self._flush_down()
        later = self._down(entry.data, record, entry.end)
        if self._log is not None:
            self._note("sent", bytes=entry.size, end_of_message=entry.end)
        if entry.end and entry.final:
            self._flush_down()
            flow.finish()
        return bool(later)

    def recall(self) -> bool:
        """Have the stack drop the Message it has only the first parts of. Internal."""
        return self._flow is not None and self._flow.withdraw()

    def cut_off(self, error: SendError) -> None:
        """A Message that has begun to leave will never be whole. Internal."""
        self._abort(
            ConnectionError(
                f"a Message was cut off while it was sent: {error}",
                reason=Reason.CONNECTION_ABORTED,
            )
        )

    def sent(self, entry: Entry, error: BaseException | None) -> None:
        """Tell whoever subscribed the outcome of a Send. Internal."""
        if error is not None and entry.final:
            # It never left, so it was not the last one.
            self._final = False
        dispatcher = self._dispatcher
        if dispatcher is not None and not entry.silent:
            if error is not None:
                event = _as_send_error(error)
                if dispatcher.wants(type(event)):
                    entry.handled = True
                    dispatcher.emit(event)
            elif dispatcher.wants(Sent):
                dispatcher.emit(Sent(entry.context))

    def eased(self) -> None:
        """Something that waited is gone without leaving. Internal."""
        self._close_if_drained()
        self._refresh()
        if self._group.arbiter is not None:
            self._group.arbiter.eased(self)  # type: ignore[arg-type]  # only Connections are made

    def unhandled(self, error: BaseException) -> None:
        """An outcome that nobody awaits or was told: logged once. Internal."""
        if not self._logged_unhandled:
            self._logged_unhandled = True
            logger.warning("%r: a Send failed and nobody awaits or handles it: %s", self, error)

    def sending(
        self, length: int | None = None, **message_properties: Unpack[MessageKeywords]
    ) -> Sending:
        """Send one Message in parts (RFC 9622, section 9.2.3).

        ::

            async with connection.sending(length=size) as message:
                async for chunk in source:
                    await message.send(chunk)

        Leaving the block ends the Message; an exception aborts it (and, if a
        part has left already, the Connection: the rest cannot be made up).

        Args:
            length: Bytes of the whole Message where known: lets a framer
                with a length prefix send the first part before the last.
            **message_properties: As :meth:`send`.
        """
        context = MessageContext()
        for name, value in message_properties.items():
            context.add(name, value)
        return Sending(self, context, length)

    def _abandon(self, context: MessageContext) -> None:
        """Give up a Message in parts."""
        if self._outbox is not None:
            self._outbox.abandon(context)
            self._resume()

    def start_batch(self) -> None:
        """Gather the Sends that follow until :meth:`end_batch` (section 9.2.4)."""
        self._batch += 1
        self._through = False

    def end_batch(self) -> None:
        """Let what was gathered leave. Without :meth:`start_batch`: no effect."""
        if self._batch:
            self._batch -= 1
            if not self._batch:
                self._through = True
                self._flush()

    @contextlib.contextmanager
    def batch(self) -> Generator[None]:
        """``with connection.batch():`` the Sends inside leave together.

        An await inside never waits for the end of the batch; above 64 KiB
        what was gathered leaves all the same.
        """
        self.start_batch()
        try:
            yield
        finally:
            self.end_batch()

    def finish(self) -> Coroutine[Any, Any, None]:
        """Final without data: no more will be sent; receiving goes on.

        Half-close where the protocol has one; elsewhere only this side knows.
        """
        if self._state is ConnectionState.CLOSED:
            raise self._lost()
        if self._final or self._close_wanted or self._state is ConnectionState.CLOSING:
            return DONE
        entry = Entry(_FINISH, None, True, MessageContext(), 0)
        entry.silent = True  # no Send, so no event
        self._queue(entry, {"final": True})
        return self._queued_outcome(self._make_outbox(), entry)

    @property
    def queued(self) -> tuple[int, int]:
        """Bytes and Messages that wait here, not yet taken by the stack."""
        outbox = self._outbox
        return (0, 0) if outbox is None else (outbox.bytes, outbox.messages)


def _as_send_error(error: BaseException) -> BaseException:
    """As an event: that of a Send alone. SendFailed would also be a ConnectionError."""
    if not isinstance(error, SendFailed):
        return error
    event = SendError(str(error), reason=error.reason, detail=error.detail, context=error.context)
    event.__cause__ = error.__cause__
    return event
