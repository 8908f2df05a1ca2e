"""Listener: inbound Connections (RFC 9622, section 7.2)."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import Attempt, EstablishmentError, Reason, TapsError
from taps_core.model.events import ConnectionReceived, Stopped
from taps_core.model.layers import ListenRequest
from taps_core.planning.states import ListenerEvent as E
from taps_core.planning.states import ListenerState, advance
from taps_core.runtime.connection import Connection
from taps_core.runtime.dispatch import Dispatcher, EventStream
from taps_core.runtime.establishment import accept, accept_now, load, ranking
from taps_core.runtime.group import Group

if TYPE_CHECKING:
    from collections.abc import Generator

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.layers import ListeningFlow
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
#: How often another port is tried where one number must serve several addresses.
PORT_TRIES: Final = 8


class Listener:
    """Takes Connections on one or several Local Endpoints.

    Awaiting it waits until it listens and returns it; ``async with`` does the
    same and stops on exit: no new Connections, ``grace`` seconds for running
    handlers, then they are cancelled.

    Attributes:
        report: What was opened, and what could not be, in order.
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
        if max_connections is not None and max_connections < 1:
            raise ValueError("max_connections is at least 1")
        self._blueprint = blueprint
        self._runtime = blueprint.runtime
        self._loop = blueprint.loop
        self._handler = handler
        self._grace = grace
        self._most = math.inf if max_connections is None else max_connections
        self._limit: float = math.inf
        self._state = ListenerState.OPENING
        self._dispatcher: Dispatcher | None = None
        self._doors: list[ListeningFlow] = []
        self._paused = False
        self._waiting: deque[tuple[Flow, Stack]] = deque()
        self._accepted: deque[Connection[Any]] = deque()
        self._accepters: deque[asyncio.Future[None]] = deque()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._served: set[asyncio.Task[None]] = set()
        self._live = 0
        self._filter: frozenset[tuple[str | None, int | None]] = frozenset()
        self._listening: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._opening: asyncio.Task[None] | None = None
        self.report: list[Attempt] = []

    # ------------------------------------------------------------------ opening

    def _begin(self) -> None:
        self._runtime.listeners.add(self)
        self._opening = self._runtime.spawn(self._open())

    async def _open(self) -> None:
        try:
            await self._open_stacks()
        except asyncio.CancelledError:
            self._fail(EstablishmentError("stopped before it listened", reason=Reason.LOCAL_ABORT))
            self._listening.exception()
            raise
        except (TapsError, OSError) as error:
            self._fail(_as_establishment_error(error, self.report))
            return
        finally:
            self._opening = None
        self._state = advance(self._state, E.OPENED)
        self._listening.set_result(None)

    async def _open_stacks(self) -> None:
        blueprint = self._blueprint
        await load(blueprint)
        ranked = ranking(blueprint)
        resolver = self._runtime.system.resolver
        if blueprint.remote:
            found = [each for one in blueprint.remote for each in await resolver.resolve(one)]
            self._filter = frozenset((each.ip_address, each.port) for each in found)
        opened: set[str] = set()
        try:
            for place in ranked:
                stack = place.stack
                if stack.transport.name in opened:
                    # One door per transport: its best stack answers.
                    continue
                try:
                    self._doors += await self._open_stack(stack)
                    opened.add(stack.transport.name)
                except (TapsError, OSError) as error:
                    # The best one must open; the others if possible (they are in the report).
                    if not opened:
                        raise
                    logger.info("%s is not listened on: %s", stack, error)
        except BaseException:
            await self._shut_doors()
            raise

    async def _open_stack(self, stack: Stack) -> list[ListeningFlow]:
        """All Local Endpoints on one port number; at least one per endpoint given."""
        wanted: list[tuple[LocalEndpoint, int]] = []
        for index, endpoint in enumerate(self._blueprint.local):
            if endpoint.protocol is not None and endpoint.protocol != stack.transport.name:
                continue
            found = await self._runtime.system.resolver.resolve(endpoint)
            wanted += [(each, index) for each in found]
        if not wanted:
            raise EstablishmentError(
                f"no Local Endpoint is for {stack.transport.label}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        for attempt in range(PORT_TRIES):
            try:
                return await self._open_endpoints(stack, wanted)
            except OSError as error:
                chosen = any(not endpoint.port for endpoint, _ in wanted)
                last = attempt == PORT_TRIES - 1
                if not chosen or last or _errno(error) != errno.EADDRINUSE:
                    raise
        raise AssertionError("unreachable")  # pragma: no cover - the last try returns or raises

    async def _open_endpoints(
        self, stack: Stack, wanted: list[tuple[LocalEndpoint, int]]
    ) -> list[ListeningFlow]:
        doors: list[ListeningFlow] = []
        open_for: set[int] = set()
        errors: dict[int, Exception] = {}
        port = next((door.local_endpoint.port for door in self._doors), None)
        try:
            for endpoint, index in wanted:
                if not endpoint.port and port and not endpoint.identifiers:
                    endpoint = endpoint.with_port(port)  # one number for all
                try:
                    door = await self._open_door(stack, endpoint)
                except OSError as error:
                    if _errno(error) == errno.EADDRINUSE:
                        raise
                    errors[index] = error
                    continue
                doors.append(door)
                open_for.add(index)
                port = port or door.local_endpoint.port
            for index, failure in errors.items():
                if index not in open_for:
                    raise failure
        except BaseException:
            for door in doors:
                await door.close()
            raise
        return doors

    async def _open_door(self, stack: Stack, endpoint: LocalEndpoint) -> ListeningFlow:
        blueprint = self._blueprint
        properties = blueprint.effective
        layer = stack.security

        def incoming(flow: Flow, admitted: Any) -> None:
            self._incoming(stack, flow, admitted)

        attempt = Attempt(f"{stack} on {endpoint}", 0.0)
        self.report.append(attempt)
        try:
            door = await stack.transport.listen(
                ListenRequest(
                    local=endpoint,
                    properties=properties,
                    security=blueprint.security,
                    incoming=incoming,
                    door=None if layer is None else layer.door(properties, blueprint.security),
                )
            )
        except (TapsError, OSError) as error:
            attempt.outcome, attempt.error = "failed", error
            raise
        attempt.outcome = "ready"
        return door

    def _fail(self, error: EstablishmentError) -> None:
        self._state = advance(self._state, E.ESTABLISHMENT_ERROR)
        self._runtime.listeners.discard(self)
        if self._dispatcher is not None:
            handled = self._dispatcher.wants(type(error))
            self._dispatcher.emit(error, last=True)
        else:
            handled = False
        self._listening.set_exception(error)
        if handled:
            self._listening.exception()
        self._gone.set_result(None)
        self._wake_accepters()

    # ------------------------------------------------------------------ inbound

    def _incoming(self, stack: Stack, flow: Flow, admitted: Any) -> None:
        if self._state is ListenerState.STOPPED or not self._welcome(flow):
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

    def _welcome(self, flow: Flow) -> bool:
        """Remote Endpoints given to a Listener are a filter (RFC 9622, section 7.2)."""
        if not self._filter:
            return True
        remote = flow.remote_endpoint
        return remote is not None and any(
            address in (None, remote.ip_address) and port in (None, 0, remote.port)
            for address, port in self._filter
        )

    async def _shake(self, stack: Stack, flow: Flow, admitted: Any) -> None:
        deadline = self._loop.time() + HANDSHAKE_TIMEOUT
        try:
            async with asyncio.timeout_at(deadline):
                framed = await accept(flow, stack, self._blueprint, admitted, deadline)
        except (TapsError, OSError) as error:
            # TimeoutError is an OSError. A failed handshake is the peer's matter.
            logger.info("inbound handshake over %s failed: %s", stack, error)
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
            and self._limit >= 1
            and self._live < self._most
            and len(self._accepted) < MAX_WAITING
        ):
            flow, stack = self._waiting.popleft()
            self._limit -= 1
            self._live += 1
            connection: Connection[Any] = Connection(
                self._blueprint, Group(self._blueprint.group_properties), accepted=True
            )
            connection._listener = self
            connection._established(flow, stack)
            self._deliver(connection)
        self._consider_resume()

    def _deliver(self, connection: Connection[Any]) -> None:
        dispatcher = self._dispatcher
        told = dispatcher is not None and dispatcher.handles(ConnectionReceived)
        if dispatcher is not None:
            dispatcher.emit(ConnectionReceived(connection))
        if self._handler is not None:
            task = self._runtime.spawn(self._serve(connection, self._handler))
            self._served.add(task)
            task.add_done_callback(self._served.discard)
        elif not told:
            self._accepted.append(connection)
            self._wake_accepters()

    async def _serve(self, connection: Connection[Any], handler: Handler) -> None:
        """One Connection's life with its handler; its failure is nobody else's."""
        try:
            await handler(connection)
            await connection._close_in_time()
        except asyncio.CancelledError:
            connection.abort()
            raise
        except TapsError as error:
            # The peer's doing, or the network's; the handler let it pass.
            logger.info("%r: its handler ended by %s: %s", connection, type(error).__name__, error)
            connection.abort()
        except Exception:
            # A handler may raise anything, and only its own Connection pays.
            logger.exception("%r: its handler raised", connection)
            connection.abort()
        finally:
            await connection._released()

    def _left(self, connection: Connection[Any]) -> None:
        """A Connection of ours reached its end."""
        self._live -= 1
        if self._state is ListenerState.LISTENING:
            self._hand_over()

    def _consider_pause(self) -> None:
        full = len(self._waiting) >= MAX_WAITING or len(self._handshakes) >= MAX_HANDSHAKES
        if full and not self._paused:
            self._paused = True
            for door in self._doors:
                door.pause()

    def _consider_resume(self) -> None:
        if (
            self._paused
            and len(self._waiting) <= MAX_WAITING // 2
            and len(self._handshakes) <= MAX_HANDSHAKES // 2
        ):
            self._paused = False
            for door in self._doors:
                door.resume()

    # ------------------------------------------------------------ to the outside

    async def accept(self) -> Connection[Any]:
        """The next Connection. Cancelling loses none.

        Raises:
            EstablishmentError: The Listener never listened, or has stopped.
        """
        while not self._accepted:
            if self._state is ListenerState.STOPPED:
                if self._listening.done() and not self._listening.cancelled():
                    failure = self._listening.exception()
                    if failure is not None:
                        raise failure
                raise EstablishmentError(
                    "the Listener has stopped", reason=Reason.CONNECTION_CLOSED
                )
            future = self._loop.create_future()
            self._accepters.append(future)
            try:
                await future
            except BaseException:
                if future in self._accepters:
                    self._accepters.remove(future)
                self._wake_accepters()
                raise
        connection = self._accepted.popleft()
        self._hand_over()
        self._wake_accepters()
        return connection

    def _wake_accepters(self) -> None:
        while self._accepters and (self._accepted or self._state is ListenerState.STOPPED):
            future = self._accepters.popleft()
            if not future.done():
                future.set_result(None)
                if self._state is not ListenerState.STOPPED:
                    return

    def __aiter__(self) -> Listener:
        """Connections until the Listener stops."""
        return self

    async def __anext__(self) -> Connection[Any]:
        try:
            return await self.accept()
        except EstablishmentError:
            if self._listening.exception() is not None:
                raise
            raise StopAsyncIteration from None

    def set_new_connection_limit(self, limit: float) -> None:
        """How many more Connections are delivered (RFC 9622, section 7.2).

        A budget, not a concurrency cap: each delivered Connection lowers it by
        one. At 0 nothing is delivered until it is raised; established
        Connections wait, up to a bound, and then the transport stops accepting.

        Args:
            limit: A whole number from 0, or ``math.inf``.

        Raises:
            ValueError: It is not.
        """
        if limit != math.inf and (limit < 0 or limit != int(limit)):
            raise ValueError(f"the limit is a whole number from 0 or math.inf, not {limit!r}")
        self._limit = limit
        if self._state is ListenerState.LISTENING:
            self._hand_over()

    @property
    def local_endpoints(self) -> tuple[LocalEndpoint, ...]:
        """Where it listens, with the ports really bound."""
        return tuple(door.local_endpoint for door in self._doors)

    @property
    def remote_endpoint(self) -> RemoteEndpoint:
        """How to reach it from this machine; keeps the name it was given, to be verified.

        Raises:
            EstablishmentError: It does not listen.
        """
        if not self._doors:
            raise EstablishmentError("not listening", reason=Reason.INVALID_CONFIGURATION)
        bound = self._doors[0].local_endpoint
        if bound.identifiers:
            return RemoteEndpoint(identifiers=bound.identifiers)
        asked = self._blueprint.local[0]
        if asked.hostname is not None:
            return RemoteEndpoint(hostname=asked.hostname, port=bound.port)
        address = bound.ip_address
        if address in (None, "::", "0.0.0.0"):  # compared, not bound
            address = "127.0.0.1"
        return RemoteEndpoint(ip_address=address, port=bound.port, interface=bound.interface)

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
            self._dispatcher = Dispatcher(self, self._loop)
        return self._dispatcher

    # ----------------------------------------------------------------- stopping

    def stop(self) -> None:
        """Stop listening; Stopped follows. Connections handed over live on."""
        if self._state is ListenerState.STOPPED:
            return
        if self._opening is not None:
            self._opening.cancel()
            return
        self._state = advance(self._state, E.STOPPED)
        _ = self._runtime.spawn(self._shut())

    async def _shut(self) -> None:
        for task in list(self._handshakes):
            task.cancel()
        while self._waiting:
            flow, _ = self._waiting.popleft()
            flow.abort()
        while self._accepted:
            self._accepted.popleft().abort()
        await self._shut_doors()
        if self._handshakes:
            await asyncio.wait(self._handshakes)
        self._runtime.listeners.discard(self)
        if self._dispatcher is not None:
            self._dispatcher.emit(Stopped(), last=True)
        self._gone.set_result(None)
        self._wake_accepters()

    async def _shut_doors(self) -> None:
        doors, self._doors = self._doors, []
        for door in doors:
            await door.close()

    async def stopped(self) -> None:
        """Wait until it has stopped: ports free, nothing handed over any more."""
        await asyncio.shield(self._gone)

    def __await__(self) -> Generator[Any, Any, Listener]:
        return self._wait_listening().__await__()

    async def _wait_listening(self) -> Self:
        try:
            await asyncio.shield(self._listening)
        except asyncio.CancelledError:
            if self._opening is not None:
                self.stop()
                await self.stopped()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self._wait_listening()

    async def __aexit__(self, typ: type[BaseException] | None, *_: object) -> None:
        self.stop()
        try:
            await self.stopped()
            if typ is None and self._served:
                await asyncio.wait(self._served, timeout=self._grace)
        finally:
            for task in list(self._served):
                task.cancel()
            if self._served:
                await asyncio.wait(self._served)

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.local_endpoints or self._blueprint.local))
        return f"<Listener {self._state.value.lower()} on {where}>"


def _errno(error: OSError) -> int | None:
    """The system's number, also where a plugin put its own sentence around it."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error.errno


def _as_establishment_error(
    error: TapsError | OSError, attempts: list[Attempt]
) -> EstablishmentError:
    if isinstance(error, EstablishmentError):
        error.attempts = error.attempts or tuple(attempts)
        return error
    reason = error.reason if isinstance(error, TapsError) else Reason.ESTABLISHMENT_FAILED
    failure = EstablishmentError(str(error), reason=reason, attempts=attempts)
    failure.__cause__ = error
    return failure
