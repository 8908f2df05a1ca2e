"""UDP sockets that carry SCTP (RFC 6951): a Connection's own, and those of Listeners.

Of whoever has no association the library keeps nothing: all is in its cookie. That is good for
the token that stood for the peer when the INIT came, so that those who came last keep theirs.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    EstablishmentError,
    LocalEndpoint,
    Reason,
    address_family,
    bind_socket,
    choose_source,
    open_bound_socket,
    set_hop_limit,
    socket_address,
    socket_local_endpoint,
    socket_remote_endpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taps_core.plugin import RemoteEndpoint
    from taps_sctp.user_engine import UserEngine
    from taps_sctp.userland import Userland


__all__ = ["ENCAPSULATION_PORT", "USUAL_PORT", "OwnSocket", "Peer", "SharedSocket", "udp_port"]

#: An Endpoint's identifier: the UDP port that SCTP is carried over. Its port is SCTP's.
ENCAPSULATION_PORT: Final = "_taps.encapsulationPort"
#: IANA's for SCTP over UDP.
USUAL_PORT: Final = 9899

#: Datagrams in one turn of the loop.
_READS: Final = 64
_READ_SIZE: Final = 65536
_ANCILLARY: Final = 256
#: Bytes that the system may hold, as far as it allows so many.
_BUFFER: Final = 4 * 1024 * 1024
_SNDBUFFORCE: Final = 32
_RCVBUFFORCE: Final = 33
#: The common header and that of a chunk.
_SHORTEST: Final = 16
_INIT: Final = 1
_INITIATING: Final = frozenset({_INIT, 2})
#: Where their parameters begin, in a packet.
_PARAMETERS: Final = 32
#: Peers that a socket remembers who have sent an INIT and have no association.
HALF_OPEN: Final = 1024
#: What the network says of a peer that cannot be reached.
_UNREACHABLE: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM}
)
_ANY: Final = (None, "::", "0.0.0.0")
#: Linux: the local address of a datagram, and how to ask for it.
_PKTINFO: Final = (socket.IPPROTO_IP, 8)
_RECVPKTINFO6: Final = (socket.IPPROTO_IPV6, 49)
_PKTINFO6: Final = (socket.IPPROTO_IPV6, 50)


def udp_port(identifiers: Mapping[str, Any], usual: int) -> int:
    """The UDP port that an Endpoint names.

    Raises:
        EstablishmentError: It is no port.
    """
    port = identifiers.get(ENCAPSULATION_PORT, usual)
    if type(port) is not int or not 0 <= port <= 65535:
        raise EstablishmentError(
            f"{ENCAPSULATION_PORT} is a UDP port, 0 to 65535, not {port!r}",
            reason=Reason.INVALID_CONFIGURATION,
        )
    return port


def ports_of(packet: bytes) -> tuple[int, int]:
    """SCTP's: whence and whereto."""
    source, destination = struct.unpack_from("!HH", packet)
    return source, destination


def is_sound(packet: bytes) -> bool:
    """Whether the library can be trusted with it.

    libusrsctp 0.9.5 never comes to the end of an INIT whose parameters have no length.
    """
    if len(packet) < _SHORTEST:
        return False
    if packet[12] not in _INITIATING:
        return True
    at, end = _PARAMETERS, len(packet)
    while at + 4 <= end:
        length = int.from_bytes(packet[at + 2 : at + 4])
        if length < 4:
            return False
        at += length + 3 & ~3
    return True


class Peer:
    """Whoever sends from one UDP socket, for as long as there are associations with it.

    Attributes:
        token: What it is called to the library.
        local: This end as it sees it, with the UDP port; without SCTP's.
        engines: Its associations.
    """

    def __init__(
        self,
        land: Userland,
        way: Callable[[Any, int], None],
        local: LocalEndpoint,
        gone: Callable[[Peer], None],
    ) -> None:
        self._land = land
        self._gone = gone
        self.token = land.take_token(way)
        self.local = local
        self.engines: set[UserEngine] = set()

    def left(self, engine: UserEngine) -> None:
        """An association is over."""
        self.engines.discard(engine)
        self.free_unused()

    def free_unused(self) -> None:
        """Forget it, if it has no association."""
        if not self.engines:
            self._land.return_token(self.token)
            self._gone(self)


