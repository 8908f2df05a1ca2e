"""Connection: states, Messages, properties, the end (RFC 9622, sections 8 to 11).

The hot path is ``send`` and ``receive``. While the stack takes data and
nothing is special about a Send, ``send`` is: hand down, flush, return one
shared finished object. Everything else goes through the outbox. Receiving is
the other way round: parts wait in the inbox, a receiver takes them.

Per loop turn a Connection may do 64 KiB or 128 operations without a real wait
(``_credit``); then the loop runs once, so that timeouts fire, gathered writes
leave and a full stack is noticed.

Every Send and every Receive has one outcome. Awaiting gives it; handlers get
it as an event, all of them before the terminal event, which is the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Unpack

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import (
    ConnectionError,
    EndOfData,
    EstablishmentError,
    Expired,
    PartialMessageWarning,
    PropertyError,
    Reason,
    ReceiveError,
    SendError,
    SendFailed,
    TapsError,
)
from taps_core.model.events import (
    Closed,
    ConnectionReceived,
    Event,
    Ready,
    Received,
    ReceivedPartial,
    Sent,
)
from taps_core.model.messages import Message, MessageContext, SendRecord
from taps_core.model.properties import ConnectionState, message_property
from taps_core.planning.states import ConnectionEvent as E
from taps_core.planning.states import advance
from taps_core.runtime.awaitables import (
    CREDIT,
    DONE,
    PER_OPERATION,
    SendOutcome,
    YieldOnce,
    afresh,
)
from taps_core.runtime.dispatch import Dispatcher, EventStream
from taps_core.runtime.inbox import Inbox, Search
from taps_core.runtime.live_properties import ConnectionProperties
from taps_core.runtime.outbox import Entry, Outbox, Series
from taps_core.runtime.sending import Sending

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Coroutine,
        Generator,
        Iterable,
        Mapping,
    )

    from taps_core.model.errors import Attempt
    from taps_core.model.flow import Flow
    from taps_core.model.keywords import MessageKeywords
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.properties import Property
    from taps_core.planning.candidates import Leaf
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.group import Group, IncomingStreams
    from taps_core.runtime.listener import Listener

__all__ = ["Connection"]

T = TypeVar("T")
logger = logging.getLogger("taps_core")

#: Handed down from the outbox in one turn of the loop.
DRAIN: Final = 256 * 1024
_FINISH: Final = object()


class Connection(Generic[T]):
    """One Connection, whatever runs below (RFC 9622).

    Made by :meth:`Preconnection.initiate`, handed over by a Listener, or made
    by :meth:`clone`. Awaiting it waits for Ready and returns the Connection
    itself; ``async with`` does the same, closes on clean exit (at most
    ``close_timeout`` seconds, then Abort) and aborts on an exception.

    Attributes:
        close_timeout: Seconds that leaving ``async with`` waits for Closed.
        report: What was tried during establishment, in order of start.
    """

    close_timeout: float

    __slots__ = (
        "__weakref__",
        "_accepting",
        "_batch",
        "_blueprint",
        "_close_told",
        "_close_wanted",
        "_credit",
        "_defaults",
        "_dispatcher",
        "_down",
        "_early",
        "_end_waiters",
        "_error",
        "_events_logged",
        "_fast",
        "_final",
        "_flow",
        "_flush_down",
        "_gone",
        "_group",
        "_inbox",
        "_leaf",
        "_listener",
        "_log",
        "_logged_unhandled",
        "_loop",
        "_objects",
        "_outbox",
        "_priority",
        "_ready",
        "_settings",
        "_stack",
        "_state",
        "_task",
        "_through",
        "_turn",
        "_warned",
        "accepted",
        "close_timeout",
        "report",
    )

    def __init__(self, blueprint: Blueprint, group: Group, *, accepted: bool = False) -> None:
        """Not called by applications: see ``Preconnection`` and ``Listener``."""
        self._blueprint = blueprint
        self._group = group
        #: Whether a Listener (or the peer, within a group) made it.
        self.accepted = accepted
        self._loop = blueprint.loop
        self.close_timeout = blueprint.close_timeout
        self.report: tuple[Attempt, ...] = ()
        self._state: ConnectionState = ConnectionState.ESTABLISHING
        self._flow: Flow | None = None
        self._stack: Stack | None = None
        self._inbox: Inbox = Inbox(self)
        self._outbox: Outbox | None = None
        self._dispatcher: Dispatcher | None = None
        self._log: deque[dict[str, Any]] | None = (
            deque(maxlen=blueprint.event_log) if blueprint.event_log else None
        )
        # Message Properties of this Connection that are not at the RFC's default.
        self._defaults = blueprint.message_defaults
        self._priority: int = group.properties["connPriority"]
        # Connection Properties of plugins that the group does not share.
        self._settings: Mapping[str, Any] | None = None
        self._fast = False
        self._accepting = True
        self._through = True
        self._batch = 0
        self._credit = CREDIT
        self._turn: asyncio.Handle | None = None
        self._final = False
        self._objects = False
        self._error: TapsError | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._early: Entry | None = None
        # What won the race, for a clone that has to connect again.
        self._leaf: Leaf | None = None
        # The Listener that handed it over, to be told of its end.
        self._listener: Listener | None = None
        # close() before Ready, with something to send; and the stack was told.
        self._close_wanted = False
        self._close_told = False
        self._end_waiters: list[asyncio.Future[None]] | None = None
        self._gone = False
        self._warned = False
        self._logged_unhandled = False
        group.members[id(self)] = self
        blueprint.runtime.connections.add(self)

    # ------------------------------------------------------------------ sending

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
            and context is None
            and not message_properties
            and end_of_message
            and type(data) is bytes
        ):
            try:
                self._down(data, None, True)
            except SendError as error:
                return self._failed(error)
            self._credit -= len(data) + PER_OPERATION
            if self._credit <= 0:
                return self._exhausted()
            if self._through:
                self._through = False
                self._flush_down()
            elif self._turn is None and not self._batch:
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
        if self._can_hand_down():
            self._drain()
        if not entry.done:
            return SendOutcome(outbox, entry)
        self._credit -= entry.size + PER_OPERATION
        exhausted = self._credit <= 0
        if entry.error is None:
            return self._exhausted() if exhausted else DONE
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
        return self._wrong_direction() if self._receives_only else None

    @property
    def _receives_only(self) -> bool:
        return bool(self._blueprint.effective["direction"] == "Unidirectional receive")

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
        else:
            return None
        return SendError(sentence, reason=reason, context=entry.context)

    def _is_segmented(self, entry: Entry) -> bool:
        flow = self._flow
        limit = None if flow is None else flow.read("singularTransmissionMsgMaxLen")
        return limit is not None and entry.size > limit

    def _direct(self, entry: Entry, final: bool) -> Coroutine[Any, Any, None]:
        """Past the empty outbox, with a record or a Final mark."""
        entry.final = final
        try:
            later = self.hand_down(entry)
        except SendError as error:
            return self._failed(error, entry)
        if final:
            self._final = True
            self._fast = False
        self._credit -= entry.size + PER_OPERATION
        exhausted = self._credit <= 0
        if self._through and not exhausted:
            self._through = False
            self._flush_down()
        elif self._turn is None and not self._batch and not exhausted:
            self._turn = self._loop.call_soon(self._end_turn)
        if later and entry.record is not None:
            outbox = self._make_outbox()
            outbox.expect(entry)
            if exhausted:
                self._rest()
            return SendOutcome(outbox, entry)
        entry.done = True
        self.sent(entry, None)
        return self._exhausted() if exhausted else DONE

    def _failed(self, error: SendError, entry: Entry | None = None) -> SendOutcome:
        if entry is None:
            entry = Entry(None, None, True, MessageContext(), 0)
        if error.context is None:
            error.context = entry.context
        entry.done = True
        entry.error = error
        self.sent(entry, error)
        # One that fails again and again is no excuse for keeping the loop.
        self._credit -= PER_OPERATION
        exhausted = self._credit <= 0
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
        dispatcher = self._dispatcher
        self._fast = (
            self._state is ConnectionState.ESTABLISHED
            and self._accepting
            and self._credit > 0
            and not self._final
            and not self._outbox
            and not self._objects
            and self._log is None
            and self._defaults.keys() <= _REPLAYABLE
            and (dispatcher is None or not dispatcher.wants(Sent, SendError, Expired))
            and (
                self._stack is None
                or not self._stack.capabilities.may_duplicate
                or bool(self._defaults.get("safelyReplayable"))
            )
            and not self._receives_only
        )

    def _exhausted(self) -> YieldOnce:
        """Enough for this turn: let everything leave and the loop run."""
        self._rest()
        return YieldOnce()

    def _rest(self) -> None:
        self._fast = False
        self._flush()
        if self._turn is None and self._state is not ConnectionState.CLOSED:
            self._turn = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn = None
        if not self._batch:
            self._flush()
        self._fresh_turn()
        self._resume(over_limit=True)

    def _resume(self, *, over_limit: bool = False) -> None:
        """Let go what waits, if it may.

        Args:
            over_limit: What waits is what a batch has no room for: it leaves
                before the batch ends.
        """
        if self._outbox and self._can_hand_down():
            self._drain()
            if over_limit and self._batch:
                self._flush()
        self._refresh()

    def _flush(self) -> None:
        """Let what was gathered leave, if there is a stack and it still listens."""
        closed = self._close_told or self._state is ConnectionState.CLOSED
        if self._flow is not None and not closed:
            self._flush_down()

    def _before_wait(self) -> None:
        """A receiver is about to wait, perhaps for the answer to what a batch gathers."""
        if self._batch:
            self._flush()

    def _fresh_turn(self) -> None:
        """After a real wait: full credit, and the next Message is written through."""
        self._credit = CREDIT
        self._through = not self._batch

    def _drain(self) -> None:
        outbox = self._outbox
        if outbox is None or self._flow is None:
            return
        more = outbox.drain(DRAIN)
        if self._state is ConnectionState.CLOSED:
            return
        if not self._batch:
            self._flush()
        if more and self._accepting and self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn)
        self._close_if_drained()
        self._refresh()

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
            properties = {**entry.record.properties, "msgLifetime": left}
            entry.record = SendRecord(entry.context, properties, entry.record.length)
        later = self._down(entry.data, entry.record, entry.end)
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
                f"a Message was cut off while it was sent: {error}", reason=Reason.LOCAL_ABORT
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
        if self._state is ConnectionState.CLOSING:
            self._close_if_drained()

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

    # ---------------------------------------------------------------- receiving

    def receive(
        self, *, min_incomplete_length: int | None = None, max_length: int | None = None
    ) -> Coroutine[Any, Any, Message[T]]:
        """The next Message, or a part of it (RFC 9622, section 9.3).

        With Message boundaries (of the transport or a framer) a whole Message,
        unless a length is given or it is larger than can be held. Without
        boundaries all bytes of one direction are one Message of unknown
        length: what is there is returned with ``end_of_message=False``.

        Args:
            min_incomplete_length: Bytes that a part must have at least, unless
                its Message ends before.
            max_length: Bytes that are returned at most.

        Raises:
            EndOfData: The peer has sent everything.
            ReceiveError: A Message could not be received or parsed; no
                receive direction; closed on this side.
            ConnectionError: The Connection failed.
        """
        if min_incomplete_length is None and max_length is None:
            return self._receive()
        return self._receive_part(min_incomplete_length, max_length)

    async def _receive(self) -> Message[T]:
        """A whole Message: the hot path, so what Inbox would do stands here once more."""
        inbox = self._inbox
        if not inbox.queue or inbox.waiters or inbox.signal is not None or self._credit <= 0:
            if inbox.queue or not inbox.alone:
                return await self._receive_part(None, None)
            # The only receiver there is: a future, and no line to stand in.
            if self._batch:
                self._flush()
            inbox.signal = self._loop.create_future()
            try:
                await inbox.signal
            except BaseException:
                inbox.signal = None
                inbox.wake()
                raise
            inbox.signal = None
            self._credit = CREDIT
            self._through = not self._batch
            if not inbox.queue:
                return await self._receive_part(None, None, first=True)
        part = inbox.queue.popleft()
        data, context, end = part
        if type(data) is not bytes:
            inbox.queue.appendleft(part)
            return self._take(None)
        size = len(data)
        inbox.size -= size
        if inbox.paused or inbox.waiters:
            inbox.taken()
        self._credit -= PER_OPERATION + size
        message: Message[T] = Message(data, context, end, self)  # type: ignore[arg-type]  # bytes are what this stack makes
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

    async def _receive_part(
        self, minimum: int | None, maximum: int | None, *, first: bool = False
    ) -> Message[T]:
        inbox = self._inbox
        self._check_lengths(minimum, maximum)
        await inbox.wait(minimum, first=first)
        if minimum is None and maximum is None and not inbox.boundaries and not self._warned:
            # Before anything is taken: where warnings are errors, nothing is lost.
            self._warn_partial()
        return self._take(maximum, partial=minimum is not None)

    def _take(self, maximum: int | None, *, partial: bool = False) -> Message[T]:
        """Take what :meth:`Inbox.wait` has waited for; exactly one outcome, and its event."""
        try:
            message = self._inbox.take(maximum, partial=partial)
        except TapsError as error:
            self._receive_ended(error)
            raise
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

    def _check_lengths(self, minimum: int | None, maximum: int | None) -> None:
        for value in (minimum, maximum):
            if value is not None and value < 1:
                raise ValueError("lengths are at least 1 byte")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError("min_incomplete_length is above max_length")

    def _warn_partial(self) -> None:
        inbox = self._inbox
        if not inbox.available:
            return
        self._warned = True
        try:
            warnings.warn(
                f"{self._stack} has no Message boundaries: receive() returns the bytes that are "
                "there; use a framer, or give a length",
                PartialMessageWarning,
                stacklevel=4,
            )
        except PartialMessageWarning:
            inbox.taken()
            raise

    def _tell_received(self, message: Message[T]) -> None:
        if self._log is not None:
            self._note("received", bytes=_size(message.data), end_of_message=message.end_of_message)
        if self._dispatcher is not None:
            self._dispatcher.emit(
                Received(message) if message.end_of_message else ReceivedPartial(message)
            )

    def _receive_ended(self, error: TapsError) -> None:
        if self._dispatcher is not None:
            self._dispatcher.emit(_as_receive_error(error))

    async def receive_exactly(self, length: int) -> Message[T]:
        """Exactly ``length`` bytes of the current Message (on a byte stream: of all that comes).

        Raises:
            EndOfData: Fewer are left; they stay and can be received.
            As :meth:`receive`.
        """
        self._check_lengths(length, length)
        inbox = self._inbox
        await inbox.wait(lambda: inbox.available >= length or inbox.complete)
        if inbox.available < length:
            raise self._shortage(f"fewer than {length} bytes are left")
        return self._take(length, partial=True)

    async def receive_until(self, separator: bytes, *, max_length: int = 64 * 1024) -> Message[T]:
        """Bytes up to and including ``separator``.

        Raises:
            ReceiveError: DEFRAMING_FAILED: not within ``max_length`` bytes. Nothing is taken.
            EndOfData: The end came first; what is there stays.
            As :meth:`receive`.
        """
        if not separator:
            raise ValueError("the separator is empty")
        inbox = self._inbox
        search = Search(inbox, separator, max_length)
        await inbox.wait(search.over)
        if search.length is None:
            raise self._shortage(f"no {separator!r} before the end")
        if search.length > max_length:
            raise self._untaken(
                ReceiveError(
                    f"no {separator!r} within {max_length} bytes", reason=Reason.DEFRAMING_FAILED
                )
            )
        return self._take(search.length, partial=True)

    def _shortage(self, sentence: str) -> TapsError:
        return self._untaken(self._inbox.shortage(sentence))

    def _untaken(self, error: TapsError) -> TapsError:
        """A Receive that ends without taking anything: its outcome, and the next one's turn."""
        self._credit -= PER_OPERATION
        self._receive_ended(error)
        self._inbox.taken()
        return error

    def __aiter__(self) -> Connection[T]:
        """Messages until the peer's Final or orderly close; everything else raises."""
        return self

    async def __anext__(self) -> Message[T]:
        try:
            return await self._receive()
        except EndOfData:
            raise StopAsyncIteration from None

    # ------------------------------------------------------------ establishment

    def __await__(self) -> Generator[Any, Any, Connection[T]]:
        return self._wait_ready().__await__()

    async def _wait_ready(self) -> Connection[T]:
        """Ready, or the error that prevented it. Cancelling aborts establishment."""
        ready = self._ready
        if self._state is ConnectionState.ESTABLISHING and ready is not None:
            try:
                await asyncio.shield(ready)
            except asyncio.CancelledError:
                # Also if it became Ready in this very turn: whoever asked for
                # it has not got it.
                task = self._task
                self.abort()
                if task is not None:
                    await asyncio.wait([task])
                await self._released()
                raise
        elif ready is not None:
            ready.exception()
        if self._stack is None and self._error is not None:
            raise afresh(self._error)
        return self

    async def __aenter__(self) -> Connection[T]:
        return await self._wait_ready()

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        try:
            if typ is None and self._state is not ConnectionState.CLOSED:
                await self._close_in_time()
        finally:
            if self._state is not ConnectionState.CLOSED:
                self.abort()
            await self._released()

    async def _close_in_time(self) -> None:
        try:
            async with asyncio.timeout(self.close_timeout):
                await self.close()
        except TimeoutError:
            outbox = self._outbox
            undelivered = outbox is not None and not outbox.idle
            if not undelivered and self._flow is not None:
                undelivered = bool(self._flow.read("_taps.undelivered"))
            self.abort()
            if undelivered:
                raise ConnectionError(
                    f"not everything was delivered within {self.close_timeout:g} s of Close",
                    reason=Reason.TIMEOUT,
                ) from None

    async def _released(self) -> None:
        """Until the stack has let go of its resources."""
        while self._flow is not None and not self._gone:
            await self._next_end()

    async def _wait_established(self) -> None:
        """As awaiting it, but a waiter that is cancelled aborts nothing."""
        if self._ready is not None:
            await asyncio.shield(self._ready)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Let ``work`` establish it, in a task that the runtime owns."""
        self._ready = self._loop.create_future()
        task = self._blueprint.runtime.spawn(work)
        if not task.done():
            # A loop with eager tasks may be through already.
            self._task = task

    def _established(self, flow: Flow, stack: Stack) -> None:
        """The race has a winner, or a Listener hands over."""
        if self._state is ConnectionState.CLOSED:
            flow.abort()
            return
        self._task = None
        self._flow = flow
        self._stack = stack
        self._down = flow.send
        self._flush_down = flow.flush
        self._objects = stack.takes_objects
        inbox = self._inbox
        inbox.flow = flow
        inbox.boundaries = stack.preserves_boundaries
        self._state = advance(self._state, E.READY)
        if self._log is not None:
            self._note("ready", stack=str(stack), remote=str(self.remote_endpoint))
        if self._blueprint.effective["direction"] == "Unidirectional send":
            inbox.drop(
                ReceiveError(
                    "direction is Unidirectional send", reason=Reason.INVALID_CONFIGURATION
                )
            )
        self._refresh()
        if self._ready is not None:
            self._ready.set_result(None)
            self._ready = None
        flow.start(inbox)
        self._group.established()
        if self._dispatcher is not None and not self.accepted:
            self._dispatcher.emit(Ready())
        if self._early is not None:
            self._send_early()
        self._resume()
        if self._close_wanted and self._state is ConnectionState.ESTABLISHED:
            self._close_wanted = False
            self._start_close()

    def _send_early(self) -> None:
        """What InitiateWithSend was given, unless the handshake carried it."""
        early, self._early = self._early, None
        assert early is not None
        properties = {**self._defaults, **early.context.properties}
        if early.done:
            early.silent = False
            self.sent(early, None)
            if properties.get("final"):
                _ = self.finish()
            return
        entry = self._entry(early.data, early.context, properties, None, True)
        entry.dropped = True  # its outcome is an event, or logged
        if self._receives_only:
            _ = self._failed(self._wrong_direction(), entry)
            return
        entry.unchecked = properties
        self._queue(entry, properties, first=True)

    def _establishment_failed(self, error: EstablishmentError) -> None:
        """No candidate is left."""
        if self._state is ConnectionState.CLOSED:
            return
        self._task = None
        self._early = None
        self._terminate(E.ESTABLISHMENT_ERROR, error, error)

    # -------------------------------------------------------------- termination

    def close(self) -> Awaitable[None]:
        """Close (RFC 9622, section 10): deliver what was sent, then end in order.

        Starts at once; awaiting waits for Closed. Nothing is received any more.
        Pending Sends are delivered first, also those queued before Ready. A
        Connection that is establishing and has nothing to send is given up.

        Returns:
            An awaitable that raises :class:`ConnectionError` if not everything
            could be delivered.
        """
        if self._state is ConnectionState.ESTABLISHED:
            self._start_close()
        elif self._state is ConnectionState.ESTABLISHING and not self._close_wanted:
            if self._outbox or self._early is not None:
                self._close_wanted = True
            else:
                self._give_up("closed before it was ready")
        return _Closing(self)

    def _start_close(self) -> None:
        self._state = advance(self._state, E.CLOSE)
        self._fast = False
        if self._log is not None:
            self._note("close")
        self._inbox.drop(
            ReceiveError("the Connection was closed on this side", reason=Reason.CONNECTION_CLOSED)
        )
        self._batch = 0
        outbox = self._outbox
        if outbox is not None and not outbox.end_unfinished(
            SendError("closed before the Message was ended", reason=Reason.CONNECTION_CLOSED),
            boundaries=self._inbox.boundaries,
        ):
            self._abort(
                ConnectionError(
                    "closed while a Message was being sent that has no end",
                    reason=Reason.CONNECTION_ABORTED,
                )
            )
            return
        self._flush()
        self._resume()
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        flow = self._flow
        if (
            self._state is ConnectionState.CLOSING
            and not self._outbox
            and not self._close_told
            and flow is not None
        ):
            self._flush_down()
            self._close_told = True
            flow.close()

    def _give_up(self, sentence: str) -> None:
        task, self._task = self._task, None
        self._early = None
        error = EstablishmentError(sentence, reason=Reason.LOCAL_ABORT)
        self._terminate(E.ESTABLISHMENT_ERROR, error, error)
        if task is not None:
            task.cancel()

    def abort(self) -> None:
        """Abort (RFC 9622, section 10): end at once, drop what is pending.

        The last event is ConnectionError with reason LOCAL_ABORT (before
        Ready: EstablishmentError with that reason). On a closed Connection:
        no effect.
        """
        if self._state is ConnectionState.CLOSED:
            return
        if self._state is ConnectionState.ESTABLISHING:
            self._give_up("aborted before it was ready")
            return
        self._abort(ConnectionError("aborted on this side", reason=Reason.LOCAL_ABORT))

    def _abort(self, error: ConnectionError) -> None:
        self._inbox.drop(error)
        flow = self._flow
        self._terminate(E.CONNECTION_ERROR, error, error)
        if flow is not None:
            flow.abort()

    def close_group(self) -> None:
        """Close every Connection of the group (RFC 9622, section 10)."""
        self._group.close()

    def abort_group(self) -> None:
        """Abort every Connection of the group (RFC 9622, section 10)."""
        self._group.abort()

    def _flow_closed(self, error: Exception | None) -> None:
        """The stack has let go of everything."""
        self._gone = True
        state = self._state
        if state is ConnectionState.CLOSED:
            self._wake_end()
            self._forget()
            return
        outbox = self._outbox
        if error is None and outbox is not None and not outbox.idle:
            error = ConnectionError(
                "the peer closed the Connection before everything was sent",
                reason=Reason.CONNECTION_ABORTED,
            )
        if error is None:
            self._inbox.finish(EndOfData("the peer closed the Connection"))
            self._terminate(E.CLOSED, Closed(), None)
        else:
            failure = _as_connection_error(error)
            self._inbox.finish(failure)
            self._terminate(E.CONNECTION_ERROR, failure, failure)

    def _terminate(self, event: Any, last: Any, error: TapsError | None) -> None:
        """The one terminal event; every Send and Receive gets its outcome before it."""
        self._state = advance(self._state, event)
        self._fast = False
        self._error = error
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._outbox is not None:
            self._outbox.fail(self._lost())
        if self._flow is None and error is not None:
            self._inbox.drop(error)
        if self._log is not None:
            self._note(type(last).__name__, error=None if error is None else str(error))
        dispatcher = self._dispatcher
        ready = self._ready
        if ready is not None and error is not None:
            # Kept: if nobody ever awaits it, the loop's exception handler is told.
            ready.set_exception(error)
            if (
                (dispatcher is not None and dispatcher.wants(type(error)))
                or self._end_waiters is not None
                or error.reason is Reason.LOCAL_ABORT
            ):
                ready.exception()
        if dispatcher is not None:
            self._tell_last(last, self._inbox.line())
        self._group.left(self)
        if self._listener is not None:
            self._listener._left(self)
            self._listener = None
        self._wake_end()
        if self._flow is None or self._gone:
            self._forget()

    def _tell_last(self, last: Any, line: tuple[object, ...]) -> None:
        """The terminal event, after the outcome of every Receive that was waiting.

        What ended them wakes them one after the other.
        """
        if any(waiting in self._inbox.line() for waiting in line):
            self._loop.call_soon(self._tell_last, last, line)
        elif self._dispatcher is not None:
            self._dispatcher.emit(last, last=True)

    def _forget(self) -> None:
        self._blueprint.runtime.connections.discard(self)

    def _lost(self) -> SendFailed:
        """What a Send raises when the Connection is (or is being) closed."""
        error = self._error
        if error is None:
            return SendFailed("the Connection is closed", reason=Reason.CONNECTION_CLOSED)
        failure = SendFailed(str(error), reason=error.reason, detail=error.detail)
        failure.__cause__ = error
        return failure

    def _wake_end(self) -> None:
        waiters, self._end_waiters = self._end_waiters, None
        for future in waiters or ():
            if not future.done():
                future.set_result(None)

    async def _next_end(self) -> None:
        if self._end_waiters is None:
            self._end_waiters = []
        future = self._loop.create_future()
        self._end_waiters.append(future)
        await future

    # --------------------------------------------------------- from the stack

    def _writable(self, writable: bool) -> None:
        self._accepting = writable
        self._resume()

    def _outcome(self, record: SendRecord, error: SendError | None) -> None:
        if self._outbox is not None:
            self._outbox.outcome(record, error)

    def _notified(self, event: Event) -> None:
        if self._log is not None:
            self._note(type(event).__name__)
        if self._dispatcher is not None and self._state is not ConnectionState.CLOSED:
            self._dispatcher.emit(event)

    def _receive_failed(self, error: ReceiveError, *, told: bool) -> None:
        """A Message was lost; ``told`` if it will be the outcome of a Receive."""
        if self._log is not None:
            self._note("ReceiveError", error=str(error))
        if not told:
            self._notify_error(error)

    def _peer_finished(self) -> None:
        if self._log is not None:
            self._note("peer finished")

    # ------------------------------------------------------------------- events

    def on(self, event_type: type[Any], handler: Callable[[Any], object]) -> None:
        """Call ``handler(event)`` for each event of this type, from the loop.

        Event types are the classes of RFC 9622's names; the error events are
        the exceptions. Nothing that happened before is told again.

        Raises:
            TypeError: Not an event type, or a coroutine function.
        """
        self._dispatch().on(event_type, handler)
        if event_type is ConnectionReceived:
            self._group.take_streams()
        self._refresh()

    def events(self) -> EventStream[Any]:
        """All events from here on; ends after the terminal one."""
        stream = self._dispatch().stream()
        self._refresh()
        return stream

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            over = self._state is ConnectionState.CLOSED
            self._dispatcher = Dispatcher(self, self._loop, over=over)
        return self._dispatcher

    def _note(self, event: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.append({"time": self._loop.time(), "event": event, **fields})

    @property
    def event_log(self) -> list[dict[str, Any]]:
        """What happened, oldest first (``System(event_log=N)`` keeps the last N).

        Dicts that ``json`` can write: ``time`` (loop seconds), ``event``, and
        what belongs to it. Data is never in it, only lengths.
        """
        return list(self._log or ())

    # --------------------------------------------------------------- properties

    @property
    def properties(self) -> ConnectionProperties:
        """All properties, live; Preferences read as Booleans once established."""
        return ConnectionProperties(self)

    def set_property(self, name: str, value: Any) -> None:
        """SetProperty (RFC 9622, section 8).

        Connection Properties change for the whole group, connPriority apart;
        Message Properties become this Connection's defaults.

        Raises:
            PropertyError: The RFC's ErrorCode: no such property, read-only, a
                value it cannot have, or one that the stack refuses. The
                Connection lives on, unchanged.
        """
        self._group.set_property(self, name, value)

    @property
    def _definitions(self) -> tuple[Property, ...]:
        """Protocol-specific properties: of the stack, before Ready of all plugins."""
        stack = self._stack
        if stack is not None:
            return stack.definitions
        registry = self._blueprint.runtime.system.registry
        return tuple(registry.properties.values()) if registry.loaded else ()

    def _apply(self, name: str, value: Any) -> None:
        """Let a Connection Property take effect in the stack, if there is one yet."""
        if self._flow is not None and self._state is not ConnectionState.CLOSED:
            self._flow.apply(name, value)

    def _notify_error(self, error: TapsError) -> None:
        """An error event that does not end this Connection."""
        if self._dispatcher is not None and self._state is not ConnectionState.CLOSED:
            self._dispatcher.emit(error)

    def _stack_for(self, framers: tuple[FramerDefinition, ...]) -> Stack:
        """This Connection's stack with other framers on top."""
        stack = self._stack
        assert stack is not None
        return stack if framers == self._blueprint.framers else stack.with_framers(framers)

    def _set_default(self, name: str, value: Any) -> None:
        """A Message Property's default of this Connection alone."""
        canonical, checked = message_property(name, value)
        self._defaults = {**self._defaults, canonical: checked}
        self._refresh()

    @property
    def state(self) -> ConnectionState:
        """Establishing, Established, Closing or Closed (RFC 9622, section 11)."""
        return self._state

    @property
    def stack(self) -> Stack | None:
        """The Protocol Stack in use, ``None`` before Ready; prints as ``line/TLS/TCP``."""
        return self._stack

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """The address used on this side, ``None`` before Ready."""
        return None if self._flow is None else self._flow.local_endpoint

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """The peer; before Ready the first Remote Endpoint asked for."""
        if self._flow is not None:
            return self._flow.remote_endpoint
        return self._blueprint.remote[0] if self._blueprint.remote else None

    def find(self, wanted: type[Any]) -> Any | None:
        """Something of this type that a layer of the stack offers (e.g. TCP figures)."""
        return None if self._flow is None else self._flow.find(wanted)

    # ------------------------------------------------------------------- groups

    def clone(
        self,
        framers: Iterable[Any] | Any = None,
        connection_properties: dict[str, Any] | None = None,
    ) -> Connection[Any]:
        """Another Connection of the same group (RFC 9622, section 7.4).

        A new stream where the protocol has streams, else a new Connection to
        the same endpoint. May be called before Ready; the clone then waits.

        Args:
            framers: In place of this Connection's; each Connection has its own state.
            connection_properties: Set on the clone (stream-level settings).

        Returns:
            A Connection that is establishing. Awaiting it raises
            :class:`CloneError` if it cannot be; this Connection also gets
            that as an event.
        """
        return self._group.clone(self, framers, connection_properties)

    def grouped_connections(self) -> frozenset[Connection[Any]]:
        """All open Connections of the group, this one included."""
        return frozenset(self._group.members.values())

    def incoming(self) -> IncomingStreams:
        """Connections that the peer adds to the group, as ``async for`` (streams)."""
        return self._group.incoming()

    def add_remote(self, *endpoints: RemoteEndpoint | str) -> None:
        """Tell the stack of further addresses of the peer (RFC 9622, section 7.5).

        Raises:
            PropertyError: This stack uses one pair of addresses.
        """
        self._change_endpoints((), endpoints, "add")

    def remove_remote(self, *endpoints: RemoteEndpoint | str) -> None:
        """The peer is not to be reached there any more; as :meth:`add_remote`."""
        self._change_endpoints((), endpoints, "remove")

    def add_local(self, *endpoints: LocalEndpoint | str) -> None:
        """Use further local addresses; as :meth:`add_remote`."""
        self._change_endpoints(endpoints, (), "add")

    def remove_local(self, *endpoints: LocalEndpoint | str) -> None:
        """Use local addresses no more; as :meth:`add_remote`."""
        self._change_endpoints(endpoints, (), "remove")

    def _change_endpoints(self, local: Any, remote: Any, verb: str) -> None:
        flow = self._flow
        if flow is None or self._state is not ConnectionState.ESTABLISHED:
            raise PropertyError("endpoints can be changed while the Connection is established")
        local = tuple(LocalEndpoint.coerce(endpoint) for endpoint in local)
        remote = tuple(RemoteEndpoint.coerce(endpoint) for endpoint in remote)
        if verb == "add":
            local = tuple(e for e in local if e != self.local_endpoint)
            remote = tuple(e for e in remote if e != self.remote_endpoint)
            if not local and not remote:
                return
        if not flow.change_endpoints(verb, local, remote):
            raise PropertyError(f"{self._stack} uses one pair of addresses, fixed at establishment")

    def __repr__(self) -> str:
        where = self.remote_endpoint
        over = f" over {self._stack}" if self._stack is not None else ""
        return f"<Connection {self._state.value} to {where}{over}>"


