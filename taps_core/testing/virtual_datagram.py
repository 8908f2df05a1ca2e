"""Datagrams on a virtual network: what DTLS over UDP is to the layers above."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from taps_core.model.capabilities import Capabilities, Support
from taps_core.model.events import SoftError
from taps_core.model.layers import Transport
from taps_core.model.properties import Preference
from taps_core.testing.memory_datagram import (
    DatagramWay,
    MemoryDatagramFlow,
    MemoryDatagramListener,
    arrive,
)
from taps_core.testing.virtual_packet import Packet
from taps_core.testing.virtual_stream import PROTECTION

if TYPE_CHECKING:
    from taps_core.model.layers import ConnectRequest, ListenRequest
    from taps_core.testing.ports import Address
    from taps_core.testing.virtual_host import Host

__all__ = ["VirtualDatagram"]


class _VirtualWay(DatagramWay):
    """From an address of a host to another one, in packets."""

    def __init__(self, host: Host, kind: str, source: Address, target: Address) -> None:
        self._host = host
        self._kind = kind
        self._source = source
        self._target = target
        #: Who is told that the target cannot be reached.
        self.flow: MemoryDatagramFlow | None = None

    @property
    def max_length(self) -> int:
        """What fits into a packet: nothing is fragmented."""
        way = self._host.network.way(self._host, self._source[0], self._target[0])
        return way.conditions.mtu - way.conditions.overhead

    def carry(self, datagram: bytes) -> None:
        """Send it as a packet."""
        packet = Packet(
            self._kind,
            "datagram",
            self._source,
            self._target,
            len(datagram),
            arrive=lambda host: self._arrive(host, datagram),
            unreachable=self._unreachable,
        )
        self._host.network.send(self._host, packet)

    def _arrive(self, host: Host, datagram: bytes) -> None:
        arrive(host, self._kind, datagram, self._source, self._target)

    def _unreachable(self, why: str) -> None:
        if self.flow is not None:
            sentence = f"{os.strerror(errno.EHOSTUNREACH)}: {self._target[0]}: {why}"
            self.flow.tell(SoftError(OSError(errno.EHOSTUNREACH, sentence)))


class VirtualDatagram(Transport):
    """Transport ``virtual-datagram``: unconnected, unreliable, unordered datagrams; secure.

    A Message above the path's MTU is refused (MESSAGE_TOO_LARGE). What is sent to
    where nobody listens is gone; SoftErrors tell of a path that is down, on a
    Connection that wants them.

    Args:
        host: On which it is.
        queue_size: As for :class:`~taps_core.testing.MemoryDatagram`.
    """

    name = "virtual-datagram"
    capabilities = Capabilities.datagrams(softErrorNotify=Support.OPTIONAL).but(
        protection=PROTECTION
    )

    def __init__(self, host: Host, *, queue_size: int = 256 * 1024) -> None:
        self._host = host
        self._queue_size = queue_size

    async def connect(self, request: ConnectRequest) -> MemoryDatagramFlow:
        """A flow to ``request.remote``, at once, whether or not anybody is there."""
        here, there = self._host.ends(self.name, request)
        way = _VirtualWay(self._host, self.name, here, there)
        flow = MemoryDatagramFlow(
            self._host,
            self.name,
            here,
            there,
            way=way,
            queue_size=self._queue_size,
            remote=request.remote,
        )
        if request.properties.get("softErrorNotify", Preference.NO_PREFERENCE).wanted:
            way.flow = flow
        return flow

    async def listen(self, request: ListenRequest) -> MemoryDatagramListener:
        """A listener at ``request.local``."""
        return MemoryDatagramListener(
            self._host,
            self.name,
            request,
            ways=lambda source, target: _VirtualWay(self._host, self.name, source, target),
            queue_size=self._queue_size,
        )
