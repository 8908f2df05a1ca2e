"""From a blueprint to an established flow: select, resolve, race, connect through the layers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.capabilities import DataUnit
from taps_core.model.endpoints import Endpoint
from taps_core.model.errors import EstablishmentError, EstablishmentTimeout, Reason, TapsError
from taps_core.model.layers import AcceptRequest, ConnectRequest, EarlyData, SecurityLayer
from taps_core.model.properties import Preference
from taps_core.planning.candidates import Leaf, build_leaves, chooses_paths, companions
from taps_core.runtime.framing import FramerConnector, accept_framed, wrap
from taps_core.runtime.race import common, only, race, unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.errors import Attempt
    from taps_core.model.flow import Flow, Session
    from taps_core.model.layers import Connector
    from taps_core.planning.paths import Path
    from taps_core.planning.selection import Ranked
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.connection import Connection
    from taps_core.runtime.resolver import Resolving

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
    "plugin_failed",
    "ranking",
    "resolve_all",
]

E = TypeVar("E", bound=Endpoint)

#: Seconds that establishment may take unless the application says otherwise.
TIMEOUT: Final = 30.0


async def establish(connection: Connection[Any], timeout: float | None) -> None:
    """Bring ``connection`` to Ready or EstablishmentError; never raises but CancelledError."""
    attempts: list[Attempt] = []
    deadline = None if timeout is None else connection._loop.time() + timeout
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            won = await _win_in_the_end(connection, attempts, deadline)
    except BaseException as error:
        connection.report = tuple(attempts)
        connection._establishment_failed(_failure(error, attempts, scope.expired(), timeout))
        if not isinstance(error, Exception):
            raise
        return
    finally:
        connection._regather = None
    connection.report = tuple(attempts)
    won.establish(connection)


async def _win_in_the_end(
    connection: Connection[Any], attempts: list[Attempt], deadline: float | None
) -> Won:
    """Win with the endpoints that there are then: they may change meanwhile (RFC 9622, 7.5)."""
    task = asyncio.current_task()
    assert task is not None
    began = connection._loop.time()
    while True:
        blueprint = connection._blueprint
        connection._regather = task.cancel
        try:
            return await _win(connection, attempts, began, deadline)
        except asyncio.CancelledError:
            # Another's cancellation, perhaps in the same turn, is no reason to go on.
            if connection._blueprint is blueprint or task.uncancel():
                raise


def _failure(
    error: BaseException, attempts: Sequence[Attempt], expired: bool, timeout: float | None
) -> EstablishmentError:
    if expired and isinstance(error, TimeoutError):
        # Of those that had failed before, time was not the cause.
        pending = [each.error for each in attempts if each.outcome == "cancelled"]
        return EstablishmentTimeout(
            f"nothing was ready within {timeout:g} s" + _tried(attempts),
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
    connection: Connection[Any], attempts: list[Attempt], began: float, deadline: float | None
) -> Won:
    blueprint = connection._blueprint
    await load(blueprint)
    connection._group.learn(blueprint)
    ranked = ranking(blueprint)
    isolated = connection._group.properties["isolateSession"]
    leaves = await _gather(blueprint, ranked, isolated=isolated)
    return await _race(connection, leaves, attempts, began, deadline)


async def _gather(
    blueprint: Blueprint, ranked: Sequence[Ranked], *, isolated: bool
) -> Sequence[Leaf]:
    """The candidates, from names and paths as they are now.

    Raises:
        EstablishmentError: There is none.
    """
    system, properties = blueprint.runtime.system, blueprint.effective
    chosen = system.paths.chosen(properties) if chooses_paths(properties) else ()
    resolver = system.resolver_for(isolated=isolated)
    locals_ = await resolve_all(resolver, blueprint.local)
    if chosen:
        from taps_core.runtime.paths import gather_on

        remotes = await _resolve_on(chosen, blueprint, isolated=isolated)
        leaves = gather_on(system.paths, ranked, remotes, locals_, properties)
        found = [each for of_path in remotes.values() for each in of_path]
        by = f" by {', '.join(path.shown for path in chosen)}"
    else:
        found = await resolve_all(resolver, blueprint.remote)
        leaves = build_leaves(ranked, found, locals_, properties=properties)
        by = ""
    if not leaves:
        raise EstablishmentError(
            "no address fits: "
            + (", ".join(map(str, dict.fromkeys(found))) or "none was found")
            + (f" from {', '.join(map(str, locals_))}" if locals_ else "")
            + by,
            reason=Reason.NO_CANDIDATES,
        )
    if properties["useTemporaryLocalAddress"] in (Preference.REQUIRE, Preference.PROHIBIT):
        leaves = system.paths.from_right_source(leaves, properties)
    return leaves


async def _resolve_on(
    chosen: Sequence[Path], blueprint: Blueprint, *, isolated: bool
) -> dict[Path, list[RemoteEndpoint]]:
    """What the names mean on each path: a Provisioning Domain may have resolvers of its own.

    Raises:
        EstablishmentError: RESOLUTION_FAILED: nothing, on none.
    """
    system = blueprint.runtime.system
    by_resolver: dict[Resolving, list[Path]] = {}
    for path in chosen:
        resolver = system.resolver_for(isolated=isolated, domain=path.domain)
        by_resolver.setdefault(resolver, []).append(path)
    answers = await asyncio.gather(
        *(resolve_all(resolver, blueprint.remote) for resolver in by_resolver),
        return_exceptions=True,
    )
    found: dict[Path, list[RemoteEndpoint]] = {}
    errors: list[BaseException] = []
    for paths, answer in zip(by_resolver.values(), answers, strict=True):
        if isinstance(answer, BaseException):
            errors.append(answer)
        else:
            found.update(dict.fromkeys(paths, answer))
    for error in errors:
        if not found or not isinstance(error, EstablishmentError):
            raise error
    return found


async def _race(
    connection: Connection[Any],
    leaves: Sequence[Leaf],
    attempts: list[Attempt],
    began: float,
    deadline: float | None,
) -> Won:
    asked: dict[Leaf, Mapping[str, Any]] = {}
    offered: dict[Leaf, EarlyData] = {}

    async def attempt(leaf: Leaf) -> Flow:
        # As they are now: they may change while others are tried.
        asked[leaf] = connection._group.requested(connection)
        early = _early_data(connection, leaf.stack)
        if early is not None:
            offered[leaf] = early
        others = companions(leaf, leaves)
        request = _request(connection._blueprint, leaf, others, asked[leaf], deadline, early)
        return await connector(leaf.stack).connect(request)

    if len(leaves) == 1:
        leaf = leaves[0]
        flow = await only(leaf, attempt, attempts, began)
    else:
        # Whoever has one address to go to needs no planner.
        from taps_core.planning.race import RacePlanner

        planner = RacePlanner(leaves, began=began)
        planner.attempts = attempts
        leaf, flow = await race(planner, attempt)
    if leaf in offered and offered[leaf].taken and connection._early is not None:
        connection._early.done = True
    return Won(flow, leaf.stack, asked[leaf], leaf)


def _early_data(connection: Connection[Any], stack: Stack) -> EarlyData | None:
    """What InitiateWithSend was given, if it may travel with this stack's handshake."""
    entry = connection._early
    if entry is None or not stack.capabilities.early_data or connection._receives_only:
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
    """Import the plugins off the loop if that has not been done, and learn their properties."""
    if not blueprint.learned:
        registry = blueprint.runtime.system.registry
        if not registry.loaded:
            await blueprint.loop.run_in_executor(None, lambda: registry.transports)
        blueprint.learn(registry.properties.values())


