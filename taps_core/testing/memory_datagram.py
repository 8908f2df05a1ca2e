"""Datagrams in memory: what UDP is to the layers above, with accidents on request."""

from __future__ import annotations

import asyncio
import contextvars
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from taps_core.model.capabilities import Capabilities
from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import ConnectionError, Reason, SendError
from taps_core.model.layers import ListeningFlow, Transport
from taps_core.testing.memory import hand_over
from taps_core.testing.memory_flow import Link, MemoryFlow, joined

if TYPE_CHECKING:
    from taps_core.model.flow import Data, Receiver
    from taps_core.model.layers import ConnectRequest, ListenRequest
    from taps_core.model.messages import SendRecord
    from taps_core.testing.memory import MemoryNetwork
    from taps_core.testing.ports import Address, Ports

__all__ = [
    "DatagramWay",
    "Fate",
    "MemoryDatagram",
    "MemoryDatagramFlow",
    "MemoryDatagramListener",
    "accidents",
    "arrive",
]

#: Largest payload of a UDP datagram over IPv4.
MAX_LENGTH = 65507
#: What each datagram takes of a queue beyond its bytes.
_OVERHEAD = 64

#: What becomes of a datagram: for each copy that arrives, how many turns of the
#: loop later than normal. ``()`` is loss, ``(0, 0)`` a duplicate, ``(3,)`` lets
#: those overtake it that are sent meanwhile.
Fate: TypeAlias = Callable[[bytes], Sequence[int]]


def accidents(
    seed: int, *, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0
) -> Fate:
    """A :data:`Fate` with these probabilities; the same seed gives the same accidents."""
    generator = random.Random(seed)  # to be repeatable, not to be secret

    def fate(datagram: bytes) -> Sequence[int]:
        lost, twice, late = (generator.random() for _ in range(3))
        turns = generator.randint(1, 5) if late < reorder else 0
        if lost < loss:
            return ()
        return (turns, 0) if twice < duplicate else (turns,)

    return fate


class DatagramWay(ABC):
    """From one address to another."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Largest datagram that goes this way, in bytes."""

    @abstractmethod
    def carry(self, datagram: bytes) -> None:
        """Let it leave; whether it arrives is another matter."""


class _MemoryWay(DatagramWay):
    def __init__(
        self,
        network: MemoryNetwork,
        kind: str,
        source: Address,
        target: Address,
        *,
        max_length: int,
        fate: Fate | None,
    ) -> None:
        self._network = network
        self._kind = kind
        self._source = source
        self._target = target
        self._max_length = max_length
        self._fate = fate
        self._link = Link(network.round_trip(source[0], target[0]) / 2)

    @property
    def max_length(self) -> int:
        return self._max_length

    def carry(self, datagram: bytes) -> None:
        network = self._network
        if network.wiretap is not None:
            network.wiretap(datagram)
        if network.swallows(self._source[0], self._target[0]):
            return
        for turns in (0,) if self._fate is None else self._fate(datagram):
            self._link.carry(self._arrive, datagram, turns)

    def _arrive(self, datagram: bytes, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._arrive, datagram, turns - 1)
            return
        arrive(self._network, self._kind, datagram, self._source, self._target)


def arrive(ports: Ports, kind: str, datagram: bytes, source: Address, target: Address) -> bool:
    """Give ``datagram`` to the flow that has this pair of addresses, or to a listener.

    Returns:
        Whether there is either.
    """
    flow = ports.route(kind, target, source)
    if flow is not None:
        flow.arrived(datagram)
        return True
    door = ports.door(kind, target)
    if isinstance(door, MemoryDatagramListener):
        door.arrived(datagram, source, target)
        return True
    return False


class MemoryDatagramFlow(MemoryFlow):
    """One pair of addresses that send each other datagrams.

    The two ends know nothing of each other: closing one is not seen by the
    other, and what is sent to nobody is gone.

    Attributes:
        dropped: Datagrams that came while the queue was full.
    """

    def __init__(
        self,
        network: Ports,
        kind: str,
        here: Address,
        there: Address,
        *,
        way: DatagramWay,
        queue_size: int,
        context: contextvars.Context | None = None,
        remote: RemoteEndpoint | None = None,
    ) -> None:
        network.add_route(kind, here, there, self)  # first: it may raise
        super().__init__(network, here, there, context=context, remote=remote)
        self.dropped = 0
        self._kind = kind
        self._queue_size = queue_size
        self._way = way
        self._parts: list[bytes] = []
        self._gathered: list[bytes] = []
        self._inbox: list[bytes] = []
        self._held = 0

    def send(self, data: Data, record: SendRecord | None, end_of_message: bool, /) -> bool | None:
        """Gather; parts of one Message become one datagram, which leaves at ``flush``."""
        if self._over:
            raise SendError("the flow is closed", reason=Reason.CONNECTION_CLOSED)
        part = joined(data)
        length = sum(map(len, self._parts)) + len(part)
        if length > self._way.max_length:
            raise SendError(
                f"{length} bytes do not fit into a datagram, at most {self._way.max_length} do",
                reason=Reason.MESSAGE_TOO_LARGE,
            )
        self._parts.append(part)
        if end_of_message:
            self._gathered.append(b"".join(self._parts))
            self._parts.clear()
        return None

    def withdraw(self) -> bool:
        """Drop the parts of the datagram that is not complete."""
        self._parts.clear()
        return True

    def flush(self) -> None:
        """Let everything gathered leave."""
        gathered, self._gathered = self._gathered, []
        for datagram in gathered:
            self._way.carry(datagram)

    def close(self) -> None:
        """Free the addresses; what was sent has left."""
        self.flush()
        self._closing = True
        self._end(None)

    def abort(self) -> None:
        """Free the addresses; what was gathered is dropped."""
        self._closing = True
        self._end(ConnectionError("aborted", reason=Reason.LOCAL_ABORT))

    def read(self, property: str, /) -> Any:
        """The maximum lengths, which are one and the same here."""
        if property in ("sendMsgMaxLen", "recvMsgMaxLen", "singularTransmissionMsgMaxLen"):
            return self._way.max_length
        return None

    def arrived(self, datagram: bytes) -> None:
        """Hold ``datagram`` for the next turn, if there is room."""
        cost = len(datagram) + _OVERHEAD
        if self._held + cost > self._queue_size:
            self.dropped += 1
            self.network.dropped += 1
            return
        self._held += cost
        self._inbox.append(datagram)
        self._wake()

    def _up(self, receiver: Receiver) -> None:
        if self._inbox and not (self._paused or self._over):
            inbox, self._inbox = self._inbox, []
            self._held = 0
            receiver.received([(datagram, None, True) for datagram in inbox])

    def _fail(self, error: Exception) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> bool:
        if not super()._end(error):
            return False
        self.network.remove_route(self._kind, self.here, self.there)
        self._inbox.clear()
        return True


