"""Connection: states, Messages, properties, the end (RFC 9622, sections 8 to 11).

The hot path is ``send`` and ``receive``. While the stack takes data and
nothing is special about a Send, ``send`` is: hand down, flush, return one
shared finished object. Everything else goes through the outbox. Receiving is
the other way round: parts wait in the inbox, a receiver takes them.

Per loop turn a Connection may do 64 KiB or 128 operations without a real wait
(``_credit``); then the loop runs once, so that timeouts fire, gathered writes
leave and a full stack is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from taps_core.runtime.awaitables import DONE, SendOutcome, YieldOnce
from taps_core.runtime.dispatch import Dispatcher, EventStream
from taps_core.runtime.inbox import OBJECT_SIZE, Inbox, Search
from taps_core.runtime.live_properties import ConnectionProperties
from taps_core.runtime.outbox import Entry, Outbox
from taps_core.runtime.sending import Sending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable

    from taps_core.model.errors import Attempt
    from taps_core.model.flow import Flow
    from taps_core.model.keywords import MessageKeywords
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.properties import Property
    from taps_core.planning.candidates import Leaf
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.group import Group
    from taps_core.runtime.listener import Listener

__all__ = ["Connection"]

T = TypeVar("T")
logger = logging.getLogger("taps_core")

#: Work without a real wait: 64 KiB, or 128 operations at 512 each.
CREDIT: Final = 64 * 1024
PER_OPERATION: Final = 512
#: Handed down from the outbox in one turn of the loop.
DRAIN: Final = 256 * 1024
_FINISH: Final = object()


class _Yield:
    """``await _Yield()`` lets the loop run once."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield


