"""What travels on a virtual network, and one end of a connection that sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_host import Host

__all__ = ["Line", "Packet"]


class Packet:
    """Something on its way.

    Args:
        transport: Name of the transport.
        what: What it is to the transport.
        source: Address of its sender.
        target: Whom it is for.
        length: Bytes of payload.
        arrive: Called with the host that has the target address, once for each copy.
        unreachable: Called, in a later turn, if it cannot get there and the sender
            learns of it; with the reason.
        number: For the log.
        again: Whether it is sent anew.
    """

    __slots__ = (
        "again",
        "arrive",
        "length",
        "number",
        "source",
        "target",
        "transport",
        "unreachable",
        "what",
    )

    def __init__(
        self,
        transport: str,
        what: str,
        source: Address,
        target: Address,
        length: int,
        *,
        arrive: Callable[[Host], None],
        unreachable: Callable[[str], None],
        number: int = -1,
        again: bool = False,
    ) -> None:
        self.transport = transport
        self.what = what
        self.source = source
        self.target = target
        self.length = length
        self.arrive = arrive
        self.unreachable = unreachable
        self.number = number
        self.again = again


class Line:
    """From one address to another, in packets that a peer is called with.

    Args:
        host: Which sends.
        kind: Name of the transport.
        here: Its address.
        there: The other one.
        knock: Called with the host that a packet has come to while there is no peer.
        unreachable: As for :class:`Packet`.

    Attributes:
        peer: Whom packets are for, once that is known.
    """

    def __init__(
        self,
        host: Host,
        kind: str,
        here: Address,
        there: Address,
        *,
        peer: Any,
        knock: Callable[[Host], None],
        unreachable: Callable[[str], None],
    ) -> None:
        self.peer = peer
        self._host = host
        self._kind = kind
        self._here = here
        self._there = there
        self._knock = knock
        self._unreachable = unreachable

    def send(
        self,
        what: str,
        come: Callable[[Any], None],
        *,
        length: int = 0,
        number: int = -1,
        again: bool = False,
    ) -> float:
        """Send a packet; ``come(peer)`` is called when it has arrived.

        Returns:
            When its last byte has left.
        """

        def arrive(host: Host) -> None:
            if self.peer is None:
                self._knock(host)
            else:
                come(self.peer)

        packet = Packet(
            self._kind,
            what,
            self._here,
            self._there,
            length,
            arrive=arrive,
            unreachable=self._unreachable,
            number=number,
            again=again,
        )
        return self._host.network.send(self._host, packet)

    def answer(self, host: Host, what: str, come: Callable[[Host], None]) -> None:
        """Let ``host``, at the other end, send a packet without anything behind it."""
        answer = Packet(
            self._kind,
            what,
            self._there,
            self._here,
            0,
            arrive=come,
            unreachable=lambda why: None,
        )
        host.network.send(host, answer)

    @property
    def largest(self) -> int:
        """Bytes of payload that fit into a packet."""
        way = self._host.network.way(self._host, self._here[0], self._there[0])
        return way.conditions.mtu - way.conditions.overhead

    @property
    def round_trip(self) -> float:
        """Seconds there and back at most, for a packet that waits for nobody."""
        network = self._host.network
        there = network.way(self._host, self._here[0], self._there[0]).conditions
        peer = network.host_at(self._there[0]) or self._host
        back = network.way(peer, self._there[0], self._here[0]).conditions
        return there.longest + back.longest
