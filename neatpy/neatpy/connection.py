"""Connection: a pair of endpoints and the protocols between them, driven by handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import taps_core as taps
from neatpy._flat import one_module
from neatpy._handlers import call
from neatpy._loop import Work, begin
from neatpy._receiving import Reception
from neatpy._sending import Sender
from neatpy._translation import (
    connection_settings,
    connection_values,
    selection_values,
    send_error_reason,
)
from neatpy._values import ConnectionState, MessageDataObject, ReceiveError, SendErrorReason
from neatpy.connection_properties import ConnectionProperties, TCPUserTimeout
from neatpy.endpoint import LocalEndpoint, RemoteEndpoint, from_local, from_remote
from neatpy.message_context import MessageContext
from neatpy.message_framer import DeframingFailed, MessageFramer
from neatpy.message_properties import MessageProperties
from neatpy.selection_properties import (
    CommunicationDirections,
    PreferenceLevel,
    SelectionProperties,
)
from neatpy.utils import shim_print

one_module(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable

    from neatpy.framer import Framer
    from neatpy.listener import Listener
    from neatpy.preconnection import Preconnection
    from neatpy.transport_properties import TransportProperties

__all__ = [
    "CommunicationDirections",
    "Connection",
    "ConnectionProperties",
    "ConnectionState",
    "LocalEndpoint",
    "MessageContext",
    "MessageDataObject",
    "MessageProperties",
    "PreferenceLevel",
    "ReceiveError",
    "RemoteEndpoint",
    "SelectionProperties",
    "SendErrorReason",
    "TCPUserTimeout",
    "shim_print",
]

logger = logging.getLogger("neatpy")

#: What marks the Message that establishment begins with.
EARLY: Final = ("neatpy", "neatpy.early")
_STATES: Final = {
    taps.ConnectionState.ESTABLISHING: ConnectionState.ESTABLISHING,
    taps.ConnectionState.ESTABLISHED: ConnectionState.ESTABLISHED,
    taps.ConnectionState.CLOSING: ConnectionState.CLOSING,
    taps.ConnectionState.CLOSED: ConnectionState.CLOSED,
}


class _Send(NamedTuple):
    """A Send that has to wait; ``early`` if establishment failing is all that is told of it."""

    data: bytes
    handler: Callable[..., object] | None
    context: MessageContext | None
    end: bool
    early: bool


class Connection:
    """Sends and receives Messages; made by a Preconnection, a Listener or ``clone``.

    Handlers are called from the event loop, one at a time. What they raise is logged.

    Attributes:
        HANDLE_STATE_READY: Called with the Connection once it is established.
        HANDLE_STATE_CLOSED: Called with it when it has ended in order, on this side or the peer's.
        HANDLE_STATE_CONNECTION_ERROR: Called with it when it has ended otherwise, or could not be
            established. Why, the log says.
        HANDLE_SOFT_ERROR: Called with it and an ``OSError`` or a sentence: an ICMP error that
            ends nothing. Wants ``SelectionProperties.SOFT_ERROR_NOTIFY``.
        HANDLE_EXCESSIVE_RETRANSMISSION: Called with it and how many retransmissions in a row did
            not help. Wants ``SelectionProperties.RETRANSMIT_NOTIFY``.
        message_framer: What framers act through; ``None`` if there is none.
        listener: The Listener that it came from, if it did.
        parent: The Connection that it was cloned from, if it was.
    """

    HANDLE_STATE_READY: Callable[..., object] | None
    HANDLE_STATE_CLOSED: Callable[..., object] | None
    HANDLE_STATE_CONNECTION_ERROR: Callable[..., object] | None
    HANDLE_SOFT_ERROR: Callable[..., object] | None
    HANDLE_EXCESSIVE_RETRANSMISSION: Callable[..., object] | None

    def __init__(
        self,
        preconnection: Preconnection,
        framers: tuple[Framer, ...],
        transport_properties: TransportProperties,
        system: taps.System,
        *,
        listener: Listener | None = None,
        parent: Connection | None = None,
    ) -> None:
        """Not called by applications."""
        self.HANDLE_STATE_READY = None
        self.HANDLE_STATE_CLOSED = None
        self.HANDLE_STATE_CONNECTION_ERROR = None
        self.HANDLE_SOFT_ERROR = None
        self.HANDLE_EXCESSIVE_RETRANSMISSION = None
        self.preconnection = preconnection
        self.transport_properties = transport_properties
        self.listener = listener
        self.parent = parent
        self._framers = framers
        self._message_framer = MessageFramer(self, framers) if framers else None
        self._system = system
        self._inner: taps.Connection[Any] | None = None
        self._sender: Sender | None = None
        self._reception = Reception(self)
        self._wanted: asyncio.Event | None = None
        self._watched = False
        # What is to be done once it is begun; Messages that cannot be sent yet; clones.
        self._at_begin: deque[Callable[[], None]] = deque()
        self._unsent: deque[_Send] = deque()
        self._clones: list[Connection] = []
        self._clone_error_handler: Callable[..., object] | None = None
        self._early_handler: Callable[..., object] | None = None
        self._ready = False
        self._closing = False
        self._ended = False
        # Why it ends, where that is this side's doing.
        self._failure: taps.ConnectionError | None = None

    # ------------------------------------------------------------------------- establishment

    def _begin(self, make: Callable[[], taps.Connection[Any]]) -> None:
        """Establish it, on the running loop."""
        work = Work.here()
        work.enter(self, self._system)
        try:
            self._adopt(make())
        except taps.TapsError as error:
            _ = work.spawn(self._never(error))
            return
        if self._message_framer is None:
            self._send_unsent()
        for clone in self._clones:
            self._begin_clone(clone)
        while self._at_begin:
            self._at_begin.popleft()()
        _ = work.spawn(self._live())

    def _adopt(self, inner: taps.Connection[Any]) -> None:
        self._inner = inner
        self._sender = Sender(self, inner, self.transport_properties)
        if self._early_handler is not None:
            _ = Work.here().spawn(self._tell_early(inner.events(), self._early_handler))
        if self._tells_of_soft_errors:
            inner.on(taps.SoftError, self._soft_error)

    async def _tell_early(self, events: Any, handler: Callable[..., object]) -> None:
        """What became of the Message that establishment began with.

        Args:
            events: The core's, from the beginning on; nobody collects them afterwards.
            handler: Whom to tell.
        """
        with contextlib.closing(events):
            async for event in events:
                if not isinstance(event, (taps.Sent, taps.SendError)):
                    continue
                if event.context is None or not event.context.get(*EARLY):
                    continue
                reason = None
                if isinstance(event, taps.SendError):
                    reason = send_error_reason(event, after_final=False)
                call(handler, self, reason)
                return

    def _begin_accepted(self, inner: taps.Connection[Any]) -> None:
        """A Listener has it, ready."""
        work = Work.here()
        work.enter(self, self._system)
        self._adopt(inner)
        self._become_ready()
        _ = work.spawn(self._live())

    async def _never(self, error: taps.TapsError) -> None:
        for clone in self._clones:
            clone._begin(partial(_raise, error))
        self._fail_to_establish(error)

    async def _live(self) -> None:
        """From the beginning to the end: what is awaited here is what handlers are told."""
        inner = self._inner
        assert inner is not None
        if not self._ready:
            try:
                _ = await inner
            except taps.EstablishmentError as error:
                await self._settled()
                self._fail_to_establish(error)
                return
            self._become_ready()
            call(self.HANDLE_STATE_READY, self)
        failure: taps.TapsError | None = None
        try:
            await self._receive_all(inner)
            self.close()
            await self._sent_all()
            await inner.close()
        except taps.ConnectionError as error:
            failure = error
        await self._settled()
        self._end(self._failure or failure)

    def _become_ready(self) -> None:
        inner = self._inner
        assert inner is not None
        self._ready = True
        framed = self._message_framer
        self._reception.boundaries = framed is not None or _has_boundaries(inner)
        if framed is not None:
            try:
                framed._start()
            except Exception:
                # An application's framer may raise anything, and its Connection pays.
                logger.exception("%r: its framer could not start", self)
                self._break_with(taps.ConnectionError("its framer could not start"))
        self._send_unsent()
        if self.listener is not None and inner.properties["multistreaming"]:
            _ = Work.here().spawn(self.listener._take_streams(inner))

    def _fail_to_establish(self, error: taps.TapsError) -> None:
        if self._ended:
            return
        self._ended = True
        given_up = error.reason is taps.Reason.LOCAL_ABORT
        log = logger.info if given_up else logger.error
        log("%r could not be established: %s", self, error)
        while self._unsent:
            unsent = self._unsent.popleft()
            if not unsent.early:
                self._refuse(unsent.handler, SendErrorReason.FAILURE_UNDERLYING_STACK)
        self._reception.end(ReceiveError(str(error)))
        if self._clone_error_handler is not None and self.parent is not None:
            call(self._clone_error_handler, self.parent)
        elif not given_up and self.parent is None:
            call(self.preconnection.unfulfilled_handler)
        if given_up and self._closing:
            call(self.HANDLE_STATE_CLOSED, self)
        else:
            call(self.HANDLE_STATE_CONNECTION_ERROR, self)
        Work.here().leave(self)

    # ------------------------------------------------------------------------------- the end

    async def _sent_all(self) -> None:
        """Until all that the application sent was given to the core."""
        if self._sender is not None:
            await self._sender.drained()

    async def _settled(self) -> None:
        """Until the sent handlers were told: what ends the Connection comes last."""
        if self._sender is not None:
            await self._sender.settled()

    def _end(self, failure: taps.TapsError | None) -> None:
        self._ended = True
        if failure is None:
            self._reception.end(ReceiveError("the Connection was closed"))
            call(self.HANDLE_STATE_CLOSED, self)
        else:
            own = failure.reason is taps.Reason.LOCAL_ABORT
            log = logger.info if own else logger.error
            log("%r has ended: %s", self, failure)
            self._reception.end(ReceiveError(str(failure)))
            call(self.HANDLE_STATE_CONNECTION_ERROR, self)
        Work.here().leave(self)

    def close(self) -> None:
        """End in order: what was sent is delivered first, nothing is received any more.

        HANDLE_STATE_CLOSED follows, or HANDLE_STATE_CONNECTION_ERROR if not all of it could be
        delivered. On a Connection that is closing or closed it has no effect.
        """
        if self._closing or self._ended:
            return
        if self._inner is None:
            self._at_begin.append(self._close_begun)
        else:
            self._close_begun()
        self._closing = True

    def _close_begun(self) -> None:
        if self._ready or not self._unsent:
            self._close_ready()
        # Else it goes on when all that waits for Ready was framed.

    def _close_ready(self) -> None:
        if self._message_framer is not None and self._ready:
            try:
                self._message_framer._stop()
            except Exception:
                # It is too late for this to cost anybody anything.
                logger.exception("%r: its framer could not stop", self)
        self._close_inner()

    def _close_inner(self) -> None:
        assert self._inner is not None
        assert self._sender is not None
        self._sender.close()
        self._wake()

    def abort(self) -> None:
        """End at once; what was not sent yet is lost.

        HANDLE_STATE_CONNECTION_ERROR follows.
        """
        if self._ended:
            return
        if self._inner is None:
            self._at_begin.appendleft(self.abort)
            return
        self._break_with(
            taps.ConnectionError("aborted on this side", reason=taps.Reason.LOCAL_ABORT)
        )

    def _break_with(self, failure: taps.ConnectionError) -> None:
        assert self._inner is not None
        self._failure = self._failure or failure
        self._inner.abort()
        self._wake()

    def stop(self) -> None:
        """End all Connections and Listeners in order; then ``start()`` returns.

        What was sent is delivered first, for which there are 10 seconds; a peer that does not
        close when it is asked to is given one.
        """
        begin(lambda: Work.here().stop())

    def stop_listener(self) -> None:
        """Stop the Listener that this Connection came from; Connections live on."""
        if self.listener is not None:
            self.listener.stop()

    def _wind_up(self) -> None:
        self.close()

    def _break_off(self) -> None:
        self.abort()

    @property
    def _undelivered(self) -> bool:
        inner, sender = self._inner, self._sender
        if inner is None or sender is None:
            return bool(self._at_begin)
        return sender.waits or inner.properties["_taps.undelivered"] != 0

    # ------------------------------------------------------------------------------- sending

    def send(
        self,
        message_data: bytes | bytearray | memoryview,
        sent_handler: Callable[..., object] | None = None,
        message_context: MessageContext | None = None,
        end_of_message: bool = True,
    ) -> None:
        """Send a Message, or a part of one. What is sent before Ready waits, in order.

        Args:
            message_data: The data; it may be changed again afterwards.
            sent_handler: Called with the Connection and ``None`` when the protocols have taken
                the Message, or a :class:`SendErrorReason`. Without one, errors are logged.
            message_context: Properties of the Message; all parts of it share one context.
            end_of_message: False for a part that others follow.

        Raises:
            TypeError: Something else than bytes, or than a MessageContext.
        """
        if type(message_data) is not bytes:
            message_data = _own(message_data)
        if message_context is not None and not isinstance(message_context, MessageContext):
            raise TypeError(f"a MessageContext is sent along, not {message_context!r}")
        if self._message_framer is None and self._sender is not None:
            self._sender.send(message_data, sent_handler, message_context, end_of_message)
            return
        self._send_otherwise(message_data, sent_handler, message_context, end_of_message)

    def _send_otherwise(
        self,
        data: bytes,
        handler: Callable[..., object] | None,
        context: MessageContext | None,
        end: bool,
        early: bool = False,
    ) -> None:
        """Through framers, or later."""
        if self._closing or self._ended:
            self._refuse(handler, SendErrorReason.CONNECTION_CLOSING)
        elif self._ready:
            self._frame(data, handler, context, end)
        else:
            self._unsent.append(_Send(data, handler, context, end, early))

    def _send_unsent(self) -> None:
        while self._unsent:
            data, handler, context, end, _ = self._unsent.popleft()
            if self._message_framer is None:
                self._pass_down(data, handler, context, end)
            else:
                self._frame(data, handler, context, end)
        if self._closing and self._ready:
            self._close_ready()

    def _frame(
        self,
        data: bytes,
        handler: Callable[..., object] | None,
        context: MessageContext | None,
        end: bool,
    ) -> None:
        assert self._message_framer is not None
        told, reason = self._message_framer._new_sent_message(data, handler, context, end)
        if told is not None:
            asyncio.get_running_loop().call_soon(call, told, self, reason)

    def _pass_down(
        self,
        data: bytes | bytearray | memoryview,
        handler: Any,
        context: MessageContext | None,
        end: bool,
    ) -> None:
        """To the protocols, past all framers."""
        assert self._sender is not None
        self._sender.send(bytes(data), handler, context, end)

    def _refuse(self, handler: Callable[..., object] | None, reason: SendErrorReason) -> None:
        """A Send that comes to nothing here."""
        if handler is None:
            logger.warning("%r: a Message was not sent: %s", self, reason.value)
        else:
            begin(lambda: _soon(handler, self, reason))

    def batch(self, batch_block: Callable[[], object]) -> None:
        """Let Messages leave together.

        Args:
            batch_block: Called without arguments; what it sends is gathered.
        """
        if self._inner is None:
            batch_block()
            return
        with self._inner.batch():
            batch_block()

    # ----------------------------------------------------------------------------- receiving

    def receive(
        self,
        handler: Callable[..., object],
        min_incomplete_length: int | None = None,
        max_length: float = math.inf,
    ) -> None:
        """Ask for one Message, or a part of it. Several requests are served in order.

        The handler is called once, with the Connection, a :class:`MessageDataObject`, a
        :class:`MessageContext`, whether it is the end of the Message (``None``: the whole Message;
        False: a part, others follow; True: the last part), and an error: ``None``, or a
        :class:`ReceiveError` and no data. Without Message boundaries and framer all that comes is
        one Message of unknown length, and what is there is a part of it.

        Args:
            handler: What to call.
            min_incomplete_length: Bytes that a part must have at least, unless the Message ends;
                ``None``: only a complete Message will do.
            max_length: Bytes to be given at most; larger Messages come in parts.

        Raises:
            ValueError: A length below 1.
            TypeError: It is no whole number, and not ``math.inf`` for the larger one.
        """
        for length in (min_incomplete_length, max_length):
            if length is None or (length is max_length and length == math.inf):
                continue
            if not isinstance(length, int):
                raise TypeError(f"lengths are numbers of bytes, not {length!r}")
            if length < 1:
                raise ValueError("lengths are at least 1 byte")
        if self._closing or self._ended:
            logger.info("%r: nothing can be received any more", self)
            return
        self._reception.request(handler, min_incomplete_length, max_length)
        self._wake()

    def _wake(self) -> None:
        if self._wanted is not None:
            self._wanted.set()

    async def _receive_all(self, inner: taps.Connection[Any]) -> None:
        """Take what comes, and one Message more than was asked for: so the end is noticed."""
        reception = self._reception
        boundaries = _has_boundaries(inner)
        take = inner.receive
        while not self._closing:
            try:
                # What makes a Message of its parts, or does not, is what was asked for here.
                message = await take(min_incomplete_length=1)
            except taps.EndOfData:
                self._peer_ended()
                return
            except taps.ReceiveError as error:
                if inner.state is not taps.ConnectionState.ESTABLISHED:
                    return
                if not inner.properties["canReceive"]:
                    await self._watch(inner)
                    return
                self._lose(error)
                continue
            self._take_in(message, boundaries)
            if reception.saturated and not self._closing:
                await self._until_wanted(inner)

    def _take_in(self, message: taps.Message[Any], boundaries: bool) -> None:
        framed = self._message_framer
        context = MessageContext._of(message)
        end = boundaries and message.end_of_message
        if framed is None:
            if message.data or boundaries:
                self._reception.take_in(message.data, context, end)
            return
        try:
            for piece in framed._received(message.data, context, end):
                self._reception.take_in(*piece)
        except DeframingFailed as error:
            self._deframing_failed(error, boundaries)

    def _deframing_failed(self, error: DeframingFailed, boundaries: bool) -> None:
        if boundaries:
            # It costs this Message.
            logger.error("%r: a Message cannot be parsed: %s", self, error)
            self._reception.lose(ReceiveError(str(error)))
            return
        logger.error("%r: what arrives cannot be parsed: %s", self, error, exc_info=error.__cause__)
        self._reception.end(ReceiveError(str(error)))
        self._break_with(taps.ConnectionError(str(error), reason=taps.Reason.DEFRAMING_FAILED))

    def _lose(self, error: taps.ReceiveError) -> None:
        logger.error("%r: a Message is lost: %s", self, error)
        self._reception.lose(ReceiveError(str(error)))

    def _peer_ended(self) -> None:
        """Everything has come. What is cut off is told, then this side closes, too."""
        framed = self._message_framer
        if framed is None:
            self._reception.finish()
        elif framed._incomplete:
            logger.error("%r: the peer ended inside a Message", self)
        self._reception.end(ReceiveError("the peer has sent everything"))

    async def _until_wanted(self, inner: taps.Connection[Any]) -> None:
        """Until somebody asks for what is there, or it is over without."""
        if self._wanted is None:
            self._wanted = asyncio.Event()
            self._subscribe(inner)
        while self._reception.saturated and not self._closing:
            self._wanted.clear()
            await self._wanted.wait()
            if inner.state is taps.ConnectionState.CLOSED:
                return
            self._reception.serve()

    async def _watch(self, inner: taps.Connection[Any]) -> None:
        """Until a Connection ends that receives nothing."""
        self._reception.end(ReceiveError("this Connection has no receive direction"))
        self._wanted = asyncio.Event()
        self._subscribe(inner)
        while not self._closing and inner.state is taps.ConnectionState.ESTABLISHED:
            self._wanted.clear()
            await self._wanted.wait()
            self._reception.end(ReceiveError("this Connection has no receive direction"))

    def _subscribe(self, inner: taps.Connection[Any]) -> None:
        """Be woken by the end. Not before that is needed: events take a longer way."""
        for event in (taps.Closed, taps.ConnectionError):
            inner.on(event, lambda _: self._wake())

    # ---------------------------------------------------------------------------- properties

    @property
    def state(self) -> ConnectionState:
        """Where it is in its life."""
        if self._ended:
            return ConnectionState.CLOSED
        if self._closing:
            return ConnectionState.CLOSING
        return ConnectionState.ESTABLISHING if self._inner is None else _STATES[self._inner.state]

    @property
    def message_framer(self) -> MessageFramer:
        """What framers act through.

        Raises:
            AttributeError: There is no framer.
        """
        if self._message_framer is None:
            raise AttributeError(f"{self!r} has no framer")
        return self._message_framer

    @property
    def local_endpoint(self) -> LocalEndpoint | None:
        """The address used on this side; ``None`` before Ready."""
        return None if self._inner is None else from_local(self._inner.local_endpoint)

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """The peer."""
        if self._inner is None:
            return self.preconnection.remote_endpoint
        return from_remote(self._inner.remote_endpoint)

    @property
    def stack(self) -> str | None:
        """The protocols in use, such as ``"TLS/TCP"``; ``None`` before Ready."""
        stack = None if self._inner is None else self._inner.stack
        return None if stack is None else str(stack)

    def get_properties(self) -> dict[str, Any]:
        """What there is to know of it.

        Returns:
            ``"state"``: its :class:`ConnectionState`; ``"send"`` and ``"receive"``: whether it can
            be used for that; ``"props"``: :class:`TransportProperties`. These are the
            application's until the Connection is established; then the Selection Properties say,
            as Booleans, what the chosen protocols have, and the Connection Properties what holds.
        """
        inner = self._inner
        properties = self.transport_properties._snapshot()
        if inner is None:
            return {"state": self.state, "send": True, "receive": True, "props": properties}
        if self._ready:
            properties.selection_properties = selection_values(inner.properties)
            properties.connection_properties = connection_values(inner.properties)
        over = self._closing or self._ended
        return {
            "state": self.state,
            "send": bool(inner.properties["canSend"]) and not over,
            "receive": bool(inner.properties["canReceive"]) and not over,
            "props": properties,
        }

    def set_property(self, connection_property: ConnectionProperties, value: Any) -> None:
        """Set a Connection Property, for all of its group but for PRIORITY.

        Args:
            connection_property: The property.
            value: Its value.

        Raises:
            taps_core.PropertyError: It is none, is read-only, or cannot have this value; or the
                protocols refuse. Nothing is changed.
        """
        if not isinstance(connection_property, ConnectionProperties):
            raise taps.PropertyError(f"ConnectionProperties expected, not {connection_property!r}")
        settings = connection_settings(connection_property, value)
        inner = self._inner
        if inner is None:
            # Others may have the same.
            self.transport_properties = self.transport_properties._snapshot()
            self.transport_properties.add(connection_property, value)
            self._at_begin.append(lambda: self.set_property(connection_property, value))
            return
        for name, each in settings.items():
            inner.set_property(name, each)

    # -------------------------------------------------------------------------------- groups

    def clone(self, clone_error_handler: Callable[..., object] | None = None) -> Connection:
        """A further Connection of the same group: a new stream where the protocols have streams.

        Args:
            clone_error_handler: Called with **this** Connection if it cannot be.

        Returns:
            The new Connection, which is establishing; its HANDLE_STATE_READY is still to be set.
        """
        clone = Connection(
            self.preconnection,
            self._framers,
            self.transport_properties,
            self._system,
            parent=self,
        )
        clone._clone_error_handler = clone_error_handler
        if self._inner is None and not self._ended:
            self._clones.append(clone)
        else:
            self._begin_clone(clone)
        return clone

    def _begin_clone(self, clone: Connection) -> None:
        if self._inner is None:
            clone._begin(partial(_raise, taps.CloneError("there is nothing to be cloned")))
        else:
            clone._begin(self._inner.clone)

    # ----------------------------------------------------------------------------- soft errors

    @property
    def _tells_of_soft_errors(self) -> bool:
        wanted = self.transport_properties.selection_properties
        return any(
            wanted.get(prop) in (PreferenceLevel.PREFER, PreferenceLevel.REQUIRE)
            for prop in (
                SelectionProperties.SOFT_ERROR_NOTIFY,
                SelectionProperties.RETRANSMIT_NOTIFY,
            )
        )

    def _soft_error(self, event: taps.SoftError) -> None:
        retransmissions = event.info.get("retransmissions")
        if retransmissions is not None:
            call(self.HANDLE_EXCESSIVE_RETRANSMISSION, self, retransmissions)
        else:
            call(self.HANDLE_SOFT_ERROR, self, event.error)

    def __repr__(self) -> str:
        over = f" over {self.stack}" if self.stack is not None else ""
        where = self.remote_endpoint
        return f"<neatpy.Connection {self.state.name.lower()} to {where}{over}>"


def _soon(handler: Callable[..., object], *arguments: Any) -> None:
    asyncio.get_running_loop().call_soon(call, handler, *arguments)


def _own(data: Any) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"bytes are sent, not {type(data).__name__}: str.encode() makes them")


def _has_boundaries(inner: taps.Connection[Any]) -> bool:
    """Whether the protocols carry Messages, not a stream of bytes."""
    return inner.stack is not None and inner.stack.preserves_boundaries


def _raise(error: taps.TapsError) -> NoReturn:
    raise error
