"""From a blueprint to an established flow: select, resolve, race, connect through the layers."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import DataUnit
from taps_core.model.errors import EstablishmentError, EstablishmentTimeout, Reason, TapsError
from taps_core.model.layers import AcceptRequest, ConnectRequest, EarlyData, SecurityLayer
from taps_core.planning.candidates import Leaf, companions
from taps_core.runtime.framing import FramerConnector, accept_framed, wrap
from taps_core.runtime.gathering import at_hand, gather
from taps_core.runtime.race import common, only, race, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.flow import Flow, Session
    from taps_core.model.layers import Connector
    from taps_core.model.reports import Attempt, EstablishmentReport
    from taps_core.planning.stacks import Stack
    from taps_core.planning.staggering import Staggering
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.outbox import Entry
    from taps_core.runtime.race import Late
    from taps_core.runtime.tasks import Interruptible

__all__ = [
    "TIMEOUT",
    "Won",
    "accept",
    "accept_now",
    "as_establishment_error",
    "connect_again",
    "establish",
    "frame",
    "in_time",
    "load",
    "open_stream",
    "over",
    "plugin_failed",
]

#: Seconds that establishment may take unless the application says otherwise.
TIMEOUT: Final = 30.0


async def establish(connection: Connection[Any], timeout: float | None) -> None:
    """Bring ``connection`` to Ready or EstablishmentError; never raises but CancelledError."""
    report, loop, work = connection.report, connection._loop, connection._work
    assert work is not None
    deadline = None if timeout is None else report.began + timeout
    expiry = None if deadline is None else _Expiry(work, loop, deadline)
    won = None
    try:
        while won is None:
            blueprint = connection._blueprint
            connection._gathers = True
            try:
                won = await _win(connection, report, deadline)
            except asyncio.CancelledError:
                # Its endpoints may change meanwhile (RFC 9622, section 7.5). Another reason to
                # end, perhaps in the same turn, is no reason to go on.
                if connection._blueprint is blueprint or not work.resumed():
                    raise
    except BaseException as error:
        expired = expiry is not None and expiry.caused(error)
        failure = _failure(error, report, timeout if expired else None)
        over(report, failure, loop.time())
        connection._establishment_failed(failure)
        if not isinstance(error, Exception):
            raise
        return
    finally:
        connection._gathers = False
        if expiry is not None:
            expiry.timer.cancel()
    report.over("ready", loop.time())
    try:
        won.establish(connection)
    except Exception as problem:  # noqa: BLE001  # a layer of others broke as it was started
        connection._break(problem)


class _Expiry:
    """Interrupts an establishment when its time is over."""

    __slots__ = ("_expired", "_work", "timer")

    def __init__(
        self, work: Interruptible, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> None:
        self._work = work
        self._expired = False
        self.timer = loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._work.interrupt()

    def caused(self, error: BaseException) -> bool:
        """Whether ``error`` comes of this, and the task was not cancelled as well."""
        return (
            self._expired and isinstance(error, asyncio.CancelledError) and not self._work.cancelled
        )


def over(report: EstablishmentReport, failure: EstablishmentError, now: float) -> None:
    """Establishment has failed; what is told of it has its report."""
    failure.report = report
    gave_up = failure.reason is Reason.LOCAL_ABORT
    report.over("cancelled" if gave_up else "failed", now, None if gave_up else failure)


def _failure(
    error: BaseException, report: EstablishmentReport, timeout: float | None
) -> EstablishmentError:
    """What the application is told; ``timeout``: so much time is over, and nothing else."""
    attempts = report.attempts
    if timeout is not None:
        # Of those that had failed before, time was not the cause.
        pending = [each.error for each in attempts if each.outcome == "cancelled"]
        return EstablishmentTimeout(
            f"nothing was ready within {timeout:g} s" + _tried(report),
            detail=common([getattr(each, "detail", None) for each in pending]),
            attempts=attempts,
            transient=True,
        )
    if isinstance(error, Exception):
        return as_establishment_error(error, attempts)
    return EstablishmentError("cancelled", reason=Reason.LOCAL_ABORT, attempts=attempts)


class Won:
    """An established, unstarted flow, and what it was asked for with."""

    __slots__ = ("flow", "leaf", "properties", "stack")

    def __init__(
        self, flow: Flow, stack: Stack, properties: Mapping[str, Any], leaf: Leaf | None
    ) -> None:
        self.flow = flow
        self.stack = stack
        self.properties = properties
        self.leaf = leaf

    def establish(self, connection: Connection[Any]) -> None:
        """Make ``connection`` Ready, with all that it was told meanwhile."""
        connection._leaf = self.leaf
        connection._established(self.flow, self.stack)
        connection._group.catch_up(connection, self.properties)


async def _win(
    connection: Connection[Any], report: EstablishmentReport, deadline: float | None
) -> Won:
    blueprint = connection._blueprint
    system = blueprint.runtime.system
    group = connection._group
    leaf = at_hand(blueprint)
    if leaf is None:
        await load(blueprint)
    told = connection._dispatcher is not None or connection._log is not None
    if told and connection._hears_of_paths:
        await blueprint.runtime.load_paths()  # so that it misses nothing from Ready on
    if group.properties is not blueprint.group_properties:
        group.learn(blueprint)
    if leaf is not None:
        return await _try(connection, leaf, report, report.gather(), deadline)
    isolated = group.properties["isolateSession"]
    staggering = system.staggering_for(blueprint.properties, blueprint.remote)
    if isolated:
        staggering = staggering.isolated()
    attempts = report.gather()
    leaves, late = await gather(blueprint, staggering.families, report, isolated=isolated)
    return await _race(connection, leaves, staggering, report, attempts, deadline, late)


async def _race(
    connection: Connection[Any],
    leaves: Sequence[Leaf],
    staggering: Staggering,
    report: EstablishmentReport,
    attempts: list[Attempt],
    deadline: float | None,
    late: Late | None = None,
) -> Won:
    """Try the leaves, and those that become known ``late``; then nothing of either is left."""
    if len(leaves) == 1 and late is None:
        # Whoever has one address to go to needs no planner.
        return await _try(connection, leaves[0], report, attempts, deadline)

    from taps_core.planning.race import RacePlanner

    loop = connection._loop
    started: dict[Leaf, _Attempt] = {}

    async def attempt(leaf: Leaf) -> Flow:
        def connected() -> None:
            planner.attempt_connected(leaf, loop.time())
            report.tell(planner.attempt_of(leaf))

        this = started[leaf] = _Attempt(connection, leaf)
        return await this.connect(companions(leaf, planner.leaves), deadline, connected)

    planner = RacePlanner(
        leaves,
        delay=staggering,
        racing=connection._blueprint.effective["_taps.racing"],
        expect_more=late is not None,
        began=report.began,
        attempts=attempts,
    )
    try:
        leaf, flow = await race(planner, attempt, late=late, changed=report.tell)
    finally:
        report.waiting = planner.waiting
        if not connection._group.properties["isolateSession"]:
            system = connection._blueprint.runtime.system
            system.cached.learn(planner, system.paths)
    return started[leaf].won(flow)


async def _try(
    connection: Connection[Any],
    leaf: Leaf,
    report: EstablishmentReport,
    attempts: list[Attempt],
    deadline: float | None,
) -> Won:
    """The one leaf there is."""
    this = _Attempt(connection, leaf)
    loop, work = connection._loop, connection._work
    connected = partial(_connected, report, attempts, loop)
    attempt = partial(this.connect, _ALONE, deadline, connected)
    return this.won(await only(leaf, attempt, attempts, report.began, loop, report.tell, work))


def _connected(
    report: EstablishmentReport, attempts: list[Attempt], loop: asyncio.AbstractEventLoop
) -> None:
    attempts[-1].connected = loop.time() - report.began
    report.tell(attempts[-1])


#: Where there is nothing else that could be used.
_ALONE: Final = ((), ())


class _Attempt:
    """One attempt of a Connection, and what it was asked for with."""

    __slots__ = ("_asked", "_connection", "_early", "_leaf")

    def __init__(self, connection: Connection[Any], leaf: Leaf) -> None:
        self._connection = connection
        self._leaf = leaf
        # As they are now: they may change while others are tried.
        self._asked = connection._group.requested(connection)
        early = connection._early
        self._early = None if early is None else _early_data(connection, early, leaf.stack)

    def connect(
        self,
        others: tuple[Sequence[RemoteEndpoint], Sequence[LocalEndpoint]],
        deadline: float | None,
        connected: Callable[[], None],
    ) -> Coroutine[Any, Any, Flow]:
        """Through all layers; ``connected`` is called when those above the transport go on."""
        blueprint, leaf = self._connection._blueprint, self._leaf
        stack, remote = leaf.stack, leaf.remote
        request = _Request(
            remote=remote,
            local=leaf.local,
            other_remotes=others[0],
            other_locals=others[1],
            properties=self._asked,
            security=blueprint.offered_security,
            server_name=remote.hostname,
            role=blueprint.role,
            deadline=deadline,
            early=self._early,
            connected=connected,
        )
        return (stack.connector or _connector(stack)).connect(request)

    def won(self, flow: Flow) -> Won:
        """It is the one that is used."""
        early = self._connection._early
        if self._early is not None and self._early.taken and early is not None:
            early.done = True
        return Won(flow, self._leaf.stack, self._asked, self._leaf)


@dataclasses.dataclass(kw_only=True, slots=True, eq=False, repr=False)
class _Request(ConnectRequest):
    """One that knows whom to tell how far it is."""

    connected: Callable[[], None]


class _Noted:
    """A transport that says when it is connected: what is above it goes on then."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Connector) -> None:
        self._transport = transport

    async def connect(self, request: ConnectRequest) -> Flow:
        flow = await self._transport.connect(request)
        if isinstance(request, _Request):  # unless a layer has made one of its own
            request.connected()
        return flow


