"""What lies between the two ends of a connection in memory.

A :class:`Wire` is one end's view of it: it carries in order, knows how much the
peer has room for, and tells what became of what it was given. A
:class:`MemoryWire` is the plain kind: nothing is lost, and all it costs is a delay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from taps_core.testing.memory_flow import Link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taps_core.model.messages import MessageContext, SendRecord
    from taps_core.testing.memory import MemoryNetwork
    from taps_core.testing.memory_connected import ConnectedFlow

__all__ = ["Item", "MemoryWire", "Wire"]


class Item:
    """A Message or a part of one between ``send`` and the peer's ``received``.

    Attributes:
        data: Its bytes.
        end_of_message: Whether it is the last part.
        cost: What it takes of the window.
        context: What comes up with it.
        record: Where its fate is to be reported.
    """

    __slots__ = ("context", "cost", "data", "end_of_message", "record")

    def __init__(
        self,
        data: bytes,
        end_of_message: bool,
        *,
        cost: int,
        context: MessageContext | None = None,
    ) -> None:
        self.data = data
        self.end_of_message = end_of_message
        self.cost = cost
        self.context = context
        self.record: SendRecord | None = None

    def split(self, size: int) -> Item:
        """Take the first ``size`` bytes off."""
        first = Item(self.data[:size], False, cost=size, context=self.context)
        self.data = self.data[size:]
        self.cost -= size
        return first

    def pieces(self, most: int) -> Iterator[Item]:
        """It all, in pieces of ``most`` bytes; what belongs to its end goes with the last."""
        length = len(self.data)
        if length <= most:
            yield self
            return
        last = (length - 1) // most * most
        for at in range(0, last, most):
            yield Item(self.data[at : at + most], False, cost=most, context=self.context)
        rest = Item(
            self.data[last:], self.end_of_message, cost=self.cost - last, context=self.context
        )
        rest.record = self.record
        yield rest


class Wire(ABC):
    """The way to the peer, and what comes from there.

    It calls the flow's ``arrived``, ``fin_came`` and ``reset_came`` for what the
    peer sent, each in order; ``acknowledged``, ``settled`` and ``pump`` for what
    became of the flow's own.
    """

    @property
    @abstractmethod
    def room(self) -> int:
        """What the peer has room for beyond what was handed over."""

    @abstractmethod
    def carry(self, item: Item) -> None:
        """Take ``item``: not more than there is room for, if it can be divided."""

    def blocked(self) -> None:  # noqa: B027  # a plain wire tells of room by itself
        """There is more to carry than room."""

    @abstractmethod
    def finish(self, closing: bool) -> None:
        """Nothing more follows; with ``closing``, nothing will be read either."""

    @abstractmethod
    def reset(self, error: Exception, at_once: bool) -> None:
        """Tell the peer that this end is gone, ``at_once`` or behind all that was sent."""

    @abstractmethod
    def release(self, cost: int) -> None:
        """So much of what arrived was taken: there is room for more."""

    @abstractmethod
    def opened(self) -> None:
        """Tell the peer of the room there is."""

    @property
    def undelivered(self) -> int:
        """Bytes that were handed over and that the peer is not known to have."""
        return 0

    def over(self, error: Exception | None) -> None:  # noqa: B027  # a plain wire keeps nothing
        """The flow has ended."""

    def apply(self, name: str, value: Any) -> bool:
        """Let a property take effect; True if it has one."""
        return False

    def read(self, name: str) -> Any:
        """The value of a property, ``None`` if it has no effect."""
        return None


class MemoryWire(Wire):
    """Everything arrives, in order, ``delay`` seconds later.

    How much room the peer has is known at once, whatever the distance.
    """

    def __init__(
        self, network: MemoryNetwork, flow: ConnectedFlow, peer: ConnectedFlow, delay: float
    ) -> None:
        self._network = network
        self._flow = flow
        self._peer = peer
        self._there = Link(delay)
        self._back = Link(delay)

    @classmethod
    def join(cls, network: MemoryNetwork, flow: ConnectedFlow, peer: ConnectedFlow) -> None:
        """Make these the two ends of one connection."""
        delay = network.round_trip(flow.here[0], flow.there[0]) / 2
        flow.wire = wire = cls(network, flow, peer, delay)
        peer.wire = other = cls(network, peer, flow, delay)
        other._there, other._back = wire._back, wire._there

    @property
    def room(self) -> int:
        """What the peer's window has room for; what is on the way counts as held there."""
        return self._peer.window - self._peer.held

    def carry(self, item: Item) -> None:
        """Let it arrive, and its outcome come back."""
        self._peer.held += item.cost
        if self._network.wiretap is not None:
            self._network.wiretap(self._flow.on_the_wire(item.data))
        self._there.carry(self._arrives, item)

    def _arrives(self, item: Item) -> None:
        if self._peer.arrived(item) and item.record is not None:
            self._back.carry(self._flow.settled, item.record, None)

    def finish(self, closing: bool) -> None:
        """Let the end arrive, and its acknowledgement come back."""
        self._there.carry(self._fin_arrives, closing)

    def _fin_arrives(self, closing: bool) -> None:
        self._back.carry(self._flow.acknowledged)
        self._peer.fin_came(closing)

    def reset(self, error: Exception, at_once: bool) -> None:
        """Behind all that was sent in any case; ``at_once`` drops what the peer has not read."""
        self._there.carry(self._peer.reset_came, error, at_once)

    def release(self, cost: int) -> None:
        """The peer has that much more room to send."""
        self._flow.held -= cost

    def opened(self) -> None:
        """Let the peer go on sending."""
        self._peer.pump()
