"""One socket that many remotes send to, and a flow for each of them.

There is no handshake, so anybody can make a flow with one datagram, from any
address that he likes to write into it. Hence two bounds: of flows that were never
answered only the newest ones are kept, and one that nobody has taken ends when
nothing is heard of it. A flow is taken when it is started: then a Connection has
it, and how long that lives is the application's decision.
"""

from __future__ import annotations

import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    ListeningFlow,
    address_family,
    open_bound_socket,
    socket_local_endpoint,
    socket_remote_endpoint,
)
from taps_udp.drops import BUSY, DISPLACED, PAUSED, UNREAD, Drops
from taps_udp.errors import evicted, expired
from taps_udp.flow import HELD, OVERHEAD, UDPFlow
from taps_udp.lite import UDPLITE, LiteSocket
from taps_udp.multicast import join
from taps_udp.options import answer_from, configure, path_mtu, source_address, wants_ecn
from taps_udp.port import READ_SIZE, Port

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from taps_core.plugin import ListenRequest, LocalEndpoint, PartTuple, RemoteEndpoint
    from taps_udp.options import Control

__all__ = ["UDPListeningFlow", "open_listening_socket"]

_ANY: Final = (None, "::", "0.0.0.0")


def open_listening_socket(request: ListenRequest, protocol: int) -> socket.socket:
    """A bound, non-blocking socket for ``request``; at a group it has joined it.

    Args:
        request: What was asked for.
        protocol: Number of UDP or of UDP-Lite.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """
    local, group = request.local, request.local.multicast_group

    def prepare(sock: socket.socket) -> None:
        if group is not None:
            # Without a group a second socket could then take the port over.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        any_address = group is None and local.ip_address in _ANY
        configure(
            sock,
            request.properties,
            any_address=any_address,
            hop_limit=local.hop_limit,
            to_groups=group is not None,
        )

    # Bound to the group, it gets nothing but what is sent there.
    where = local if group is None else local.with_ip_address(group)
    sock = open_bound_socket(where, socket.SOCK_DGRAM, protocol, prepare)
    if protocol == UDPLITE:
        sock = LiteSocket(sock.family, sock.detach())
    if group is not None:
        try:
            join(sock, local)
        except BaseException:
            sock.close()
            raise
    return sock