def _early_data(connection: Connection[Any], entry: Entry, stack: Stack) -> EarlyData | None:
    """What InitiateWithSend was given, if it may travel with this stack's handshake."""
    if (
        not stack.capabilities.early_data
        or connection._blueprint.receives_only
        or connection._blueprint.effective["zeroRttMsg"].unwanted
    ):
        return None
    properties = {**connection._defaults, **entry.context.properties}
    return EarlyData(entry.data) if properties.get("safelyReplayable") else None


async def load(blueprint: Blueprint) -> None:
    """Import the plugins and read system policy off the loop if that has not been done.

    Then the plugins' properties are known.

    Raises:
        PolicyError: A policy file is none.
    """
    system = blueprint.runtime.system
    if not system.has_read:
        await blueprint.loop.run_in_executor(None, system.read)
    if not blueprint.learned:
        blueprint.learn(system.registry.properties.values())


class _Secured:
    """A security layer as a connector."""

    __slots__ = ("connect",)

    def __init__(self, layer: SecurityLayer, lower: Connector) -> None:
        self.connect = partial(layer.connect, lower)


def _connector(stack: Stack) -> Connector:
    """The stack as one connector, for all attempts: each layer connects through the one below."""
    security, datagrams = stack.security, _datagrams(stack)
    made: Connector = stack.transport if security is None else _Noted(stack.transport)
    for layer in stack.layers:
        if layer is security:
            made = _Secured(layer, made)
        else:
            made = FramerConnector(layer, made, datagrams=datagrams)  # type: ignore[arg-type]  # all others are framers
    stack.connector = made
    return made


