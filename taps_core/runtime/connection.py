"""Connection: establishment, the end, events, properties, groups (RFC 9622, sections 7 to 11).

What sends and receives is in the halves it is made of. Every Send and every
Receive has one outcome. Awaiting gives it; handlers get it as an event, all
of them before the terminal event, which is the last.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.capabilities import Support
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint, added, without
from taps_core.model.errors import (
    ConnectionError,
    EndOfData,
    EstablishmentError,
    PropertyError,
    Reason,
    ReceiveError,
    SendError,
    TapsError,
)
from taps_core.model.events import (
    Closed,
    ConnectionReceived,
    Event,
    PathChange,
    Ready,
)
from taps_core.model.properties import ConnectionState, Multipath, message_property
from taps_core.model.reports import EstablishmentReport
from taps_core.planning.states import ConnectionEvent as E
from taps_core.planning.states import advance
from taps_core.runtime.awaitables import (
    afresh,
)
from taps_core.runtime.dispatch import Dispatcher, EventStream
from taps_core.runtime.inbox import REST
from taps_core.runtime.receiving_half import ReceivingHalf
from taps_core.runtime.system_errors import stack_failed
from taps_core.runtime.tasks import Interruptible

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Coroutine,
        Generator,
        Iterable,
    )

    from taps_core.model.flow import Flow
    from taps_core.model.layers import FramerDefinition
    from taps_core.model.messages import SendRecord
    from taps_core.model.properties import Property
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.group import IncomingStreams

__all__ = ["Connection"]

logger = logging.getLogger("taps_core")

T = TypeVar("T")

# Whoever is told gets a copy.
_CLOSED_HERE: Final = ReceiveError(
    "the Connection was closed on this side", reason=Reason.CONNECTION_CLOSED
)
_CLOSED_THERE: Final = EndOfData("the peer closed the Connection")


class Connection(ReceivingHalf[T]):
    """One Connection, whatever runs below (RFC 9622).

    Made by :meth:`Preconnection.initiate`, handed over by a Listener, or made
    by :meth:`clone`. Awaiting it waits for Ready and returns the Connection
    itself; ``async with`` does the same, closes on clean exit (at most
    ``close_timeout`` seconds, then Abort) and aborts on an exception.

    Attributes:
        close_timeout: Seconds that leaving ``async with`` waits for Closed.
        report: What was tried during establishment, in order of start, live: an
            :class:`EstablishmentReport`.
    """

    __slots__ = ()

    # ------------------------------------------------------------ establishment

    def __await__(self) -> Generator[Any, Any, Connection[T]]:
        return self._wait_ready().__await__()

    async def _wait_ready(self) -> Connection[T]:
        """Ready, or the error that prevented it. Cancelling aborts establishment."""
        if self._waiting is not None:
            work = self._work
            try:
                if self._start is not None:
                    # Whoever is the first to wait may as well do it.
                    self._start.cancel()
                    self._start = None
                    assert work is not None
                    await work
                    if self._dispatcher is not None:
                        await REST  # handlers come first
                else:
                    await self._settled()
            except asyncio.CancelledError:
                # Also if it became Ready in this very turn: whoever asked for
                # it has not got it.
                self.abort()
                if work is not None:
                    await work.over()
                await self._released()
                raise
        if self._stack is None and self._error is not None:
            self._error_is_known()
            raise afresh(self._error)
        return self

    def __aenter__(self) -> Coroutine[Any, Any, Connection[T]]:
        return self._wait_ready()

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        try:
            if typ is None and self._state is not ConnectionState.CLOSED:
                await self._close_in_time()
        finally:
            if self._state is not ConnectionState.CLOSED:
                self.abort()
            await self._released()

    async def _close_in_time(self) -> None:
        undelivered: list[bool] = []
        timer = self._loop.call_later(self.close_timeout, self._close_timed_out, undelivered)
        try:
            await self.close()
        finally:
            timer.cancel()
        if True in undelivered:
            raise ConnectionError(
                "not everything was delivered, as far as is known, "
                f"{self.close_timeout:g} s after Close",
                reason=Reason.TIMEOUT,
            )

    def _close_timed_out(self, undelivered: list[bool]) -> None:
        """Abort what does not end, and say whether something was left."""
        outbox = self._outbox
        try:
            if outbox is not None and not outbox.idle:
                undelivered.append(True)
            elif self._flow is not None:
                # A stack that does not know cannot vouch for it either.
                undelivered.append(self._flow.read("_taps.undelivered") != 0)
        finally:
            self.abort()

    async def _released(self) -> None:
        """Until the stack has let go of its resources, and establishment of its own."""
        if self._work is not None:
            await self._work.over()
        while self._flow is not None and not self._gone:
            await self._next_end()

    async def _settled(self) -> None:
        """Until it is Ready; a waiter that is cancelled aborts nothing.

        Raises:
            EstablishmentError: It never will be.
        """
        if self._waiting is not None:
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            await waiter
        if self._stack is None and self._error is not None:
            raise afresh(self._error)

    def _settle(self) -> None:
        """Establishment is over, one way or the other: wake those who wait, after handlers."""
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            if not waiter.done():
                waiter.set_result(None)

    def _error_is_known(self) -> None:
        """Why it was not established: no need to tell the loop."""
        if self._unheard is not None:
            self._unheard.exception()
            self._unheard = None

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let ``work()`` establish it, from the loop's next turn on.

        Whoever awaits it before does it. In a task of its own that takes two turns of the
        loop more, and the task.
        """
        self._waiting = []
        self.report = EstablishmentReport(self._loop.time())
        self._work = Interruptible(work, self._loop)
        self._start = self._loop.call_soon(self._begin_alone)

    def _begin_alone(self) -> None:
        """Nobody waits: in a task that the runtime owns."""
        self._start = None
        assert self._work is not None
        _ = self._blueprint.runtime.spawn(_do(self._work))  # which keeps it

    def _established(self, flow: Flow, stack: Stack) -> None:
        """The race has a winner, or a Listener hands over."""
        if self._state is ConnectionState.CLOSED:
            flow.abort()
            return
        blueprint = self._blueprint
        self._work = None
        self._flow = flow
        self._stack = stack
        self._down = flow.send
        self._through_down = flow.write_through
        # Whoever waited for this goes on in a turn that has begun: what is sent in it leaves
        # together, and with what a handshake has still to say.
        self._through = self.accepted
        self._flush_down = flow.flush
        self._objects = stack.takes_objects
        inbox = self._inbox
        inbox.attach(flow, boundaries=stack.preserves_boundaries)
        self._state = advance(self._state, E.READY)
        if self._log is not None:
            self._note("ready", stack=str(stack), remote=str(self.remote_endpoint))
        if blueprint.sends_only:
            inbox.drop(
                ReceiveError(
                    "direction is Unidirectional send", reason=Reason.INVALID_CONFIGURATION
                )
            )
        if self._dispatcher is not None:
            if not self.accepted:
                self._dispatcher.emit(Ready())
            self._consider_paths()
        elif self._log is not None or blueprint.effective["multipath"] is not Multipath.DISABLED:
            self._consider_paths()
        if self._waiting:
            self._settle()
        self._waiting = None
        flow.start(inbox)
        self._group.established(self)
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
        if self._blueprint.receives_only:
            _ = self._failed(self._wrong_direction(), entry)
            return
        entry.unchecked = properties
        self._queue(entry, properties, first=True)

    def _establishment_failed(self, error: EstablishmentError) -> None:
        """No candidate is left."""
        if self._state is ConnectionState.CLOSED:
            return
        self._work = None
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
        self._inbox.drop(_CLOSED_HERE)
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
            self._flush()
            # Unless it broke just then.
            if self._state is ConnectionState.CLOSING:
                self._close_told = True
                try:
                    flow.close()
                except Exception as problem:  # noqa: BLE001  # a layer of others
                    self._break(problem)

    def _give_up(self, sentence: str) -> None:
        work, start = self._work, self._start
        self._start = self._early = None
        error = EstablishmentError(sentence, reason=Reason.LOCAL_ABORT)
        error.report = self.report
        if start is not None:
            start.cancel()
        if work is not None and not work.begun:
            self.report.over("cancelled", self._loop.time())
        self._terminate(E.ESTABLISHMENT_ERROR, error, error)
        if start is None and work is not None:
            work.interrupt()

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
            self._abort_flow(flow)

    def _break(self, problem: Exception) -> None:
        flow = self._flow
        if self._state is ConnectionState.ESTABLISHING:
            self._flow = None  # it never was
            never = stack_failed(problem, EstablishmentError)
            never.report = self.report
            self._establishment_failed(never)
        elif self._state is not ConnectionState.CLOSED:
            failure = stack_failed(problem, ConnectionError)
            self._inbox.drop(failure)
            self._terminate(E.CONNECTION_ERROR, failure, failure)
        if flow is not None:
            self._abort_flow(flow)
            self._flow_closed(None)  # it may say so never

    def _abort_flow(self, flow: Flow) -> None:
        try:
            flow.abort()
        except Exception:
            # A layer of others, of which nothing more can be expected.
            logger.exception("%r: its stack could not be aborted", self)
            self._flow_closed(None)

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
            self._inbox.finish(_CLOSED_THERE)
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
        if (
            error is not None
            and self._waiting is not None
            and not (
                any(not waiter.done() for waiter in self._waiting)
                or (dispatcher is not None and dispatcher.wants(type(error)))
                or self._end_waiters
                or error.reason is Reason.LOCAL_ABORT
            )
        ):
            # If nobody ever awaits it, the loop's exception handler is told.
            self._unheard = self._loop.create_future()
            self._unheard.set_exception(error)
        if dispatcher is not None:
            self._tell_last(last, self._inbox.line())
        self._settle()
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
        runtime = self._blueprint.runtime
        if self not in runtime.connections:
            return  # a stack that broke may say twice that it is gone
        runtime.connections.discard(self)
        self._inbox.let_go()
        if runtime.monitor is not None:
            runtime.monitor.forget(self)

    @property
    def _hears_of_paths(self) -> bool:
        """Whether the application would be told of a PathChange."""
        return self._log is not None or (
            self._dispatcher is not None and self._dispatcher.wants(PathChange)
        )

    def _consider_paths(self) -> None:
        """Have paths watched if somebody wants to know: the application, or the stack."""
        stack = self._stack
        if stack is None or self._state is ConnectionState.CLOSED:
            return
        if not self._hears_of_paths and (
            self._blueprint.effective["multipath"] is Multipath.DISABLED
            or stack.support("multipath") is Support.NEVER
            # Whoever has one path has nothing to do when others come.
            or self._flow is None
            or self._flow.read("_taps.multipathInUse") is False
        ):
            return
        local = self.local_endpoint
        if local is not None and local.ip_address is not None and stack.takes_paths:
            self._blueprint.runtime.watch_paths().tell(self)

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
        try:
            await future
        except BaseException:
            # One who waits again and again with a timeout must not be kept.
            if self._end_waiters is not None and future in self._end_waiters:
                self._end_waiters.remove(future)
            raise

    # --------------------------------------------------------- from the stack

    def _writable(self, writable: bool) -> None:
        arbiter = self._group.arbiter
        if arbiter is None or not arbiter.writable(self, writable):
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
        if issubclass(PathChange, event_type):
            self._consider_paths()
        self._refresh()

    def events(self) -> EventStream[Any]:
        """All events from here on; ends after the terminal one."""
        stream = self._dispatch().stream()
        self._consider_paths()
        self._refresh()
        return stream

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            over = self._state is ConnectionState.CLOSED
            self._dispatcher = Dispatcher(self, self._loop, over=over)
            self._nobody_waits()
        return self._dispatcher

    @property
    def event_log(self) -> list[dict[str, Any]]:
        """What happened, oldest first (``System(event_log=N)`` keeps the last N).

        Dicts that ``json`` can write: ``time`` (loop seconds), ``event``, and
        what belongs to it. Data is never in it, only lengths.
        """
        return list(self._log or ())

    # --------------------------------------------------------------- properties

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
            try:
                self._flow.apply(name, value)
            except TapsError:
                raise
            except Exception as problem:
                raise stack_failed(problem, PropertyError) from problem

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
        return frozenset(self._group.members)

    def incoming(self) -> IncomingStreams:
        """Connections that the peer adds to the group, as ``async for`` (streams)."""
        return self._group.incoming()

    def add_remote(self, *endpoints: RemoteEndpoint | str) -> None:
        """Further addresses of the peer (RFC 9622, section 7.5). Known ones: no effect.

        Before Ready they are candidates, as if the Preconnection had had them:
        what was being tried is given up, and all candidates are tried anew. On an
        established Connection the stack is told, if it can use more than one
        pair of addresses.

        Raises:
            PropertyError: This stack uses one pair of addresses; a clone that is
                establishing, which goes where the others go; closing or closed.
        """
        self._change_endpoints((), endpoints, "add")

    def remove_remote(self, *endpoints: RemoteEndpoint | str) -> None:
        """The peer is not to be reached there any more; else as :meth:`add_remote`.

        Before Ready, ones that were never given have no effect.

        Raises:
            PropertyError: As :meth:`add_remote`; before Ready, none would be left.
        """
        self._change_endpoints((), endpoints, "remove")

    def add_local(self, *endpoints: LocalEndpoint | str) -> None:
        """Use further local addresses; else as :meth:`add_remote`.

        Before Ready, where none was given, only these are used from then on.
        """
        self._change_endpoints(endpoints, (), "add")

    def remove_local(self, *endpoints: LocalEndpoint | str) -> None:
        """Use local addresses no more; else as :meth:`remove_remote`."""
        self._change_endpoints(endpoints, (), "remove")

    def _change_endpoints(self, local: Any, remote: Any, verb: str) -> None:
        local = tuple(LocalEndpoint.coerce(endpoint) for endpoint in local)
        remote = tuple(RemoteEndpoint.coerce(endpoint) for endpoint in remote)
        if self._state is ConnectionState.ESTABLISHING:
            self._change_candidates(local, remote, verb)
            return
        flow = self._flow
        if flow is None or self._state is not ConnectionState.ESTABLISHED:
            raise PropertyError(
                "endpoints can be changed while a Connection is establishing or established, "
                f"and this one is {self._state.value.lower()}"
            )
        if verb == "add":
            local = tuple(e for e in local if e != self.local_endpoint)
            remote = tuple(e for e in remote if e != self.remote_endpoint)
            if not local and not remote:
                return
        if not flow.change_endpoints(verb, local, remote):
            raise PropertyError(f"{self._stack} uses one pair of addresses, fixed at establishment")

    def _change_candidates(
        self, local: tuple[LocalEndpoint, ...], remote: tuple[RemoteEndpoint, ...], verb: str
    ) -> None:
        blueprint = self._blueprint
        if blueprint.role == "clone":
            raise PropertyError("a clone goes where the Connection goes that it was cloned from")
        if remote and any(each.multicast_group for each in (*blueprint.remote, *remote)):
            raise PropertyError(
                "a Connection goes to multicast groups or to single peers from the beginning"
            )
        change = added if verb == "add" else without
        here, there = change(blueprint.local, local), change(blueprint.remote, remote)
        if (here, there) == (blueprint.local, blueprint.remote):
            return
        for what, before, after in (
            ("Local", blueprint.local, here),
            ("Remote", blueprint.remote, there),
        ):
            if before and not after:
                raise PropertyError(f"no {what} Endpoint would be left: abort() gives up")
        self._blueprint = blueprint.but(local=here, remote=there)
        if self._gathers and self._work is not None:
            self._gathers = False
            self._work.interrupt(for_good=False)

    def __repr__(self) -> str:
        where = self.remote_endpoint
        over = f" over {self._stack}" if self._stack is not None else ""
        return f"<Connection {self._state.value} to {where}{over}>"


async def _do(work: Interruptible) -> None:
    await work


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


def _as_connection_error(error: Exception) -> ConnectionError:
    """The end of a Connection is one of these, whatever a plugin calls it."""
    if isinstance(error, ConnectionError) and not isinstance(error, SendError):
        return error
    reason = error.reason if isinstance(error, TapsError) else Reason.PROTOCOL_FAILED
    failure = ConnectionError(str(error) or type(error).__name__, reason=reason)
    failure.__cause__ = error
    return failure