class UDPListeningFlow(Port, ListeningFlow):
    """An open door, and after it was closed the socket of the flows that live on.

    Args:
        loop: Where it runs.
        sock: As from :func:`open_listening_socket`.
        request: What ``Transport.listen`` was given.
        most_unanswered: How many flows there are to which nothing was sent.
        idle: Seconds without a datagram after which a flow ends that nobody started.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        request: ListenRequest,
        *,
        most_unanswered: int,
        idle: float,
    ) -> None:
        self._request = request
        self._most_unanswered = most_unanswered
        self._idle = idle
        asked = request.local
        if asked.multicast_group is not None:
            local = asked
        else:
            local = socket_local_endpoint(sock.getsockname())
            if asked.interface is not None:
                local = local.with_interface(asked.interface)
        self._local = local
        self._one_way = asked.multicast_group is not None
        self._several = not self._one_way and asked.ip_address in _ANY
        #: By the remote's address and, where the socket has several, what stands for ours.
        self._flows: dict[Any, UDPFlow] = {}
        #: To which nothing was sent yet, those first that are displaced first.
        self._unanswered: dict[UDPFlow, None] = {}
        #: Of unknown remotes, while paused.
        self._knocks: deque[tuple[Any, list[Control], PartTuple]] = deque()
        self._held = 0
        self._paused = self._closed = False
        self._expiry: asyncio.TimerHandle | None = None
        self._drops = Drops(loop, sock, str(local))
        super().__init__(loop, sock, annotated=self._several or wants_ecn(request.properties))

    # -- the door

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """With the address and port really bound."""
        return self._local

    @property
    def dropped(self) -> Mapping[str, int]:
        """Datagrams, by where: ``kernel``, ``paused``, ``unread``; ``displaced`` flows."""
        return self._drops.by_cause()

    def pause(self) -> None:
        """Hold datagrams of unknown remotes, up to a bound."""
        self._paused = True

    def resume(self) -> None:
        """Look at them again."""
        if self._paused and not self._closed:
            self._paused = False
            self.loop.call_soon(self._answer_knocks)

    async def close(self) -> None:
        """Take no unknown remotes. The port is free when the last flow is over."""
        self._closed = True
        self._knocks.clear()
        self._leave()

    def _leave(self) -> None:
        if self._closed and not self._flows:
            if self._expiry is not None:
                self._expiry.cancel()
            self._drops.end()
            self.release()

    # -- as a port

    def carry(self, flow: UDPFlow, datagrams: list[bytes], control: Sequence[Control]) -> None:
        """Whoever is answered is no stranger any more."""
        self._unanswered.pop(flow, None)
        super().carry(flow, datagrams, control)

    def forget(self, flow: UDPFlow) -> None:
        """The next datagram of this remote makes a new flow."""
        self._unanswered.pop(flow, None)
        del self._flows[(flow.address, flow.control) if self._several else flow.address]
        self._leave()

    def carry_one(self, flow: UDPFlow, datagram: bytes) -> None:
        """Likewise."""
        self._unanswered.pop(flow, None)
        super().carry_one(flow, datagram)

    def bare_read(self) -> Callable[[], Any]:
        """Of whom it is matters."""
        return partial(self.sock.recvfrom, READ_SIZE)

    def deliver_bare(self, got: list[Any]) -> None:
        """Nothing is known but the sender."""
        self.deliver([(address, [], (data, None, True)) for data, address in got])

    def deliver(self, arrived: list[tuple[Any, list[Control], PartTuple]]) -> None:
        """To each flow once, with all that is its; to unknown remotes the door."""
        now = self.loop.time()
        if len(arrived) >= BUSY:
            self._drops.look(now)
        batches: dict[UDPFlow, list[PartTuple]] = {}
        for each in arrived:
            address, ancillary, part = each
            key = (address, answer_from(ancillary)) if self._several else address
            flow = self._flows.get(key)
            if flow is None:
                self._knock(each, now)
                continue
            flow.heard = now
            if flow in batches:
                batches[flow].append(part)
            else:
                batches[flow] = [part]
        for flow, parts in batches.items():
            if self._one_way and flow in self._unanswered:
                # None of these is ever answered: the one that is silent longest goes first.
                self._unanswered[flow] = self._unanswered.pop(flow)
            flow.arrived(parts)

    def unread(self) -> None:
        """Count it for the log."""
        self._drops.count(UNREAD)

    def concerned(self, address: Any) -> UDPFlow | None:
        """The error queue does not say from which of our addresses: any flow will do."""
        if not self._several:
            return self._flows.get(address)
        for flow in self._flows.values():
            if flow.address == address:
                return flow
        return None

    # -- unknown remotes

    def _knock(self, knock: tuple[Any, list[Control], PartTuple], now: float) -> None:
        if self._closed:
            return
        if not self._paused:
            self._answer(knock, now)
            return
        cost = len(knock[2][0]) + OVERHEAD
        if self._held + cost > HELD:
            self._drops.count(PAUSED)
        else:
            self._held += cost
            self._knocks.append(knock)

    def _answer_knocks(self) -> None:
        while self._knocks and not self._paused:
            knock = self._knocks.popleft()
            self._held -= len(knock[2][0]) + OVERHEAD
            # Perhaps known by now.
            self.deliver([knock])

    def _answer(self, knock: tuple[Any, list[Control], PartTuple], now: float) -> None:
        address, ancillary, part = knock
        remote = socket_remote_endpoint(address)
        control = answer_from(ancillary) if self._several else ()
        admitted = None
        if self._request.door is not None:
            reply = partial(self._reply, address, control)
            admitted = self._request.door.admit(part[0], remote, reply)
            if admitted is None:
                return
        flow = self._make_flow(address, remote, control)
        flow.heard = now
        self._flows[(address, control) if self._several else address] = flow
        self._unanswered[flow] = None
        flow.arrived([part])
        if self._expiry is None:
            self._expiry = self.loop.call_later(self._idle, self._expire)
        try:
            self._request.incoming(flow, admitted)
        except Exception as error:  # noqa: BLE001  # it costs that flow, and no other
            flow.abort()
            self.loop.call_exception_handler(
                {"message": f"the taker of {self._local} raised", "exception": error}
            )
        # Only now: whoever was turned away takes nobody's place.
        if len(self._unanswered) > self._most_unanswered:
            oldest = next(iter(self._unanswered))
            self._drops.count(DISPLACED)
            oldest.end(evicted(str(oldest.remote_endpoint), self._most_unanswered))

    def _make_flow(
        self, address: Any, remote: RemoteEndpoint, control: tuple[Control, ...]
    ) -> UDPFlow:
        local = self._local
        if control:
            here = socket_local_endpoint((source_address(control), local.port))
            local = here if local.interface is None else here.with_interface(local.interface)
        assert remote.ip_address is not None
        return UDPFlow(
            self,
            self._request.properties,
            local=local,
            remote=remote,
            address=address,
            family=address_family(remote.ip_address),
            control=control,
            path_limit=_path_limit,
        )

    def _reply(self, address: Any, control: Sequence[Control], data: bytes) -> None:
        """Of a door. It keeps no state, so what does not leave now is lost."""
        try:
            self._send(data, control, address)
        except OSError:
            return

    def _expire(self) -> None:
        now = self.loop.time()
        self._expiry = None
        untaken = [flow for flow in self._unanswered if not flow.started]
        for flow in untaken:
            if now - flow.heard >= self._idle:
                flow.end(expired(str(flow.remote_endpoint), self._idle))
        rest = [flow.heard for flow in self._unanswered if not flow.started]
        if rest:
            self._expiry = self.loop.call_at(min(rest) + self._idle, self._expire)


def _path_limit(flow: UDPFlow) -> int | None:
    """Ask by a socket that is connected: that of the listener has no path."""
    remote = flow.remote_endpoint
    with socket.socket(socket.AddressFamily(flow.family), socket.SOCK_DGRAM) as probe:
        try:
            address = flow.address
            if flow.family == socket.AF_INET:
                address = (remote.ip_address, remote.port)
            probe.connect(address)
        except OSError:
            return None
        return path_mtu(probe, flow.family)