def _datagrams(stack: Stack) -> bool:
    """Whether a frame that cannot be parsed costs its datagram, not the Connection."""
    return stack.bare.data_unit is DataUnit.DATAGRAM


def accept_now(flow: Flow, stack: Stack) -> Flow | None:
    """The inbound flow with its framers, or ``None`` if a layer has to talk first."""
    if stack.security is not None:
        return None
    datagrams = _datagrams(stack)
    made = [layer.create() for layer in stack.framers]
    return wrap(flow, made, datagrams=datagrams)


async def accept(
    flow: Flow, stack: Stack, blueprint: Blueprint, admitted: Any, deadline: float
) -> Flow:
    """The inbound flow with all layers; an error leaves aborting it to the caller."""
    datagrams = _datagrams(stack)
    request = AcceptRequest(
        properties=blueprint.effective,
        security=blueprint.offered_security,
        admitted=admitted,
        deadline=deadline,
    )
    for layer in stack.layers:
        if isinstance(layer, SecurityLayer):
            flow = await layer.accept(flow, request)
        else:
            flow = await accept_framed(layer, flow, datagrams=datagrams, request=request)
    return flow


async def frame(flow: Flow, stack: Stack) -> Flow:
    """A further stream with the framers that stand above the session."""
    for layer in stack.framers:
        if not layer.below_security:
            flow = await accept_framed(layer, flow, datagrams=False)
    return flow


async def open_stream(session: Session, clone: Connection[Any], stack: Stack) -> Won:
    """A further stream of the parent's session (Clone)."""
    properties = clone._group.requested(clone)
    async with asyncio.timeout(TIMEOUT):
        flow = await frame(await session.open_stream(properties), stack)
    return Won(flow, stack, properties, None)


async def connect_again(parent: Connection[Any], clone: Connection[Any], stack: Stack) -> Won:
    """A new transport connection to where ``parent`` leads (Clone without streams)."""
    leaf = parent._leaf
    assert leaf is not None
    local = leaf.local
    if local is not None and local.port:
        # The port is taken by the parent.
        local = local.with_port(None)
    again = Leaf(stack, leaf.remote, local, path=leaf.path, group=leaf.group)
    report = clone.report
    staggering = clone._blueprint.runtime.system.staggering
    deadline = clone._loop.time() + TIMEOUT
    async with asyncio.timeout_at(deadline):
        return await _race(clone, [again], staggering, report, report.gather(), deadline)


def _tried(report: EstablishmentReport) -> str:
    return "".join(f"\n  {attempt}" for attempt in report)


def in_time(error: TimeoutError) -> str:
    """Why a handshake did not end in time, for a sentence."""
    cancelled = error.__cause__ or error.__context__
    why = None if cancelled is None else unfinished(cancelled)
    return str(error if why is None else why) or "it did not end in time"


def plugin_failed(error: Exception) -> EstablishmentError:
    """The error for a plugin that raised what it must not."""
    return EstablishmentError(f"a plugin failed: {type(error).__name__}: {error}")


def as_establishment_error(error: Exception, attempts: Sequence[Attempt]) -> EstablishmentError:
    """What ended an establishment, as the application is told."""
    if isinstance(error, EstablishmentError):
        error.attempts = error.attempts or tuple(attempts)
        return error
    if isinstance(error, (TapsError, OSError)):
        reason = error.reason if isinstance(error, TapsError) else Reason.ESTABLISHMENT_FAILED
        failure = EstablishmentError(str(error), reason=reason, attempts=attempts)
        if isinstance(error, OSError):
            failure.errno, failure.strerror = error.errno, error.strerror
    else:
        failure = plugin_failed(error)
        failure.attempts = tuple(attempts)
    failure.__cause__ = error
    return failure
