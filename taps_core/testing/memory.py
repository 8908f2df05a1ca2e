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
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from taps_core.model.endpoints import LocalEndpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.layers import ListeningFlow
from taps_core.testing.ports import Ports, canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.model.flow import Flow
    from taps_core.model.layers import ConnectRequest, ListenRequest
    from taps_core.testing.ports import Address

__all__ = ["MemoryListener", "MemoryNetwork", "answered", "hand_over", "refused"]

F = TypeVar("F", bound="Flow")


class MemoryNetwork(Ports):
    """A switchboard of listeners by transport, address and port.

    Attributes:
        wiretap: Called with everything that leaves a transport, as it is on
            the wire: under a security layer, that is what the layer made of it.
        tickets: Addresses of servers that gave this network's clients a
            ticket for early data.
        dropped: Datagrams that came to a flow or a listener whose queue was full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wiretap: Callable[[bytes], None] | None = None
        self.tickets: set[Address] = set()
        self._round_trips: dict[str, float] = {}
        self._blackholes: set[str] = set()

    def __repr__(self) -> str:
        return (
            f"<MemoryNetwork with {self.open_listeners} listeners and {self.open_flows} open flows>"
        )

    # -- what tests look at and arrange

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


async def answered(flow: F) -> F:
    """``flow``, once the listener has had its turn."""
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    except BaseException:
        flow.abort()
        raise
    return flow


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
        network: Ports,
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
