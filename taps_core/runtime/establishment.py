"""From a blueprint to an established flow: select, resolve, race, connect through the layers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.capabilities import DataUnit
from taps_core.model.errors import EstablishmentError, EstablishmentTimeout, Reason, TapsError
from taps_core.model.flow import Flow
from taps_core.model.layers import AcceptRequest, ConnectRequest, EarlyData, SecurityLayer
from taps_core.planning.candidates import Leaf, companions
from taps_core.runtime.framing import FramerConnector, accept_framed, wrap
from taps_core.runtime.gathering import gather
from taps_core.runtime.race import common, only, race, unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.flow import Session
    from taps_core.model.layers import Connector
    from taps_core.model.reports import Attempt, EstablishmentReport
    from taps_core.planning.race import RacePlanner
    from taps_core.planning.stacks import Stack
    from taps_core.planning.staggering import Staggering
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.race import Late

__all__ = [
    "TIMEOUT",
    "Won",
    "accept",
    "accept_now",
    "as_establishment_error",
    "connect_again",
    "connector",
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
    report = connection.report
    deadline = None if timeout is None else report.began + timeout
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            won = await _win_in_the_end(connection, report, deadline)
    except BaseException as error:
        failure = _failure(error, report, scope.expired(), timeout)
        over(report, failure, connection._loop.time())
        connection._establishment_failed(failure)
        if not isinstance(error, Exception):
            raise
        return
    finally:
        connection._regather = None
    report.over("ready", connection._loop.time())
    try:
        won.establish(connection)
    except Exception as problem:  # noqa: BLE001  # a layer of others broke as it was started
        connection._break(problem)


def over(report: EstablishmentReport, failure: EstablishmentError, now: float) -> None:
    """Establishment has failed; what is told of it has its report."""
    failure.report = report
    gave_up = failure.reason is Reason.LOCAL_ABORT
    report.over("cancelled" if gave_up else "failed", now, None if gave_up else failure)


async def _win_in_the_end(
    connection: Connection[Any], report: EstablishmentReport, deadline: float | None
) -> Won:
    """Win with the endpoints that there are then: they may change meanwhile (RFC 9622, 7.5)."""
    task = asyncio.current_task()
    assert task is not None
    while True:
        blueprint = connection._blueprint
        connection._regather = task.cancel
        try:
            return await _win(connection, report, deadline)
        except asyncio.CancelledError:
            # Another's cancellation, perhaps in the same turn, is no reason to go on.
            if connection._blueprint is blueprint or task.uncancel():
                raise


def _failure(
    error: BaseException, report: EstablishmentReport, expired: bool, timeout: float | None
) -> EstablishmentError:
    attempts = report.attempts
    if expired and isinstance(error, TimeoutError):
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
    await load(blueprint)
    if connection._hears_of_paths:
        await blueprint.runtime.load_paths()  # so that it misses nothing from Ready on
    group = connection._group
    group.learn(blueprint)
    isolated = group.properties["isolateSession"]
    system = blueprint.runtime.system
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
    loop = connection._loop
    asked: dict[Leaf, Mapping[str, Any]] = {}
    offered: dict[Leaf, EarlyData] = {}
    planner: RacePlanner | None = None

    async def attempt(leaf: Leaf) -> Flow:
        # As they are now: they may change while others are tried.
        asked[leaf] = connection._group.requested(connection)
        early = _early_data(connection, leaf.stack)
        if early is not None:
            offered[leaf] = early
        others = companions(leaf, leaves if planner is None else planner.leaves)
        request = _request(connection._blueprint, leaf, others, asked[leaf], deadline, early)
        lower: Connector = leaf.stack.transport
        if leaf.stack.security is not None:

            def connected() -> None:
                if planner is None:
                    record = attempts[-1]
                    record.connected = loop.time() - report.began
                else:
                    planner.attempt_connected(leaf, loop.time())
                    record = planner.attempt_of(leaf)
                report.tell(record)

            lower = _Noted(lower, connected)
        flow = await connector(leaf.stack, lower).connect(request)
        if not isinstance(flow, Flow):
            raise TypeError(f"{leaf.stack} is connected, and gave {flow!r} in place of a Flow")
        return flow

    if len(leaves) == 1 and late is None:
        leaf = leaves[0]
        flow = await only(leaf, attempt, attempts, report.began, report.tell)
    else:
        # Whoever has one address to go to needs no planner.
        from taps_core.planning.race import RacePlanner

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
    if leaf in offered and offered[leaf].taken and connection._early is not None:
        connection._early.done = True
    return Won(flow, leaf.stack, asked[leaf], leaf)


class _Noted:
    """A transport that says when it is connected: what is above it goes on then."""

    __slots__ = ("_connected", "_transport")

    def __init__(self, transport: Connector, connected: Callable[[], None]) -> None:
        self._transport = transport
        self._connected = connected

    async def connect(self, request: ConnectRequest) -> Flow:
        flow = await self._transport.connect(request)
        self._connected()
        return flow


def _early_data(connection: Connection[Any], stack: Stack) -> EarlyData | None:
    """What InitiateWithSend was given, if it may travel with this stack's handshake."""
    entry = connection._early
    if (
        entry is None
        or not stack.capabilities.early_data
        or connection._receives_only
        or connection._blueprint.effective["zeroRttMsg"].value < 0
    ):
        return None
    properties = {**connection._defaults, **entry.context.properties}
    return EarlyData(entry.data) if properties.get("safelyReplayable") else None


def _request(
    blueprint: Blueprint,
    leaf: Leaf,
    others: tuple[Sequence[RemoteEndpoint], Sequence[LocalEndpoint]],
    properties: Mapping[str, Any],
    deadline: float | None,
    early: EarlyData | None,
) -> ConnectRequest:
    return ConnectRequest(
        remote=leaf.remote,
        local=leaf.local,
        other_remotes=others[0],
        other_locals=others[1],
        properties=properties,
        security=blueprint.offered_security,
        server_name=leaf.remote.hostname,
        role=blueprint.role,
        deadline=deadline,
        early=early,
    )


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

    __slots__ = ("_layer", "_lower")

    def __init__(self, layer: SecurityLayer, lower: Connector) -> None:
        self._layer = layer
        self._lower = lower

    async def connect(self, request: ConnectRequest) -> Flow:
        return await self._layer.connect(self._lower, request)


def connector(stack: Stack, lower: Connector) -> Connector:
    """The stack over ``lower``, its transport, as one connector: each layer connects through
    the one below.
    """  # noqa: D205  # one sentence
    datagrams = _datagrams(stack)
    for layer in stack.layers:
        if isinstance(layer, SecurityLayer):
            lower = _Secured(layer, lower)
        else:
            lower = FramerConnector(layer, lower, datagrams=datagrams)
    return lower


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