class _Carrier:
    """A UDP socket on the library's loop."""

    def __init__(self, land: Userland, sock: socket.socket) -> None:
        assert land.loop is not None
        self._land = land
        self._loop = land.loop
        self._sock = sock
        self._class = 0
        self._loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        raise NotImplementedError

    def _mark(self, traffic_class: int) -> None:
        """What is sent from now on has it."""
        self._class = traffic_class
        for option in ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, 67)):
            # An IPv4 socket has only the first.
            with contextlib.suppress(OSError):
                self._sock.setsockopt(*option, traffic_class)

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


class OwnSocket(_Carrier):
    """One that a Connection has for itself, connected.

    Args:
        land: The library.
        remote: Its address; its UDP port is ``there``.
        local: Where from; ``None``: the system chooses.
        there: The peer's UDP port.
        properties: ``useTemporaryLocalAddress`` may decide.

    Attributes:
        peer: The other end.
        port: SCTP's port of this end, when it is known. What is for another is not taken.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """

    def __init__(
        self,
        land: Userland,
        remote: RemoteEndpoint,
        local: LocalEndpoint | None,
        there: int,
        properties: Mapping[str, Any],
    ) -> None:
        assert remote.ip_address is not None
        family = address_family(remote.ip_address)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            _prepare(sock, remote.hop_limit)
            choose_source(sock, properties)
            if local is not None:
                bind_socket(sock, local.with_port(udp_port(local.identifiers, 0) or None), family)
            sock.connect(socket_address(remote.ip_address, there, remote.interface))
            bound = socket_local_endpoint(sock.getsockname())
        except BaseException:
            sock.close()
            raise
        super().__init__(land, sock)
        self.port = 0
        self.peer = Peer(land, self._send, _named(bound), self._left)

    def _left(self, peer: Peer) -> None:
        self._close()

    def _send(self, packet: Any, traffic_class: int) -> None:
        if traffic_class != self._class:
            self._mark(traffic_class)
        try:
            self._sock.send(packet)
        except BlockingIOError:
            return  # no room: lost, as it could be on the way
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in _UNREACHABLE:
            for engine in self.peer.engines:
                # The library may be at work.
                self._loop.call_soon(engine.refused, error)

    def _readable(self) -> None:
        land, token = self._land, self.peer.token
        with land.busy():
            for _ in range(_READS):
                try:
                    packet = self._sock.recv(_READ_SIZE)
                except BlockingIOError:
                    return
                except OSError as error:
                    self._failed(error)
                    continue
                if is_sound(packet) and ports_of(packet)[1] == self.port:
                    land.receive(token, packet)