class _Closing:
    """What ``close()`` returns."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def __await__(self) -> Generator[Any, Any, None]:
        connection = self._connection
        while connection._state is not ConnectionState.CLOSED:
            yield from connection._next_end().__await__()
        error = connection._error
        if error is not None and error.reason is not Reason.LOCAL_ABORT:
            raise afresh(error)


#: Seconds that are left to a Message whose time is up while it is handed down.
_LEAST_LIFETIME: Final = 1e-6
#: Message Properties that the Connection itself deals with.
_OWN_PROPERTIES: Final = frozenset({"safelyReplayable", "final", "msgPriority"})
#: Defaults that do not keep a Send from the short way.
_REPLAYABLE: Final = frozenset({"safelyReplayable"})


def _as_connection_error(error: Exception) -> TapsError:
    if isinstance(error, TapsError):
        return error
    failure = ConnectionError(str(error) or type(error).__name__, reason=Reason.PROTOCOL_FAILED)
    failure.__cause__ = error
    return failure


def _as_send_error(error: BaseException) -> BaseException:
    """As an event: that of a Send alone. SendFailed would also be a ConnectionError."""
    if not isinstance(error, SendFailed):
        return error
    event = SendError(str(error), reason=error.reason, detail=error.detail, context=error.context)
    event.__cause__ = error.__cause__
    return event


def _as_receive_error(error: TapsError) -> ReceiveError:
    """As an event: that of a Receive, also where the end of the Connection ended it."""
    if isinstance(error, ReceiveError):
        return error
    event = ReceiveError(str(error), reason=error.reason, detail=error.detail)
    event.__cause__ = error
    return event


def _size(data: Any) -> int | None:
    return len(data) if isinstance(data, bytes) else None
