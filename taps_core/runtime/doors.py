"""Where a Listener listens: stacks, Local Endpoints, one port number for all."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from taps_core.model.endpoints import RemoteEndpoint
from taps_core.model.errors import EstablishmentError, Reason, TapsError
from taps_core.model.layers import ListenRequest
from taps_core.model.reports import Attempt
from taps_core.planning.candidates import family_of
from taps_core.runtime.establishment import plugin_failed
from taps_core.runtime.gathering import ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from taps_core.model.endpoints import LocalEndpoint
    from taps_core.model.flow import Flow
    from taps_core.model.layers import ListeningFlow, Transport
    from taps_core.planning.stacks import Stack
    from taps_core.runtime.blueprint import Blueprint

__all__ = ["Doors"]

logger = logging.getLogger("taps_core")

#: How often another port is tried where one number must serve several addresses.
PORT_TRIES: Final = 8
_WILDCARDS: Final = (None, "::", "0.0.0.0")  # compared, not bound
_FAMILIES: Final = (4, 6)
#: What stands for all addresses of a family, and for none of the other.
_ALL_OF: Final = {4: "0.0.0.0", 6: "::"}


class Doors:
    """The open doors of one Listener.

    The top-ranked stack must open, on at least one address of every Local
    Endpoint that it can use; each other transport opens if it can. One that few peers
    speak opens where it comes first, or where an Endpoint is for it: no port is open
    that nobody asked for. Endpoints without a port get one and the same number.

    Args:
        blueprint: What is wanted.
        incoming: Called with the stack, an inbound flow, and what the security
            layer's door admitted it with.

    Attributes:
        report: What was opened and what could not be, in order of start.
    """

    def __init__(self, blueprint: Blueprint, incoming: Callable[[Stack, Flow, Any], None]) -> None:
        self._blueprint = blueprint
        self._incoming = incoming
        self._began = blueprint.loop.time()
        self._paused = False
        #: Each with the Local Endpoint that the application asked for.
        self._open: list[tuple[ListeningFlow, LocalEndpoint]] = []
        #: Of those bound to an interface because of what was asked for about paths: the
        #: stack, what was asked of it, and the interface's index then.
        self._on_path: dict[ListeningFlow, tuple[Stack, LocalEndpoint, int]] = {}
        #: By those that are closed.
        self._dropped: Counter[str] = Counter()
        #: The port that the system chose.
        self._number: int | None = None
        #: Address families that system policy prohibits, and the sentence about it.
        self._prohibited: dict[int, str] = {}
        self.report: list[Attempt] = []

    # -- opening

    async def open(self) -> None:
        """Open everything.

        Raises:
            EstablishmentError, OSError: Nothing is open.
        """
        opened: set[str] = set()
        policy = self._blueprint.runtime.system.whole_policy()
        if policy is not None:
            verdict = policy.on_listeners()
            said = {family: verdict.against_family(family) for family in _FAMILIES}
            self._prohibited = {family: why for family, why in said.items() if why is not None}
        try:
            for place in ranking(self._blueprint):
                transport = place.stack.transport.name
                if transport in opened:
                    # One door per transport: its best stack answers.
                    continue
                if opened and not self._is_asked_for(place.stack.transport):
                    continue
                try:
                    self._open += await self._open_stack(place.stack)
                    opened.add(transport)
                except (TapsError, OSError) as error:
                    if not opened:
                        raise
                    logger.info("%s is not listened on: %s", place.stack, error)
        except BaseException:
            await self.close()
            raise
        if self._paused:
            self.pause()

    @property
    def heed_paths(self) -> bool:
        """Whether anything is asked for about the paths to listen on."""
        blueprint = self._blueprint
        return blueprint.runtime.system.chooses_paths(blueprint.effective) or any(
            endpoint.interface is not None for endpoint in blueprint.local
        )

    @property
    def follows_paths(self) -> bool:
        """Whether paths that come and go make a difference to where it listens."""
        return bool(self._on_path)

    async def follow(self) -> None:
        """Open on paths that have come, close on interfaces that have gone.

        An interface that is down for a while is still there. What cannot be opened is
        in the report.
        """
        interfaces = self._blueprint.runtime.system.paths.interfaces()
        there = {(each.name, each.index) for each in interfaces}
        gone = {
            door
            for door, (_, place, index) in self._on_path.items()
            if (place.interface, index) not in there
        }
        stacks = dict.fromkeys(stack for stack, _, _ in self._on_path.values())
        self._open = [each for each in self._open if each[0] not in gone]
        for door in gone:
            del self._on_path[door]
        await _close(gone)
        for stack in stacks:
            known = {place for of, place, _ in self._on_path.values() if of is stack}
            try:
                wanted = await self._addresses(stack)
            except EstablishmentError as error:  # no path is left
                logger.info("%s is not listened on: %s", stack, error)
                continue
            for endpoint, index in wanted:
                if endpoint in known:
                    continue
                try:
                    door = await self._open_one(stack, _numbered(endpoint, self._number), ())
                except (TapsError, OSError) as error:
                    logger.info("%s is not listened on: %s", stack, error)
                    continue
                self._open.append((door, self._blueprint.local[index]))
                self._remember(stack, door, endpoint)
                if self._paused:
                    door.pause()

    def _remember(self, stack: Stack, door: ListeningFlow, place: LocalEndpoint) -> None:
        """That a door is where it is because of a path."""
        if place.interface is not None and self._heeds_paths(stack):
            for each in self._blueprint.runtime.system.paths.interfaces():
                if each.name == place.interface:
                    self._on_path[door] = stack, place, each.index

    def _heeds_paths(self, stack: Stack) -> bool:
        system = self._blueprint.runtime.system
        return system.chooses_paths(self._blueprint.effective) and stack.takes_paths

    def _is_asked_for(self, transport: Transport) -> bool:
        return transport.deployable or any(
            endpoint.protocol == transport.name for endpoint in self._blueprint.local
        )

    async def _open_stack(self, stack: Stack) -> list[tuple[ListeningFlow, LocalEndpoint]]:
        wanted = await self._addresses(stack)
        may_choose = self._number is None and any(_chooses(endpoint) for endpoint, _ in wanted)
        for _ in range(PORT_TRIES - 1 if may_choose else 0):
            try:
                return await self._open_addresses(stack, wanted)
            except OSError as error:
                if _errno(error) != errno.EADDRINUSE:
                    raise
        return await self._open_addresses(stack, wanted)

    async def _addresses(self, stack: Stack) -> list[tuple[LocalEndpoint, int]]:
        """Resolved Local Endpoints of this stack, each once, with the number of their origin."""
        name = stack.transport.name
        resolver = self._blueprint.runtime.system.resolver_for(
            isolated=self._blueprint.effective["isolateSession"]
        )
        found: dict[LocalEndpoint, tuple[LocalEndpoint, int]] = {}
        for index, asked in enumerate(self._blueprint.local):
            if asked.protocol not in (None, name):
                continue
            for endpoint in self._on_paths(stack, await resolver.resolve(asked)):
                if self._prohibited:
                    endpoint = self._of_one_family(stack, endpoint)
                # Two names of one address are one place to listen at.
                place = (
                    endpoint.with_hostname(None).with_service(None).with_port(endpoint.port or None)
                )
                found.setdefault(place, (endpoint, index))
        if not found:
            raise EstablishmentError(
                f"no Local Endpoint is for {stack.transport.label}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        return list(found.values())

    def _of_one_family(self, stack: Stack, endpoint: LocalEndpoint) -> LocalEndpoint:
        """What stands for all addresses stands for those of the family that is left."""
        (left, *_) = [*(each for each in _FAMILIES if each not in self._prohibited), None]
        if left is None or not stack.takes_paths or not _is_all(endpoint):
            return endpoint
        return endpoint.with_ip_address(_ALL_OF[left])

    def _against(self, stack: Stack, endpoint: LocalEndpoint) -> str | None:
        """Why system policy lets nobody listen there."""
        if not self._prohibited or not stack.takes_paths:
            return None
        family = family_of(endpoint)
        if _is_all(endpoint) and len(self._prohibited) == len(_FAMILIES):
            return "; ".join(self._prohibited.values())
        return None if family is None else self._prohibited.get(family)

    def _on_paths(
        self, stack: Stack, endpoints: Sequence[LocalEndpoint]
    ) -> Sequence[LocalEndpoint]:
        """The same, bound to the interfaces that are left by Require and Prohibit, if any do."""
        if not self._heeds_paths(stack):
            return endpoints
        paths = self._blueprint.runtime.system.paths
        return paths.places(endpoints, self._blueprint.effective)

    async def _open_addresses(
        self, stack: Stack, wanted: list[tuple[LocalEndpoint, int]]
    ) -> list[tuple[ListeningFlow, LocalEndpoint]]:
        doors: list[tuple[ListeningFlow, LocalEndpoint]] = []
        places: list[tuple[ListeningFlow, LocalEndpoint]] = []
        open_for: set[int] = set()
        #: Positions of those that a door before has, too.
        covered: set[int] = set()
        errors: dict[int, OSError] = {}
        number = self._number
        try:
            for position, (endpoint, index) in enumerate(wanted):
                if position in covered:
                    open_for.add(index)
                    continue
                others = {
                    _numbered(wanted[other][0], number): other
                    for other in range(position + 1, len(wanted))
                    if other not in covered and not self._against(stack, wanted[other][0])
                }
                try:
                    door = await self._open_one(stack, _numbered(endpoint, number), tuple(others))
                except OSError as error:
                    if _errno(error) == errno.EADDRINUSE:
                        # Somebody else answers there: clients would reach them.
                        raise
                    errors[index] = error
                    continue
                doors.append((door, self._blueprint.local[index]))
                places.append((door, endpoint))
                open_for.add(index)
                covered.update(at for other, at in others.items() if other in door.also)
                if _chooses(endpoint):
                    number = number or door.local_endpoint.port
            for index, failure in errors.items():
                if index not in open_for:
                    raise failure
        except BaseException:
            await _close(door for door, _ in doors)
            raise
        for door, endpoint in places:
            self._remember(stack, door, endpoint)
        self._number = number
        return doors

    async def _open_one(
        self, stack: Stack, endpoint: LocalEndpoint, others: Sequence[LocalEndpoint]
    ) -> ListeningFlow:
        blueprint = self._blueprint
        properties = blueprint.effective
        security = blueprint.offered_security
        layer = stack.security

        def incoming(flow: Flow, admitted: Any) -> None:
            self._incoming(stack, flow, admitted)

        attempt = Attempt(f"{stack} on {endpoint}", self._now())
        self.report.append(attempt)
        try:
            against = self._against(stack, endpoint)
            if against is not None:
                raise EstablishmentError(against, reason=Reason.POLICY_PROHIBITED)
            door = await stack.transport.listen(
                ListenRequest(
                    local=endpoint,
                    other_locals=others,
                    properties=properties,
                    security=security,
                    incoming=incoming,
                    door=None if layer is None else layer.door(properties, security),
                )
            )
        except (TapsError, OSError) as error:
            attempt.outcome, attempt.error = "failed", error
            raise
        except Exception as error:  # a plugin's bug ends this attempt only
            attempt.outcome, attempt.error = "failed", error
            raise plugin_failed(error) from error
        except BaseException:
            attempt.outcome = "cancelled"
            raise
        finally:
            attempt.ended = self._now()
        attempt.outcome = "ready"
        return door

    def _now(self) -> float:
        return self._blueprint.loop.time() - self._began

    # -- open

    def pause(self) -> None:
        """Take no more inbound flows for now."""
        self._paused = True
        for door, _ in self._open:
            door.pause()

    def resume(self) -> None:
        """Take them again."""
        self._paused = False
        for door, _ in self._open:
            door.resume()

    async def close(self) -> None:
        """Stop; returns when the ports are free. Flows that came in live on."""
        self._dropped = self.dropped
        doors, self._open = self._open, []
        self._on_path.clear()
        await _close(door for door, _ in doors)

    @property
    def local_endpoints(self) -> tuple[LocalEndpoint, ...]:
        """With the ports really bound."""
        return tuple(endpoint for door, _ in self._open for endpoint in _endpoints(door))

    @property
    def dropped(self) -> Counter[str]:
        """What all of them dropped, by cause; until they closed."""
        total = self._dropped.copy()
        for door, _ in self._open:
            total.update(door.dropped)
        return total

    def _families(self, asked: LocalEndpoint, bound: LocalEndpoint) -> Collection[int]:
        """Those that come in where all addresses are listened on."""
        named = asked.ip_address or (bound.ip_address if bound.ip_address == _ALL_OF[4] else None)
        if named is not None:
            return (6,) if ":" in named else (4,)
        return [each for each in _FAMILIES if each not in self._prohibited]

    @property
    def remote_endpoint(self) -> RemoteEndpoint | None:
        """How to reach the first one from this machine, under the name it was given."""
        if not self._open:
            return None
        door, asked = self._open[0]
        bound = door.local_endpoint
        if bound.identifiers:
            return RemoteEndpoint(identifiers=bound.identifiers)
        if bound.multicast_group is not None:
            return RemoteEndpoint(
                multicast_group=bound.multicast_group, port=bound.port, interface=bound.interface
            )
        if asked.hostname is not None:
            return RemoteEndpoint(hostname=asked.hostname, port=bound.port)
        if bound.ip_address in _WILDCARDS:
            families = self._families(asked, bound)
            address = None
            if bound.interface is not None:  # others do not lead there
                paths = self._blueprint.runtime.system.paths
                address = paths.address_of(bound.interface, families)
            loopback = "127.0.0.1" if 4 in families else "::1"
            return RemoteEndpoint(ip_address=address or loopback, port=bound.port)
        # The interface of an IPv6 address may be its zone; IPv4 has none.
        zone = bound.interface if ":" in str(bound.ip_address) else None
        return RemoteEndpoint(ip_address=bound.ip_address, port=bound.port, interface=zone)


def _is_all(endpoint: LocalEndpoint) -> bool:
    """Whether it stands for all addresses, of both families."""
    return family_of(endpoint) is None and endpoint.kinds <= {"ip"}


def _chooses(endpoint: LocalEndpoint) -> bool:
    """Whether the system chooses the port."""
    return not endpoint.port and not endpoint.identifiers


def _endpoints(door: ListeningFlow) -> Iterator[LocalEndpoint]:
    yield door.local_endpoint
    for other in door.also:
        yield other.with_hostname(None).with_service(None).with_port(door.local_endpoint.port)


def _numbered(endpoint: LocalEndpoint, number: int | None) -> LocalEndpoint:
    """With the number that all those have whose port the system chooses, if it is known."""
    return endpoint.with_port(number) if number and _chooses(endpoint) else endpoint


async def _close(doors: Iterable[ListeningFlow]) -> None:
    cancelled: asyncio.CancelledError | None = None
    for door in doors:
        try:
            await door.close()
        except asyncio.CancelledError as error:
            # Nor must that; whoever was cancelled hears of it behind the last one.
            cancelled = error
        except Exception:
            # A plugin's bug must not keep the other doors open.
            logger.exception("closing %r failed", door)
    if cancelled is not None:
        raise cancelled


def _errno(error: OSError) -> int | None:
    """The system's number, also where a plugin put its own sentence around it."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error.errno
