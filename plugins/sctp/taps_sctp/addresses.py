"""Which addresses an association has: this end's, and the peer's.

SCTP names addresses in INIT and INIT ACK, later in ASCONF (RFC 5061). What the peer names
is used with ``multipath`` other than Disabled, and only then does this end name more than
one, if ``advertisesAltaddr`` allows it. Which Remote Endpoints belong to the peer is not
for us to know: those that its INIT ACK does not name are dropped by the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.plugin import (
    LocalEndpoint,
    Multipath,
    PropertyError,
    address_family,
    bind_socket,
    choose_source,
    socket_address,
)
from taps_sctp import linux

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from taps_core.plugin import RemoteEndpoint

__all__ = [
    "PathInfo",
    "Paths",
    "add_addresses",
    "bind_all",
    "connect_to",
    "family_of",
    "follow_system",
    "local_addresses",
    "names_many",
    "paths",
    "peer_addresses",
    "remove_addresses",
    "source_for",
    "together",
    "uses_many",
]

#: Any: a datagram socket that is connected sends nothing.
_DISCARD: Final = 9
#: How an IPv4 address is written for a socket of IPv6.
_MAPPED: Final = "::ffff:"


class PathInfo(NamedTuple):
    """An address of the peer, as the kernel sees it now."""

    address: str
    state: str
    """``"active"``, ``"inactive"``, ``"potentially-failed"`` or ``"unconfirmed"``."""
    primary: bool
    """Whether it is preferred."""
    round_trip_time: float
    """Seconds, smoothed."""
    retransmission_timeout: float
    """Seconds."""
    mtu: int
    """Bytes of a packet."""


class Paths(NamedTuple):
    """The addresses of an association: what ``Connection.find(Paths)`` gives."""

    local: tuple[str, ...]
    """This end's."""
    remote: tuple[PathInfo, ...]
    """The peer's."""


def uses_many(properties: Mapping[str, Any]) -> bool:
    """Whether further addresses of the peer are used."""
    return properties.get("multipath", Multipath.DISABLED) is not Multipath.DISABLED


def names_many(properties: Mapping[str, Any]) -> bool:
    """Whether the peer is told of further addresses of this end."""
    return uses_many(properties) and properties.get("advertisesAltaddr", False) is True


def together(
    first: LocalEndpoint | RemoteEndpoint, others: Iterable[LocalEndpoint | RemoteEndpoint]
) -> list[Any]:
    """``first``, and those of ``others`` that one association can have beside it.

    An association has one port number at each end. An address that has a meaning on one
    link only, or an end that is bound to an interface, has no others.
    """
    if first.ip_address is None or first.interface is not None:
        return [first]
    return [
        first,
        *(
            other
            for other in others
            if other.ip_address is not None
            and other.interface is None
            and (other.port or None) == (first.port or None)
        ),
    ]


# -- before there is an association


def family_of(endpoints: Iterable[LocalEndpoint | RemoteEndpoint]) -> socket.AddressFamily:
    """Of a socket that can have all these addresses: IPv6's can have IPv4 ones, too."""
    six = any(":" in each.ip_address for each in endpoints if each.ip_address is not None)
    return socket.AF_INET6 if six else socket.AF_INET


