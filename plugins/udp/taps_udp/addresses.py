"""Between Endpoints and the socket module's address tuples."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from taps_core.plugin import EstablishmentError, LocalEndpoint, Reason, RemoteEndpoint

if TYPE_CHECKING:
    from typing import TypeAlias

    SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

__all__ = ["bind", "family_of", "local_endpoint", "remote_endpoint", "show", "socket_address"]

_MAPPED = "::ffff:"


def family_of(address: str) -> socket.AddressFamily:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def socket_address(address: str, port: int, interface: str | None) -> SocketAddress:
    """What ``connect`` and ``bind`` take.

    Args:
        address: Numeric.
        port: 0 where the system is to choose.
        interface: Name or index of the zone; only IPv6 has zones.

    Raises:
        EstablishmentError: There is no such interface.
    """
    if ":" not in address:
        return (address, port)
    return (address, port, 0, 0 if interface is None else _index(interface))


def _index(interface: str) -> int:
    if interface.isdigit():
        return int(interface)
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise EstablishmentError(
            f"there is no network interface {interface!r}",
            reason=Reason.INVALID_CONFIGURATION,
            detail="ENODEV",
        ) from error


def bind(sock: socket.socket, local: LocalEndpoint, family: socket.AddressFamily) -> None:
    """Bind to what ``local`` names: interface, address, port.

    Args:
        sock: Not bound yet.
        local: The interface is a hard binding (RFC 9622, section 6.1.2). Without
            an address or a port the system chooses.
        family: That of the socket.

    Raises:
        EstablishmentError: The address is of another family, there is no such
            interface, or this platform cannot bind to one.
        OSError: The system refused.
    """
    address = local.ip_address
    if address is not None and family_of(address) != family:
        raise EstablishmentError(
            f"the local address {address} is not of the peer's address family",
            reason=Reason.INVALID_CONFIGURATION,
            detail="EAFNOSUPPORT",
        )
    if local.interface is not None:
        _bind_to_interface(sock, local.interface)
    if address is not None or local.port:
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        sock.bind(socket_address(address or wildcard, local.port or 0, local.interface))


def _bind_to_interface(sock: socket.socket, interface: str) -> None:
    # Fails with ENODEV before the more puzzling EINVAL of some systems.
    index = _index(interface)
    device = getattr(socket, "SO_BINDTODEVICE", None)
    if device is None:
        raise EstablishmentError(
            f"cannot bind to interface {interface}: not on this platform; "
            "give a local address instead",
            reason=Reason.INVALID_CONFIGURATION,
        )
    name = socket.if_indextoname(index)
    sock.setsockopt(socket.SOL_SOCKET, device, name.encode() + b"\0")


def show(address: str | None, port: int | None) -> str:
    """``192.0.2.1:80`` or ``[2001:db8::1]:80``, for sentences."""
    host = f"[{address}]" if address and ":" in address else address or "*"
    return f"{host}:{port or 0}"


def local_endpoint(address: Any) -> LocalEndpoint:
    """The Endpoint for a result of ``getsockname``."""
    host, port, interface = _parts(address)
    return LocalEndpoint(ip_address=host, port=port, interface=interface)


def remote_endpoint(address: Any) -> RemoteEndpoint:
    """The Endpoint for the sender of a datagram."""
    host, port, interface = _parts(address)
    return RemoteEndpoint(ip_address=host, port=port, interface=interface)


def _parts(address: Any) -> tuple[str, int, str | None]:
    # Some systems put the zone into the address: "fe80::1%eth0".
    host, _, zone = address[0].partition("%")
    if host.startswith(_MAPPED) and "." in host:
        # An IPv4 peer of a dual-stack socket is an IPv4 peer to everybody above.
        return host.removeprefix(_MAPPED), address[1], None
    if not zone and len(address) == 4 and address[3]:
        try:
            zone = socket.if_indextoname(address[3])
        except OSError:  # the interface has gone in the meantime
            zone = str(address[3])
    return host, address[1], zone or None
