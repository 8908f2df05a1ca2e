"""Listener: inbound Connections (RFC 9622, section 7.2)."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from taps_core.model.arguments import check_seconds, check_whole
from taps_core.model.errors import (
    ConnectionError,
    EstablishmentError,
    Reason,
    ReceiveError,
    TapsError,
)
from taps_core.model.events import ConnectionReceived, Stopped
from taps_core.planning.states import ListenerEvent as E
from taps_core.planning.states import ListenerState, advance
from taps_core.runtime.arrivals import Arrivals
from taps_core.runtime.awaitables import afresh
from taps_core.runtime.connection import Connection
from taps_core.runtime.dispatch import Dispatcher, EventStream
from taps_core.runtime.doors import Doors
from taps_core.runtime.establishment import (
    accept,
    accept_now,
    as_establishment_error,
    in_time,
    load,
)
from taps_core.runtime.gathering import resolve_all
from taps_core.runtime.group import Group
from taps_core.runtime.tasks import until_done

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.reports import Attempt
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint

__all__ = ["Handler", "Listener"]

#: What ``listen(handler)`` takes.
Handler: TypeAlias = Callable[[Connection[Any]], Awaitable[None]]
logger = logging.getLogger("taps_core")

#: Established, not yet handed over (limit 0, max_connections, nobody accepts):
#: above this the transports stop accepting, at half of it they go on.
MAX_WAITING: Final = 128
#: Inbound handshakes that run at a time, and seconds that each may take.
MAX_HANDSHAKES: Final = 256
HANDSHAKE_TIMEOUT: Final = 30.0


class Listener:
    """Takes Connections on one or several Local Endpoints.

    Awaiting it waits until it listens and returns it; ``async with`` does the
    same and stops on exit: no new Connections, ``grace`` seconds for running
    handlers, then they are cancelled.

    Each Connection goes to the handler given to ``listen``, or to those for
    ConnectionReceived; without either it waits for :meth:`accept`.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        handler: Handler | None,
        *,
        max_connections: int | None = None,
        grace: float = 10.0,
    ) -> None:
        """Not called by applications: see ``Preconnection.listen``."""
        if max_connections is not None:
            check_whole("max_connections", max_connections, 1)
        check_seconds("grace", grace)
        if handler is not None and not callable(handler):
            raise TypeError(f"a handler is a coroutine function, not {handler!r}")
        self._blueprint = blueprint
        self._runtime = blueprint.runtime
        self._loop = blueprint.loop
        self._handler = handler
        self._grace = grace
        self._most = math.inf if max_connections is None else max_connections
        self._limit: float = math.inf
        self._state = ListenerState.OPENING
        self._dispatcher: Dispatcher | None = None
        self._doors = Doors(blueprint, self._inbound)
        self._paused = False
        #: Unstarted, so that their first bytes stay with the transport.
        self._waiting: deque[tuple[Flow, Stack]] = deque()
        self._arrivals = Arrivals()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._served = self._runtime.team()
        self._live = 0
        #: Who may come, resolved; empty: anybody.
        self._filter: tuple[RemoteEndpoint, ...] = ()
        #: By Local Endpoint: of each multicast group, the Connections with its senders.
        self._multicast: dict[LocalEndpoint, Group] = {}
        self._listening: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._opening: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        #: Paths have changed again while it follows.
        self._follows_again = False

    # ------------------------------------------------------------------ opening

    def _begin(self) -> None:
        self._runtime.listeners.add(self)
        self._opening = self._runtime.spawn(self._open())

    async def _open(self) -> None:
        try:
            await load(self._blueprint)
            for framer in self._blueprint.framers:
                _ = framer.create()  # one that cannot be made is found now, not by each peer
            resolver = self._runtime.system.resolver_for(
                isolated=self._blueprint.effective["isolateSession"]
            )
            self._filter = tuple(await resolve_all(resolver, self._blueprint.remote))
            if self._doors.heed_paths:
                await self._runtime.load_paths()
            await self._doors.open()
        except Exception as error:  # noqa: BLE001  # a plugin's bug must reach whoever waits
            self._fail(as_establishment_error(error, self.report))
            return
        if self._state is ListenerState.OPENING:
            self._state = advance(self._state, E.OPENED)
            self._listening.set_result(None)
            self._hand_over()
            if self._doors.follows_paths:
                self._runtime.watch_paths().call(self._paths_changed)

    def _paths_changed(self) -> None:
        """Called by the monitor (RFC 9623, section 4.7)."""
        self._follows_again = True
        if self._state is ListenerState.LISTENING and self._following is None:
            self._following = self._runtime.spawn(self._follow())

    async def _follow(self) -> None:
        try:
            while self._follows_again:
                self._follows_again = False
                await self._doors.follow()
        except (TapsError, OSError) as error:
            logger.warning("%r does not follow its paths: %s", self, error)
        finally:
            self._following = None

    def _fail(self, error: EstablishmentError) -> None:
        if self._state is ListenerState.STOPPED:
            return
        self._state = advance(self._state, E.ESTABLISHMENT_ERROR)
        self._runtime.listeners.discard(self)
        self._drop_inbound()
        self._listening.set_exception(error)
        dispatcher = self._dispatcher
        if dispatcher is not None:
            if dispatcher.wants(type(error)):
                self._listening.exception()  # a handler has it
            dispatcher.emit(error, last=True)
        self._gone.set_result(None)
        self._arrivals.end()

    # ------------------------------------------------------------------ inbound

    def _inbound(self, stack: Stack, flow: Flow, admitted: Any) -> None:
        if self._state is ListenerState.STOPPED or not self._welcomes(flow, stack):
            flow.abort()
            return
        framed = accept_now(flow, stack)
        if framed is not None:
            self._shaken(framed, stack)
            return
        task = self._runtime.spawn(self._shake(stack, flow, admitted))
        self._handshakes.add(task)
        task.add_done_callback(self._handshake_over)
        self._consider_pause()

    def _welcomes(self, flow: Flow, stack: Stack) -> bool:
        """Remote Endpoints given to a Listener are a filter (RFC 9622, section 7.2)."""
        if not self._filter:
            return True
        remote = flow.remote_endpoint
        protocol = stack.transport.name
        return remote is not None and any(_covers(each, remote, protocol) for each in self._filter)

    async def _shake(self, stack: Stack, flow: Flow, admitted: Any) -> None:
        deadline = self._loop.time() + HANDSHAKE_TIMEOUT
        try:
            async with asyncio.timeout_at(deadline):
                framed = await accept(flow, stack, self._blueprint, admitted, deadline)
        except (TapsError, OSError) as error:
            # A failed handshake is the peer's matter.
            why = in_time(error) if isinstance(error, TimeoutError) else error
            logger.info("inbound handshake over %s failed: %s", stack, why)
            flow.abort()
            return
        except BaseException:
            flow.abort()
            raise
        self._shaken(framed, stack)

    def _handshake_over(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": f"inbound handshake of {self!r}", "exception": task.exception()}
            )
        self._consider_resume()

    def _shaken(self, flow: Flow, stack: Stack) -> None:
        if self._state is ListenerState.STOPPED:
            flow.abort()
            return
        self._waiting.append((flow, stack))
        self._hand_over()
        self._consider_pause()

    def _hand_over(self) -> None:
        while (
            self._waiting
            and self._state is ListenerState.LISTENING
            and self._limit >= 1
            and self._live < self._most
            and self._arrivals.untold < MAX_WAITING
        ):
            flow, stack = self._waiting.popleft()
            group = self._group_for(flow)
            if group is None:
                flow.abort()
                continue
            self._limit -= 1
            self._live += 1
            connection: Connection[Any] = Connection(self._blueprint, group, accepted=True)
            connection._listener = self
            connection._established(flow, stack)
            self._deliver(connection)
        self._consider_resume()

    def _group_for(self, flow: Flow) -> Group | None:
        """The group that a Connection begins in, or ``None`` if it has no room.

        Of a multicast group each sender is a Connection, and they are one group (RFC 9622,
        section 6.1.1).
        """
        local = flow.local_endpoint
        if local is None or local.multicast_group is None:
            return Group(self._blueprint.group_properties)
        group = self._multicast.get(local)
        if group is None or not group.members:
            group = self._multicast[local] = Group(self._blueprint.group_properties)
        return group if len(group.members) < group.properties["groupConnLimit"] else None

    def _deliver(self, connection: Connection[Any]) -> None:
        dispatcher = self._dispatcher
        told = claimed = False
        if dispatcher is not None:
            told = dispatcher.wants(ConnectionReceived)
            claimed = dispatcher.handles(ConnectionReceived)
            dispatcher.emit(ConnectionReceived(connection))
        if self._handler is not None:
            _ = self._served.spawn(self._loop, self._serve(connection, self._handler))
        elif not claimed:
            # A stream of events, or a handler for a base class, may be there
            # to take Connections or only to watch: both are served.
            self._arrivals.put(connection, told=told)

    async def _serve(self, connection: Connection[Any], handler: Handler) -> None:
        """One Connection's life with its handler; its failure is nobody else's."""
        try:
            await handler(connection)
            await connection._close_in_time()
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception as error:
            # A handler may raise anything, and only its own Connection pays.
            if _is_the_peers(error):
                logger.info("%r: its handler ended by %r", connection, error)
            else:
                logger.exception("%r: its handler raised", connection)
            connection.abort()
        finally:
            await connection._released()

    def _left(self, connection: Connection[Any]) -> None:
        """A Connection of ours reached its end."""
        self._live -= 1
        self._arrivals.ended(connection)
        self._hand_over()

    def _consider_pause(self) -> None:
        full = len(self._waiting) >= MAX_WAITING or len(self._handshakes) >= MAX_HANDSHAKES
        if full and not self._paused:
            self._paused = True
            self._doors.pause()

    def _consider_resume(self) -> None:
        if (
            self._paused
            and len(self._waiting) <= MAX_WAITING // 2
            and len(self._handshakes) <= MAX_HANDSHAKES // 2
        ):
            self._paused = False
            self._doors.resume()

    # ------------------------------------------------------------ to the outside

    async def accept(self) -> Connection[Any]:
        """The next Connection. Cancelling loses none; several wait in order.

        Raises:
            EstablishmentError: The Listener never listened, or has stopped.
            RuntimeError: The handler given to ``listen`` takes the Connections.
        """
        if self._handler is not None:
            raise RuntimeError("the handler given to listen() takes the Connections")
        connection = await self._arrivals.take()
        if connection is None:
            failure = self._listening.exception()
            if failure is not None:
                raise afresh(failure)
            raise EstablishmentError("the Listener has stopped", reason=Reason.CONNECTION_CLOSED)
        self._hand_over()
        return connection

    def __aiter__(self) -> Listener:
        """Connections until the Listener stops."""
        return self

    async def __anext__(self) -> Connection[Any]:
        try:
            return await self.accept()
        except EstablishmentError as error:
            if error.reason in (Reason.CONNECTION_CLOSED, Reason.LOCAL_ABORT):
                raise StopAsyncIteration from None
            raise

    def set_new_connection_limit(self, limit: float) -> None:
        """How many more Connections are delivered (RFC 9622, section 7.2).

        A budget, not a concurrency cap: each delivered Connection lowers it by
        one. At 0 nothing is delivered until it is raised; established
        Connections wait, up to a bound, and then the transport stops accepting.

        Args:
            limit: A whole number from 0, or ``math.inf``.

        Raises:
            TypeError, ValueError: It is not.
        """
        check_whole("limit", limit, 0)
        self._limit = limit
        self._hand_over()

    @property
    def local_endpoints(self) -> tuple[LocalEndpoint, ...]:
        """Where it listens, with the ports really bound; empty when it does not."""
        return self._doors.local_endpoints

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """How to reach it from this machine; keeps the name it was given, to be verified.

        Raises:
            EstablishmentError: It does not listen.
        """
        remote = self._doors.remote_endpoint
        if remote is None:
            raise EstablishmentError("not listening", reason=Reason.INVALID_CONFIGURATION)
        return remote

    @property
    def report(self) -> list[Attempt]:
        """What was opened, and what could not be, in order."""
        return self._doors.report

    @property
    def dropped(self) -> Mapping[str, int]:
        """What its transports dropped for lack of room while it listened: cause → how many.

        Only transports without connections drop what nobody takes; of UDP's listeners
        these are datagrams that found no room in the socket (``kernel``), of unknown
        peers while the Listener was at its limit (``paused``), of Connections that were
        not read (``unread``), and Connections that were never answered and made room
        for newer ones (``displaced``). What never happened is not there.
        """
        return dict(self._doors.dropped)

    def on(self, event_type: type[Any], handler: Callable[[Any], object]) -> None:
        """Call ``handler(event)`` for each ConnectionReceived, Stopped or EstablishmentError.

        With a handler for ConnectionReceived, Connections are not kept for
        ``accept()``.

        Raises:
            TypeError: Not an event type, or a coroutine function.
        """
        self._dispatch().on(event_type, handler)

    def events(self) -> EventStream[Any]:
        """All events from here on; ends with Stopped or EstablishmentError."""
        return self._dispatch().stream()

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(self, self._loop, over=self._gone.done())
        return self._dispatcher

    # ----------------------------------------------------------------- stopping

    def stop(self) -> None:
        """Stop listening; Stopped follows. Connections handed over live on.

        Those that nobody has been told of are aborted. Whoever waits for a
        Listener that is still opening gets EstablishmentError (LOCAL_ABORT).
        """
        if self._state is ListenerState.STOPPED:
            return
        self._state = advance(self._state, E.STOPPED)
        if not self._listening.done():
            self._listening.set_exception(
                EstablishmentError("stopped before it listened", reason=Reason.LOCAL_ABORT)
            )
            self._listening.exception()  # the application asked for it
        _ = self._runtime.spawn(self._shut())

    async def _shut(self) -> None:
        # To its end also while it is cancelled, as it is where the System or the
        # loop ends: a port that nobody frees then stays taken.
        if self._runtime.monitor is not None:
            self._runtime.monitor.forget(self._paths_changed)
        under_way = [each for each in (self._opening, self._following) if each is not None]
        try:
            for each in under_way:
                each.cancel()
            await until_done(under_way)
        finally:
            self._drop_inbound()
            try:
                await self._doors.close()
            finally:
                try:
                    await until_done(self._handshakes)
                finally:
                    self._runtime.listeners.discard(self)
                    if self._dispatcher is not None:
                        self._dispatcher.emit(Stopped(), last=True)
                    self._gone.set_result(None)
                    self._arrivals.end()

    def _drop_inbound(self) -> None:
        """End whatever came in and is nobody's yet."""
        for task in self._handshakes:
            task.cancel()
        while self._waiting:
            flow, _ = self._waiting.popleft()
            flow.abort()
        self._arrivals.drop_untold()

    @property
    def _is_stopped(self) -> bool:
        """Stopped, or about to be."""
        return self._state is ListenerState.STOPPED

    async def stopped(self) -> None:
        """Wait until it has stopped: ports free, nothing handed over any more."""
        await asyncio.shield(self._gone)

    def __await__(self) -> Generator[Any, Any, Listener]:
        return self._wait_listening().__await__()

    async def _wait_listening(self) -> Self:
        try:
            await asyncio.wait([self._listening])
        except asyncio.CancelledError:
            # Also if it began to listen in this very turn: whoever asked for
            # it has not got it.
            self.stop()
            await self.stopped()
            raise
        failure = self._listening.exception()
        if failure is not None:
            raise afresh(failure)
        return self

    async def __aenter__(self) -> Self:
        return await self._wait_listening()

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        self.stop()
        try:
            await self.stopped()
            served = self._served.tasks
            if typ is None and served:
                await asyncio.wait(served, timeout=self._grace)
        finally:
            for task in self._served.tasks:
                task.cancel()
            await until_done(self._served.tasks)

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.local_endpoints or self._blueprint.local))
        return f"<Listener {self._state.value.lower()} on {where}>"


def _covers(wanted: RemoteEndpoint, remote: RemoteEndpoint, protocol: str) -> bool:
    """Whether ``remote``, which comes by ``protocol``, is one of those that ``wanted`` names."""
    return (
        wanted.protocol in (None, protocol)
        and wanted.ip_address in (None, remote.ip_address)
        and wanted.port in (None, 0, remote.port)
        # Only link-local addresses have a zone.
        and (wanted.interface is None or remote.interface in (None, wanted.interface))
        and wanted.identifiers.items() <= remote.identifiers.items()
    )


def _is_the_peers(error: BaseException) -> bool:
    """Whether it is the peer's doing, or the network's, that a handler let pass."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_the_peers, error.exceptions))
    return isinstance(error, (ConnectionError, ReceiveError))