_YIELD: Final = _Yield()


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
        "_close_when_ready",
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
        self._close_when_ready = False
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
            end_of_message: False for a part that others follow.
            **message_properties: Message Properties without their ``msg``:
                ``priority``, ``lifetime`` (seconds), ``final``, …

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
            SendError: QUEUE_FULL when too much waits already (nothing was sent).
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
        keywords: Any,
        length: int | None = None,
        identity: int | None = None,
    ) -> Coroutine[Any, Any, None]:
        """Everything that is not the usual case."""
        if self._state is ConnectionState.CLOSED:
            raise self._lost()
        if type(data) is not bytes:
            if isinstance(data, (bytearray, memoryview)):
                data = bytes(data)
            elif self._flow is not None and not self._objects:
                raise TypeError(
                    f"{self._stack} carries bytes, not {type(data).__name__}; "
                    "a framer such as json-lines takes objects"
                )
        sent_context = MessageContext() if context is None else context.copy()
        for name, value in keywords.items():
            sent_context.add(name, value)
        if identity is None and context is not None:
            identity = id(context)
        outbox = self._outbox
        continued = outbox is not None and identity is not None and outbox.series_of(identity)
        if end and not continued:
            identity = None
        properties = {**self._defaults, **sent_context.properties}
        final = bool(properties.get("final"))
        size = len(data) if type(data) is bytes else PER_OPERATION
        lifetime = properties.get("msgLifetime")
        entry = Entry(
            data,
            self._record(sent_context, properties, length, size, end),
            end,
            sent_context,
            size,
            None if lifetime is None else self._loop.time() + lifetime,
        )
        refusal = self._refusal(entry, properties, bool(continued))
        if refusal is not None:
            return self._failed(refusal, entry)
        if final and end:
            self._final = True
            self._refresh()
        if self._can_hand_down() and not outbox and identity is None and not continued:
            return self._direct(entry)
        if outbox is None:
            outbox = self._make_outbox()
        try:
            outbox.check_room(size)
        except SendError as error:
            if final and end:
                self._final = False
            return self._failed(error, entry)
        outbox.push(entry, properties.get("msgPriority", 100), final, identity)
        self._fast = False
        if self._can_hand_down():
            self._drain()
        if entry.done and entry.error is None:
            return DONE
        return SendOutcome(outbox, entry)

    def _record(
        self,
        context: MessageContext,
        properties: dict[str, Any],
        length: int | None,
        size: int,
        end: bool,
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

    def _refusal(
        self, entry: Entry, properties: dict[str, Any], continued: bool
    ) -> SendError | None:
        """Why this Send cannot be, if it cannot (RFC 9622, section 9.1.3)."""
        context = entry.context
        if self._state is ConnectionState.CLOSING:
            return SendError(
                "the Connection is closing", reason=Reason.CONNECTION_CLOSED, context=context
            )
        if self._final and not continued:
            return SendError(
                "a Final Message was sent before",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
                context=context,
            )
        if self._blueprint.effective["direction"] == "Unidirectional receive":
            return SendError(
                "direction is Unidirectional receive",
                reason=Reason.INVALID_MESSAGE_PROPERTIES,
                context=context,
            )
        if properties and self._stack is not None:
            return self._stack_refusal(entry, properties)
        if not properties and self._stack is not None and self._stack.capabilities.may_duplicate:
            return self._stack_refusal(entry, properties)
        return None

    def _stack_refusal(self, entry: Entry, properties: dict[str, Any]) -> SendError | None:
        stack = self._stack
        assert stack is not None
        capabilities = stack.capabilities

        def refuse(sentence: str) -> SendError:
            return SendError(
                sentence, reason=Reason.INVALID_MESSAGE_PROPERTIES, context=entry.context
            )

        if capabilities.may_duplicate and not properties.get("safelyReplayable", False):
            return refuse(f"{stack} may deliver twice: the Message must be safelyReplayable")
        reliable = properties.get("msgReliable")
        changed = reliable is not None and reliable is not self.properties.get("reliability")
        if changed and not self.properties.get("perMsgReliability"):
            return refuse("msgReliable cannot be changed without perMsgReliability")
        if properties.get("msgOrdered") is True and not self.properties.get("preserveOrder"):
            return refuse(f"{stack} does not keep the order of Messages")
        return None

    def _direct(self, entry: Entry) -> Coroutine[Any, Any, None]:
        """Past the empty outbox, with a record or a Final mark."""
        try:
            later = self.hand_down(entry)
        except SendError as error:
            return self._failed(error, entry)
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
        return SendOutcome(self._make_outbox(), entry)

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
            and self._blueprint.effective["direction"] != "Unidirectional receive"
        )

    def _exhausted(self) -> YieldOnce:
        """Enough for this turn: let everything leave and the loop run."""
        self._rest()
        return YieldOnce()

    def _rest(self) -> None:
        self._fast = False
        self._flush_down()
        if self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn = None
        flow = self._flow
        if flow is None or self._state is ConnectionState.CLOSED:
            return
        if not self._batch:
            self._flush_down()
        self._fresh_turn()
        if self._outbox and self._can_hand_down():
            self._drain()
        self._refresh()

    def _fresh_turn(self) -> None:
        """After a real wait: full credit, and the next Message is written through."""
        self._credit = CREDIT
        self._through = not self._batch

    def _drain(self) -> None:
        outbox = self._outbox
        if outbox is None or self._flow is None:
            return
        more = outbox.drain(DRAIN)
        if not self._batch:
            self._flush_down()
        if more and self._accepting and self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn)
        if self._state is ConnectionState.CLOSING:
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
        later = self._down(entry.data, entry.record, entry.end)
        if self._log is not None:
            self._note("sent", bytes=entry.size, end_of_message=entry.end)
        if entry.end and (
            entry.context.get("final") or (self._final and self._defaults.get("final"))
        ):
            self._flush_down()
            flow.finish()
        return bool(later)

    def sent(self, entry: Entry, error: BaseException | None) -> None:
        """Tell whoever subscribed the outcome of a Send. Internal."""
        dispatcher = self._dispatcher
        if dispatcher is None or entry.silent or entry.data is _FINISH:
            return
        if error is None:
            if dispatcher.wants(Sent):
                dispatcher.emit(Sent(entry.context))
        else:
            dispatcher.emit(error)

    def unhandled(self, error: BaseException) -> None:
        """An outcome that nobody awaited: logged once. Internal."""
        dispatcher = self._dispatcher
        if self._logged_unhandled or (dispatcher is not None and dispatcher.wants(type(error))):
            return
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
            if self._flow is not None and self._state is not ConnectionState.CLOSED:
                self._flush_down()

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
        if self._final:
            return DONE
        self._final = True
        self._fast = False
        entry = Entry(_FINISH, None, True, MessageContext(), 0)
        outbox = self._make_outbox()
        outbox.push(entry, 0, True)
        if self._can_hand_down():
            self._drain()
        return DONE if entry.done and entry.error is None else SendOutcome(outbox, entry)

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
        if self._credit <= 0:
            await _YIELD
            self._fresh_turn()
        if not inbox.queue or inbox.waiters or inbox.signal is not None:
            if not inbox.alone:
                return await self._receive_part(None, None)
            # The only receiver there is: a future, and no line to stand in.
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
                return await self._receive_part(None, None)
        data, context, end = inbox.queue.popleft()
        inbox.size -= len(data) if type(data) is bytes else OBJECT_SIZE
        if inbox.paused or inbox.waiters:
            inbox.taken()
        self._credit -= PER_OPERATION
        message: Message[T] = Message(data, context, end, self)
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

    async def _receive_part(self, minimum: int | None, maximum: int | None) -> Message[T]:
        inbox = self._inbox
        self._check_lengths(minimum, maximum)
        if self._credit <= 0:
            await _YIELD
            self._fresh_turn()
        await inbox.wait(minimum)
        if not inbox.boundaries and not self._warned:
            # Before anything is taken: where warnings are errors, nothing is lost.
            self._warn_partial(minimum, maximum)
        try:
            message = inbox.take(maximum)
        except TapsError as error:
            self._receive_ended(error)
            raise
        self._credit -= PER_OPERATION
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

    def _check_lengths(self, minimum: int | None, maximum: int | None) -> None:
        for value in (minimum, maximum):
            if value is not None and value < 1:
                raise ValueError("lengths are at least 1 byte")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError("min_incomplete_length is above max_length")

    def _warn_partial(self, minimum: int | None, maximum: int | None) -> None:
        self._warned = True
        if minimum is None and maximum is None:
            warnings.warn(
                f"{self._stack} has no Message boundaries: receive() returns the bytes that are "
                "there; use a framer, or give a length",
                PartialMessageWarning,
                stacklevel=3,
            )

    def _tell_received(self, message: Message[T]) -> None:
        if self._log is not None:
            self._note("received", bytes=_size(message.data), end_of_message=message.end_of_message)
        if self._dispatcher is not None:
            self._dispatcher.emit(
                Received(message) if message.end_of_message else ReceivedPartial(message)
            )

    def _receive_ended(self, error: TapsError) -> None:
        if self._dispatcher is not None and self._state is not ConnectionState.CLOSED:
            self._dispatcher.emit(error)

    async def receive_exactly(self, length: int) -> Message[T]:
        """Exactly ``length`` bytes of the current Message (on a byte stream: of all that comes).

        Raises:
            EndOfData: Fewer are left; they stay and can be received.
            As :meth:`receive`.
        """
        self._check_lengths(length, length)
        inbox = self._inbox
        await inbox.wait(lambda: inbox.available >= length)
        if inbox.available < length:
            raise inbox.shortage(f"fewer than {length} bytes are left")
        return self._taken(inbox.take(length))

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
            raise inbox.shortage(f"no {separator!r} before the end")
        if search.length > max_length:
            raise ReceiveError(
                f"no {separator!r} within {max_length} bytes", reason=Reason.DEFRAMING_FAILED
            )
        return self._taken(inbox.take(search.length))

    def _taken(self, message: Message[T]) -> Message[T]:
        if self._dispatcher is not None or self._log is not None:
            self._tell_received(message)
        return message

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
                if self._state is ConnectionState.ESTABLISHING:
                    task = self._task
                    self.abort()
                    if task is not None:
                        await asyncio.wait([task])
                raise
        elif ready is not None:
            ready.exception()
        if self._stack is None and self._error is not None:
            raise self._error.with_traceback(None)
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

    def _begin(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._ready = self._loop.create_future()

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
        if self._dispatcher is not None and not self.accepted:
            self._dispatcher.emit(Ready())
        if self._early is not None:
            self._send_early()
        if self._outbox:
            self._drain()
        if self._close_when_ready:
            self._start_close()

    def _send_early(self) -> None:
        """What InitiateWithSend was given, unless the handshake carried it."""
        entry, self._early = self._early, None
        assert entry is not None
        entry.silent = False
        if entry.done:
            self.sent(entry, None)
            return
        self._make_outbox().push(entry, -1, bool(entry.context.get("final")))
        self._drain()

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
        elif self._state is ConnectionState.ESTABLISHING and not self._close_when_ready:
            if self._outbox or self._early is not None:
                self._close_when_ready = True
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
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._outbox:
            return
        flow = self._flow
        if flow is not None and not self._close_when_ready:
            # Once only: the flag doubles as «the stack was told».
            self._close_when_ready = True
        elif flow is None or self._state is not ConnectionState.CLOSING:
            return
        self._flush_down()
        flow.close()

    def _give_up(self, sentence: str) -> None:
        task, self._task = self._task, None
        self._early = None
        error = EstablishmentError(sentence, reason=Reason.LOCAL_ABORT)
        ready = self._ready
        self._terminate(E.ESTABLISHMENT_ERROR, error, error)
        if ready is not None and ready.done():
            # The application asked for it: not an error that somebody missed.
            ready.exception()
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
        error = ConnectionError("aborted on this side", reason=Reason.LOCAL_ABORT)
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
        if dispatcher is not None:
            dispatcher.emit(last, last=True)
        if self._ready is not None:
            ready, self._ready = self._ready, None
            assert error is not None
            ready.set_exception(error)
            if dispatcher is not None and dispatcher.wants(type(error)):
                ready.exception()
            if self._end_waiters is not None or error.reason is Reason.LOCAL_ABORT:
                ready.exception()
        self._group.left(self)
        if self._listener is not None:
            self._listener._left(self)
            self._listener = None
        self._wake_end()
        if self._flow is None or self._gone:
            self._forget()

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
        if writable and self._outbox and self._can_hand_down():
            self._drain()
        self._refresh()

    def _outcome(self, record: SendRecord, error: SendError | None) -> None:
        if self._outbox is not None:
            self._outbox.outcome(record, error)
            if self._state is ConnectionState.CLOSING:
                self._close_if_drained()

    def _notified(self, event: Event) -> None:
        if self._log is not None:
            self._note(type(event).__name__)
        if self._dispatcher is not None and self._state is not ConnectionState.CLOSED:
            self._dispatcher.emit(event)

    def _receive_failed(self, error: ReceiveError) -> None:
        if self._log is not None:
            self._note("ReceiveError", error=str(error))
        if self._dispatcher is not None and self._state is not ConnectionState.CLOSED:
            self._dispatcher.emit(error)

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
        if issubclass(ConnectionReceived, event_type):
            self._group.take_streams()
        self._refresh()

    def events(self) -> EventStream[Any]:
        """All events from here on; ends after the terminal one."""
        stream = self._dispatch().stream()
        self._refresh()
        return stream

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(self, self._loop)
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

    def incoming(self) -> AsyncIterator[Connection[Any]]:
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
            raise error.with_traceback(None)


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


def _size(data: Any) -> int | None:
    return len(data) if isinstance(data, bytes) else None
