"""From a blueprint to an established flow: select, resolve, race, connect through the layers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from taps_core.model.capabilities import DataUnit
from taps_core.model.errors import (
    CloneError,
    EstablishmentError,
    EstablishmentTimeout,
    Reason,
    TapsError,
)
from taps_core.model.layers import AcceptRequest, ConnectRequest, EarlyData, SecurityLayer
from taps_core.planning.candidates import Leaf, build_leaves
from taps_core.planning.race import RacePlanner
from taps_core.runtime.framing import FramerConnector, accept_framed, wrap
from taps_core.runtime.race import race

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
    from taps_core.model.errors import Attempt
    from taps_core.model.flow import Flow
    from taps_core.model.layers import Connector
    from taps_core.planning.selection import Ranked
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint
    from taps_core.runtime.connection import Connection

__all__ = [
    "accept",
    "accept_now",
    "connect_again",
    "connector",
    "establish",
    "frame",
    "load",
    "ranking",
]


async def establish(connection: Connection[Any], timeout: float | None) -> None:
    """Bring ``connection`` to Ready or EstablishmentError; never raises but CancelledError."""
    attempts: list[Attempt] = []
    try:
        async with asyncio.timeout(timeout):
            leaf, flow = await _win(connection, attempts)
    except asyncio.CancelledError:
        connection._establishment_failed(
            EstablishmentError("cancelled", reason=Reason.LOCAL_ABORT, attempts=attempts)
        )
        raise
    except TimeoutError as error:
        if isinstance(error, EstablishmentError):
            failure: EstablishmentError = error
        else:
            failure = EstablishmentTimeout(
                f"nothing was ready within {timeout:g} s" + _tried(attempts),
                attempts=attempts,
                transient=True,
            )
        connection.report = tuple(attempts)
        connection._establishment_failed(failure)
    except (TapsError, OSError) as error:
        connection.report = tuple(attempts)
        connection._establishment_failed(_as_failure(error, attempts))
    except Exception as error:  # noqa: BLE001  # a plugin's bug must reach whoever waits
        connection.report = tuple(attempts)
        failure = EstablishmentError(
            f"a plugin failed: {type(error).__name__}: {error}", attempts=attempts
        )
        failure.__cause__ = error
        connection._establishment_failed(failure)
    else:
        connection.report = tuple(attempts)
        connection._leaf = leaf
        connection._established(flow, leaf.stack)


async def _win(connection: Connection[Any], attempts: list[Attempt]) -> tuple[Leaf, Flow]:
    blueprint = connection._blueprint
    loop = blueprint.loop
    began = loop.time()
    await load(blueprint)
    ranked = ranking(blueprint)
    remotes = await _resolve(blueprint, blueprint.remote)
    locals_ = await _resolve(blueprint, blueprint.local)
    properties = blueprint.effective
    leaves = build_leaves(ranked, remotes, locals_, properties=properties)
    if not leaves:
        raise EstablishmentError(
            "no address fits: "
            + (", ".join(map(str, remotes)) or "none was found")
            + (f" from {', '.join(map(str, locals_))}" if locals_ else ""),
            reason=Reason.NO_CANDIDATES,
        )
    planner = RacePlanner(leaves, began=began)
    planner.attempts = attempts
    entry = connection._early
    offered: dict[Leaf, EarlyData] = {}

    async def attempt(leaf: Leaf) -> Flow:
        early = None
        if entry is not None and entry.context.get("safelyReplayable"):
            early = offered[leaf] = EarlyData(entry.data)
        return await connect(blueprint, leaf, properties, early)

    leaf, flow = await race(planner, attempt)
    taken = offered.get(leaf)
    if entry is not None and taken is not None and taken.taken:
        entry.done = True
    return leaf, flow


async def load(blueprint: Blueprint) -> None:
    """Import the plugins off the loop if that has not been done, and learn their properties."""
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


async def _resolve(
    blueprint: Blueprint, endpoints: Sequence[LocalEndpoint] | Sequence[RemoteEndpoint]
) -> list[Any]:
    resolver = blueprint.runtime.system.resolver
    found: list[Any] = []
    errors: list[EstablishmentError] = []
    for endpoint in endpoints:
        try:
            found += await resolver.resolve(endpoint)
        except EstablishmentError as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    return found


async def connect(
    blueprint: Blueprint,
    leaf: Leaf,
    properties: Mapping[str, Any],
    early: EarlyData | None = None,
) -> Flow:
    """One attempt: through all layers of the leaf's stack."""
    remote = leaf.remote
    request = ConnectRequest(
        remote=remote,
        local=leaf.local,
        properties=properties,
        security=blueprint.security,
        server_name=remote.hostname,
        role=blueprint.role,
        early=early,
    )
    return await connector(leaf.stack).connect(request)


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
        security=blueprint.security,
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


async def connect_again(parent: Connection[Any], clone: Connection[Any]) -> tuple[Flow, Stack]:
    """A new transport connection to where ``parent`` leads (Clone without streams)."""
    leaf = parent._leaf
    assert leaf is not None
    blueprint = clone._blueprint
    stack = parent._stack_for(blueprint.framers)
    local = leaf.local
    if local is not None and local.port:
        # The port is taken by the parent.
        local = local.with_port(None)
    again = Leaf(stack, leaf.remote, local, path=leaf.path, group=leaf.group)
    properties = {**blueprint.effective, **clone._group.properties}
    began = blueprint.loop.time()
    planner = RacePlanner([again], began=began)

    async def attempt(leaf: Leaf) -> Flow:
        return await connect(blueprint, leaf, properties)

    try:
        _, flow = await race(planner, attempt)
    finally:
        clone.report = tuple(planner.attempts)
    clone._leaf = again
    return flow, stack


def _tried(attempts: Sequence[Attempt]) -> str:
    return "".join(f"\n  {attempt}" for attempt in attempts)


def _as_failure(error: TapsError | OSError, attempts: Sequence[Attempt]) -> EstablishmentError:
    if isinstance(error, EstablishmentError) and not isinstance(error, CloneError):
        error.attempts = error.attempts or tuple(attempts)
        return error
    reason = error.reason if isinstance(error, TapsError) else Reason.ESTABLISHMENT_FAILED
    failure = EstablishmentError(str(error), reason=reason, attempts=attempts)
    failure.__cause__ = error
    return failure