def ranking(blueprint: Blueprint) -> Sequence[Ranked]:
    """The candidate stacks, best first.

    Raises:
        NoCandidates: With the reason for every rejection.
    """
    selection = blueprint.runtime.system.select(
        blueprint.properties,
        role=blueprint.role,
        security=blueprint.security,
        local=blueprint.local,
        remote=blueprint.remote,
        framers=blueprint.framers,
    )
    return selection.candidates()


async def resolve_all(resolver: Resolving, endpoints: Sequence[E]) -> list[E]:
    """Addresses of all, in the order of ``endpoints``.

    Raises:
        EstablishmentError: RESOLUTION_FAILED: none of them has any.
    """
    if not endpoints:
        return []
    if len(endpoints) == 1:
        return list(await resolver.resolve(endpoints[0]))
    answers = await asyncio.gather(*map(resolver.resolve, endpoints), return_exceptions=True)
    found: list[E] = []
    errors: list[BaseException] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            errors.append(answer)
        else:
            found += answer
    for error in errors:
        if not found or not isinstance(error, EstablishmentError):
            raise error
    return found


class _Secured:
    """A security layer as a connector."""

    __slots__ = ("_layer", "_lower")

    def __init__(self, layer: SecurityLayer, lower: Connector) -> None:
        self._layer = layer
        self._lower = lower

    async def connect(self, request: ConnectRequest) -> Flow:
        return await self._layer.connect(self._lower, request)


def connector(stack: Stack) -> Connector:
    """The stack as one connector: each layer connects through the one below."""
    lower: Connector = stack.transport
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
    began = clone._loop.time()
    attempts: list[Attempt] = []
    try:
        async with asyncio.timeout_at(began + TIMEOUT):
            return await _race(clone, [again], attempts, began, began + TIMEOUT)
    finally:
        clone.report = tuple(attempts)


def _tried(attempts: Sequence[Attempt]) -> str:
    return "".join(f"\n  {attempt}" for attempt in attempts)


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