class SharedSocket(_Carrier):
    """One that Listeners have, and the associations that come in by it.

    Made by :meth:`at`.
    """

    _all: Final[dict[tuple[str | None, int, str | None], SharedSocket]] = {}

    def __init__(self, land: Userland, sock: socket.socket, local: LocalEndpoint) -> None:
        super().__init__(land, sock)
        self.local = _named(socket_local_endpoint(sock.getsockname()), local.interface)
        number = self.local.identifiers[ENCAPSULATION_PORT]
        self._key = (local.ip_address, number, local.interface)
        self._all[self._key] = self
        #: Whether it has several addresses.
        self._several = local.ip_address in _ANY
        #: Ports of SCTP that somebody listens on.
        self._doors: set[int] = set()
        self._peers: dict[Any, Peer] = {}
        #: Those of them that have no association yet, the oldest first.
        self._half_open: dict[Peer, None] = {}
        #: All, by token.
        self._known: dict[int, tuple[Any, Peer]] = {}

    @classmethod
    def at(cls, land: Userland, local: LocalEndpoint) -> SharedSocket:
        """The one for a Local Endpoint.

        Raises:
            EstablishmentError, OSError: It cannot be opened.
        """
        number = udp_port(local.identifiers, USUAL_PORT)
        found = cls._all.get((local.ip_address, number, local.interface))
        if found is not None:
            return found

        def prepare(sock: socket.socket) -> None:
            _prepare(sock, local.hop_limit)
            if local.ip_address in _ANY:
                sock.setsockopt(*_PKTINFO, 1)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(*_RECVPKTINFO6, 1)

        sock = open_bound_socket(local.with_port(number), socket.SOCK_DGRAM, 0, prepare)
        return cls(land, sock, local)

    def add(self, port: int) -> None:
        """Somebody listens on a port of SCTP."""
        self._doors.add(port)

    def remove(self, port: int) -> None:
        """He listens no more."""
        self._doors.discard(port)
        self.free_unused()

    def is_open_for(self, port: int) -> bool:
        """Whether somebody does."""
        return port in self._doors

    def free_unused(self) -> None:
        """Close it, if it has neither listeners nor associations."""
        if not self._doors and len(self._peers) == len(self._half_open):
            self._all.pop(self._key, None)
            self._close()
            for peer in tuple(self._half_open):
                peer.free_unused()

    def peer(self, token: int) -> Peer | None:
        """Who has an association now; ``None``: nobody who is known here."""
        found = self._known.get(token)
        if found is None:
            return None
        self._half_open.pop(found[1], None)
        return found[1]

    def remote_of(self, token: int, port: int) -> RemoteEndpoint:
        """The other end of an association."""
        (address, _), _ = self._known[token]
        remote = socket_remote_endpoint(address)
        return remote.with_identifier(ENCAPSULATION_PORT, remote.port).with_port(port)

    def _readable(self) -> None:
        with self._land.busy():
            for _ in range(_READS):
                try:
                    packet, ancillary, _, address = self._sock.recvmsg(_READ_SIZE, _ANCILLARY)
                except BlockingIOError:
                    return
                except OSError:
                    continue  # of some earlier packet to somebody
                if not is_sound(packet):
                    continue
                control = _answer_from(ancillary) if self._several else ()
                peer = self._peers.get((address, control))
                if peer is None:
                    self._look_at(packet, address, control)
                else:
                    self._land.receive(peer.token, packet)

    def _look_at(self, packet: bytes, address: Any, control: tuple[Any, ...]) -> None:
        """A packet of somebody unknown."""
        port = ports_of(packet)[1]
        if port in self._doors and packet[12] == _INIT:
            self._land.receive(self._remember(address, control).token, packet)
        elif port in self._doors or not self._is_elsewhere(port):
            self._land.receive_stranger(packet, self._way(address, control))

    def _remember(self, address: Any, control: tuple[Any, ...]) -> Peer:
        if len(self._half_open) >= HALF_OPEN:
            next(iter(self._half_open)).free_unused()
        way = self._way(address, control)
        peer = Peer(self._land, way, self._seen_at(control), self._forget)
        self._peers[address, control] = peer
        self._known[peer.token] = ((address, control), peer)
        self._half_open[peer] = None
        return peer

    def _is_elsewhere(self, port: int) -> bool:
        """Whether somebody listens on that port of SCTP, by another UDP socket."""
        return any(each.is_open_for(port) for each in self._all.values())

    def _forget(self, peer: Peer) -> None:
        key, _ = self._known.pop(peer.token)
        del self._peers[key]
        if peer in self._half_open:
            del self._half_open[peer]
        else:
            self.free_unused()

    def _seen_at(self, control: tuple[Any, ...]) -> LocalEndpoint:
        if not control:
            return self.local
        ((_, kind, data),) = control
        family, at = (socket.AF_INET, 4) if kind == _PKTINFO[1] else (socket.AF_INET6, 0)
        size = 4 if family == socket.AF_INET else 16
        text = socket.inet_ntop(family, data[at : at + size])
        here = socket_local_endpoint((text, 0))
        return self.local.with_ip_address(here.ip_address)

    def _way(self, address: Any, control: tuple[Any, ...]) -> Callable[[Any, int], None]:
        send = self._sock.sendmsg

        def way(packet: Any, traffic_class: int) -> None:
            if traffic_class != self._class:
                self._mark(traffic_class)
            # What does not leave is lost, as it could be on the way.
            with contextlib.suppress(OSError):
                send((packet,), control, 0, address)

        return way


def _prepare(sock: socket.socket, hop_limit: int | None) -> None:
    sock.setblocking(False)
    for forced, usual in ((_SNDBUFFORCE, socket.SO_SNDBUF), (_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER // 2)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, usual, _BUFFER // 2)
    if hop_limit is not None:
        set_hop_limit(sock, hop_limit)


def _named(bound: LocalEndpoint, interface: str | None = None) -> LocalEndpoint:
    """What a UDP socket is bound to, with its port as what it is here."""
    named = bound.with_identifier(ENCAPSULATION_PORT, bound.port).with_port(None)
    return named if interface is None else named.with_interface(interface)


def _answer_from(ancillary: list[tuple[int, int, bytes]]) -> tuple[tuple[int, int, bytes], ...]:
    """What lets an answer leave from the address that a packet came to."""
    for level, kind, data in ancillary:
        if (level, kind) == _PKTINFO:
            # ``=i4s4s``: interface, address to send from, destination of what came.
            return ((level, kind, struct.pack("=i4s4x", 0, data[4:8])),)
        if (level, kind) == _PKTINFO6:
            index = data[16:20] if data[:2] in (b"\xfe\x80",) else bytes(4)
            return ((level, kind, data[:16] + index),)
    return ()