class MemoryDatagramListener(ListeningFlow):
    """Makes a flow for each remote that it does not know, at its first datagram.

    With a :class:`~taps_core.plugin.Door` it asks that first, and keeps nothing
    of those whom the door does not admit.

    Args:
        network: Where to listen.
        kind: Name of the transport.
        request: What ``Transport.listen`` was given.
        ways: The way from one address (the first) to another.
        queue_size: Bytes that are held of unknown remotes.
    """

    def __init__(
        self,
        network: Ports,
        kind: str,
        request: ListenRequest,
        *,
        ways: Callable[[Address, Address], DatagramWay],
        queue_size: int,
    ) -> None:
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._network = network
        self._kind = kind
        self._ways = ways
        self._queue_size = queue_size
        self._incoming = request.incoming
        self._door = request.door
        self._inbox: deque[tuple[bytes, Address, Address]] = deque()
        self._held = 0
        self._paused = False
        self._scheduled = False
        self._address = network.bind(kind, request.local, self)

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """With the address and port really bound."""
        return LocalEndpoint(ip_address=self._address[0], port=self._address[1])

    @property
    def dropped(self) -> Mapping[str, int]:
        """Datagrams of unknown remotes that came while the queue was full: ``queue``."""
        return {"queue": self._dropped} if self._dropped else {}

    def pause(self) -> None:
        """Hold datagrams of unknown remotes, up to the queue's size."""
        self._paused = True

    def resume(self) -> None:
        """Look at them again."""
        self._paused = False
        self._wake()

    async def close(self) -> None:
        """Free the port; flows go on with their remotes."""
        self._network.unbind(self._kind, self._address)
        self._paused = True
        self._inbox.clear()

    def arrived(self, datagram: bytes, source: Address, target: Address) -> None:
        """Hold a datagram of an unknown remote for the next turn, if there is room."""
        cost = len(datagram) + _OVERHEAD
        if self._held + cost > self._queue_size:
            self._dropped += 1
            self._network.dropped += 1
            return
        self._held += cost
        self._inbox.append((datagram, source, target))
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled and not self._paused and self._inbox:
            self._scheduled = True
            self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._scheduled = False
        while self._inbox and not self._paused:
            datagram, source, target = self._inbox.popleft()
            self._held -= len(datagram) + _OVERHEAD
            known = self._network.route(self._kind, target, source)
            if known is not None:
                known.arrived(datagram)
            else:
                self._judge(datagram, source, target)

    def _judge(self, datagram: bytes, source: Address, target: Address) -> None:
        admitted = None
        if self._door is not None:
            remote = RemoteEndpoint(ip_address=source[0], port=source[1])
            way = self._ways(target, source)
            admitted = self._door.admit(datagram, remote, way.carry)
            if admitted is None:
                return
        flow = MemoryDatagramFlow(
            self._network,
            self._kind,
            target,
            source,
            way=self._ways(target, source),
            queue_size=self._queue_size,
            context=self._context.copy(),
        )
        flow.arrived(datagram)
        hand_over(flow, self._incoming, admitted)


class MemoryDatagram(Transport):
    """Transport ``memory-datagram``: unconnected, unreliable, unordered datagrams.

    Args:
        network: Where its listeners are, and whom it reaches.
        max_length: Largest Message in bytes.
        queue_size: Bytes (and 64 for each datagram) that a flow, or the
            listener for those it does not know, holds while nobody takes them;
            what comes beyond is dropped and counted.
        fate: What becomes of each datagram that is sent; see :func:`accidents`.
            ``None``: it arrives once and in order.
    """

    name = "memory-datagram"
    capabilities = Capabilities.datagrams()

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        max_length: int = MAX_LENGTH,
        queue_size: int = 256 * 1024,
        fate: Fate | None = None,
    ) -> None:
        self._network = network
        self._max_length = max_length
        self._queue_size = queue_size
        self._fate = fate

    async def connect(self, request: ConnectRequest) -> MemoryDatagramFlow:
        """A flow to ``request.remote``, at once, whether or not anybody is there."""
        here, there = self._network.ends(self.name, request)
        return MemoryDatagramFlow(
            self._network,
            self.name,
            here,
            there,
            way=self._way(here, there),
            queue_size=self._queue_size,
            remote=request.remote,
        )

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """A listener at ``request.local``."""
        return MemoryDatagramListener(
            self._network, self.name, request, ways=self._way, queue_size=self._queue_size
        )

    def _way(self, source: Address, target: Address) -> DatagramWay:
        return _MemoryWay(
            self._network,
            self.name,
            source,
            target,
            max_length=self._max_length,
            fate=self._fate,
        )