def bind_all(sock: socket.socket, locals_: Sequence[LocalEndpoint]) -> list[LocalEndpoint]:
    """Bind to the first of ``locals_``, then to the others at its port.

    Args:
        sock: Not bound; of :func:`family_of` all of them.
        locals_: Of :func:`together`; empty: all that this machine has.

    Returns:
        Those others that the kernel bound to.

    Raises:
        EstablishmentError, OSError: The first one cannot be had.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if not locals_:
        sock.bind(("", 0))
        return []
    first, *others = locals_
    if first.ip_address is None or first.interface is not None:
        bind_socket(sock, first, socket.AddressFamily(sock.family))
        return []
    sock.bind(_address(sock, first, first.port or 0))
    port = sock.getsockname()[1]
    bound = []
    for other in others:
        # Whoever asked for it is told by a socket of its own that cannot be bound, either.
        with contextlib.suppress(OSError):
            _pysctp(sock).bindx([(other.ip_address, port)])
            bound.append(other)
    return bound


def follow_system(sock: socket.socket) -> None:
    """Tell the peer of addresses that this machine gets and loses, if ``sock`` has all of them."""
    # EINVAL: it has those that it is bound to.
    with contextlib.suppress(OSError):
        sock.setsockopt(linux.IPPROTO_SCTP, linux.AUTO_ASCONF, 1)


def source_for(
    remote: RemoteEndpoint, local: LocalEndpoint | None, properties: Mapping[str, Any]
) -> LocalEndpoint:
    """The one address to connect from, where none was named: as the system's routes say.

    Args:
        remote: Where to.
        local: What was asked for.
        properties: ``useTemporaryLocalAddress`` may decide.

    Raises:
        EstablishmentError, OSError: There is no route.
    """
    assert remote.ip_address is not None
    if local is not None and local.ip_address is not None:
        return local
    local = local or LocalEndpoint()
    family = address_family(remote.ip_address)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        choose_source(probe, properties)
        bind_socket(probe, local.with_port(None), family)
        probe.connect(socket_address(remote.ip_address, _DISCARD, remote.interface))
        host, _, zone = probe.getsockname()[0].partition("%")
    interface = zone or (remote.interface if ":" in host else None)
    return local.with_ip_address(host).with_interface(local.interface or interface)


def connect_to(sock: socket.socket, remotes: Sequence[RemoteEndpoint]) -> int:
    """Begin to connect to whoever answers at one of ``remotes``; the error's number."""
    first = remotes[0]
    assert first.port is not None
    if len(remotes) == 1:
        return sock.connect_ex(_address(sock, first, first.port))
    try:
        _pysctp(sock).connectx([(each.ip_address, first.port) for each in remotes])
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _address(sock: socket.socket, endpoint: LocalEndpoint | RemoteEndpoint, port: int) -> Any:
    address = endpoint.ip_address
    assert address is not None
    if sock.family == socket.AF_INET6 and ":" not in address:
        address = _MAPPED + address
    return socket_address(address, port, endpoint.interface)


# -- of an association


def add_addresses(sock: socket.socket, addresses: Sequence[str]) -> None:
    """Have further addresses, and tell the peer.

    Raises:
        PropertyError: The kernel refused; nothing has changed.
    """
    _change(sock, addresses, "BINDX_ADD", "add")


def remove_addresses(sock: socket.socket, addresses: Sequence[str]) -> None:
    """Give up addresses, and tell the peer.

    Raises:
        PropertyError: The kernel refused: one has to stay.
    """
    _change(sock, addresses, "BINDX_REMOVE", "remove")


def _change(sock: socket.socket, addresses: Sequence[str], action: str, verb: str) -> None:
    import sctp  # type: ignore[import-untyped]  # pysctp has no types; loaded only here

    port = sock.getsockname()[1]
    try:
        _pysctp(sock).bindx([(each, port) for each in addresses], getattr(sctp, action))
    except OSError as error:
        raise PropertyError(
            f"the system did not {verb} {', '.join(addresses)}: {error.strerror}"
        ) from error


def local_addresses(sock: socket.socket) -> list[str]:
    """Those that this end has."""
    return [_plain(address) for address, _ in _pysctp(sock).getladdrs()]


def peer_addresses(sock: socket.socket) -> list[str]:
    """Those that the peer has named, and those that it was found at."""
    return [_plain(address) for address, _ in _pysctp(sock).getpaddrs()]


def paths(sock: socket.socket) -> Paths:
    """What the kernel knows of them."""
    primary = linux.primary_address(sock)
    remote = []
    for address in peer_addresses(sock):
        try:
            state, round_trip, timeout, mtu = linux.path(sock, address)
        except OSError:  # the peer gave it up in this moment
            continue
        remote.append(PathInfo(address, state, address == primary, round_trip, timeout, mtu))
    return Paths(tuple(local_addresses(sock)), tuple(remote))


def _plain(address: str) -> str:
    return address.removeprefix(_MAPPED) if "." in address else address


def _pysctp(sock: socket.socket) -> Any:
    import sctp

    return sctp.sctpsocket_tcp(sock.family, sock)
