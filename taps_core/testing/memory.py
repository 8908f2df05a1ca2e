"""A network inside the process: who listens where, how far it is, what is open.

::

    network = MemoryNetwork()
    system = System(plugins=[MemoryStream(network), MemoryDatagram(network)])

A :class:`MemoryNetwork` is nothing but a switchboard. Any IP address exists on
it, ports of each transport are its own, and two networks know nothing of each
other. The transports that run on it are honest to the letter of the seam
(:mod:`taps_core.model.flow`), so what works on all of them depends on no
protocol.

Both ends of a flow live on one event loop. Nothing here uses a socket, a
thread or real time, unless :meth:`MemoryNetwork.delay` asks for time.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import os
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.model.endpoints import LocalEndpoint, canonical_address
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.layers import ListeningFlow

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.flow import Flow
    from taps_core.model.layers import ConnectRequest, ListenRequest

__all__ = ["Address", "MemoryListener", "MemoryNetwork", "canonical", "hand_over", "refused"]

#: IP address as text, and port.
Address: TypeAlias = tuple[str, int]

_ANY_IPV4 = "0.0.0.0"  # nothing is bound outside this process
_ANY = "::"
_FIRST_EPHEMERAL_PORT = 49152  # RFC 6335, section 6
_LAST_PORT = 65535


class MemoryNetwork:
    """A switchboard of listeners by transport, address and port.

    Attributes:
        wiretap: Called with everything that leaves a transport, as it is on
            the wire: under a security layer, that is what the layer made of it.
        tickets: Addresses of servers that gave this network's clients a
            ticket for early data.
        dropped: Datagrams that came to a flow or a listener whose queue was full.
    """

    def __init__(self) -> None:
        self.wiretap: Callable[[bytes], None] | None = None
        self.tickets: set[Address] = set()
        self.dropped = 0
        self._doors: dict[tuple[str, str, int], Any] = {}
        self._routes: dict[tuple[str, Address, Address], Any] = {}
        self._flows: set[Flow] = set()
        self._round_trips: dict[str, float] = {}
        self._blackholes: set[str] = set()
        self._ports = itertools.cycle(range(_FIRST_EPHEMERAL_PORT, _LAST_PORT + 1))

    def __repr__(self) -> str:
        return (
            f"<MemoryNetwork with {self.open_listeners} listeners and {self.open_flows} open flows>"
        )

    # -- what tests look at and arrange

    @property
    def open_flows(self) -> int:
        """Ends of flows that are not closed yet: two for each connection."""
        return len(self._flows)

    @property
    def flows(self) -> tuple[Flow, ...]:
        """The open ends themselves, in no order; to see what was left."""
        return tuple(self._flows)

    @property
    def open_listeners(self) -> int:
        """Listeners that have not been closed."""
        return len(self._doors)

    def blackhole(self, address: str, swallows: bool = True) -> None:
        """Let ``address`` swallow everything: connects hang, datagrams are lost.

        Flows that are established already are not touched.

        Args:
            address: An IP address, whether or not anybody listens there.
            swallows: False ends it; connects that hang go on hanging.
        """
        if swallows:
            self._blackholes.add(canonical(address))
        else:
            self._blackholes.discard(canonical(address))

    def delay(self, address: str, seconds: float) -> None:
        """Put ``address`` a round trip of ``seconds`` away; 0 is the default.

        A connect takes one round trip, a Message half of it. Flows that are
        established already keep the distance they have.
        """
        self._round_trips[canonical(address)] = seconds

    # -- what transports ask

    def round_trip(self, one: str, other: str) -> float:
        """Seconds from one address to the other and back."""
        return max(self._round_trips.get(one, 0.0), self._round_trips.get(other, 0.0))

    def swallows(self, *addresses: str) -> bool:
        """Whether one of the addresses is a black hole."""
        return not self._blackholes.isdisjoint(addresses)

    def bind(self, kind: str, local: LocalEndpoint, door: Any) -> Address:
        """Let ``door`` be found at ``local``; an unset port is chosen.

        Args:
            kind: Name of the transport; each has its own ports.
            local: Where. Without an address, or with ``::``, at all of them.
            door: What :meth:`door` gives for this address.

        Raises:
            OSError: ``EADDRINUSE``.
        """
        address = local.ip_address or _ANY
        port = local.port or self.free_port(kind, address)
        if self._taken(kind, address, port):
            raise OSError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)}: {address}:{port}")
        self._doors[kind, address, port] = door
        return address, port

    def unbind(self, kind: str, address: Address) -> None:
        """Free what :meth:`bind` took; nothing happens where it is free already."""
        self._doors.pop((kind, *address), None)

    def door(self, kind: str, address: Address) -> Any | None:
        """What is bound at ``address`` or at a wildcard that covers it."""
        host, port = address
        for candidate in (host, _ANY_IPV4, _ANY):
            if _covers(candidate, host) or candidate == _ANY:
                door = self._doors.get((kind, candidate, port))
                if door is not None:
                    return door
        return None

    def free_port(self, kind: str, host: str) -> int:
        """A port from the ephemeral range that is not bound at ``host``.

        Ports go round all kinds, so that one chosen for a transport is
        normally free for the others too.
        """
        for port in itertools.islice(self._ports, _LAST_PORT - _FIRST_EPHEMERAL_PORT + 1):
            if not self._taken(kind, host, port):
                return port
        raise OSError(errno.EADDRINUSE, "no port is left")

    def ends(self, kind: str, request: ConnectRequest) -> tuple[Address, Address]:
        """Local and remote address of a flow to be made.

        Raises:
            EstablishmentError: The remote endpoint was not resolved.
        """
        remote = request.remote
        if remote.ip_address is None or remote.port is None:
            raise EstablishmentError(
                f"{remote} has no address and port", reason=Reason.INVALID_CONFIGURATION
            )
        there = remote.ip_address, remote.port
        host = request.local and request.local.ip_address
        here = host or ("::1" if ":" in there[0] else "127.0.0.1")
        port = request.local and request.local.port
        return (here, port or self.free_port(kind, here)), there

    async def reach(self, kind: str, here: Address, there: Address) -> MemoryListener:
        """Wait one round trip for the listener at ``there``; for connected transports.

        Raises:
            EstablishmentError: Nobody listens there, or too many wait already.
        """
        if self.swallows(here[0], there[0]):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.round_trip(here[0], there[0]))
        door = self.door(kind, there)
        if not isinstance(door, MemoryListener) or not door.has_room:
            raise refused(there)
        return door

    def add_flow(self, flow: Flow) -> None:
        """Count ``flow`` as open."""
        self._flows.add(flow)

    def remove_flow(self, flow: Flow) -> None:
        """Count ``flow`` as closed."""
        self._flows.discard(flow)

    def add_route(self, kind: str, here: Address, there: Address, flow: Any) -> None:
        """Let what comes from ``there`` to ``here`` go to ``flow``; for connectionless transports.

        Raises:
            OSError: ``EADDRINUSE``: another flow has this pair of addresses.
        """
        if self._routes.setdefault((kind, here, there), flow) is not flow:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def remove_route(self, kind: str, here: Address, there: Address) -> None:
        """Undo :meth:`add_route`."""
        self._routes.pop((kind, here, there), None)

    def route(self, kind: str, here: Address, there: Address) -> Any | None:
        """The flow that has this pair of addresses."""
        return self._routes.get((kind, here, there))

    def _taken(self, kind: str, host: str, port: int) -> bool:
        return any(
            bound_kind == kind
            and bound_port == port
            and (_covers(bound, host) or _covers(host, bound))
            for bound_kind, bound, bound_port in self._doors
        )


class MemoryListener(ListeningFlow):
    """The listener of a connected transport: a backlog, handed out from the loop.

    Args:
        network: Where to listen.
        kind: Name of the transport.
        request: What ``Transport.listen`` was given.
        backlog: Flows that wait while the listener is paused; more are refused.
        **facts: What the transport wants to find here when somebody connects.

    Raises:
        OSError: The address is in use.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        kind: str,
        request: ListenRequest,
        *,
        backlog: int = 128,
        **facts: Any,
    ) -> None:
        self.facts = facts
        #: In which the server's callbacks run: nothing of the client's context
        #: leaks into it, as it would not through a socket.
        self.context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._kind = kind
        self._incoming = request.incoming
        self._backlog_limit = backlog
        self._backlog: deque[Flow] = deque()
        self._paused = False
        self._scheduled = False
        self._closed = False
        self.address = network.bind(kind, request.local, self)

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """With the address and port really bound."""
        return LocalEndpoint(ip_address=self.address[0], port=self.address[1])

    @property
    def has_room(self) -> bool:
        """Whether another flow can wait."""
        return len(self._backlog) < self._backlog_limit

    def offer(self, flow: Flow) -> None:
        """Put an unstarted flow into the backlog; a closed listener resets it."""
        if self._closed:
            flow.abort()
        else:
            self._backlog.append(flow)
            self._wake()

    def pause(self) -> None:
        """Leave new flows in the backlog; their peers are connected already."""
        self._paused = True

    def resume(self) -> None:
        """Hand them out again."""
        self._paused = False
        self._wake()

    async def close(self) -> None:
        """Free the port; flows that nobody has taken yet are aborted."""
        self._network.unbind(self._kind, self.address)
        self._closed = True
        while self._backlog:
            self._backlog.popleft().abort()

    def _wake(self) -> None:
        if not self._scheduled and not self._paused and self._backlog:
            self._scheduled = True
            self._loop.call_soon(self._hand_out, context=self.context)

    def _hand_out(self) -> None:
        self._scheduled = False
        while self._backlog and not self._paused:
            hand_over(self._backlog.popleft(), self._incoming, None)


def refused(there: Address) -> EstablishmentError:
    """The error for an address where nobody takes a connection."""
    return EstablishmentError(f"connection refused by {there[0]} port {there[1]}", transient=True)


def hand_over(flow: Flow, incoming: Callable[..., None], *more: Any) -> None:
    """Give an inbound flow to those above; what they raise costs them this flow only."""
    try:
        incoming(flow, *more)
    except Exception as error:  # noqa: BLE001  # the layers above are other people's
        flow.abort()
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"nobody took the inbound {flow!r}", "exception": error}
        )


def canonical(address: str) -> str:
    """The one way of writing an IP address that comparisons can use.

    Raises:
        ValueError: It is none.
    """
    text = canonical_address(address)
    if text is None:
        raise ValueError(f"{address!r} is not an IP address")
    return text


def _covers(bound: str, host: str) -> bool:
    """Whether a listener bound there has this address to itself.

    ``::`` also answers for IPv4 where nobody else does, but is no conflict:
    programs bind both wildcards to one port.
    """
    if bound == host:
        return True
    return bound == (_ANY if ":" in host else _ANY_IPV4)
