"""IP addresses of Endpoints, and the socket module's: for transports that run over IP."""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taps_core.model.endpoints import LocalEndpoint, RemoteEndpoint
from taps_core.model.errors import EstablishmentError, Reason
from taps_core.model.properties import Preference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

__all__ = [
    "FAR_AWAY",
    "SocketAddress",
    "address_family",
    "ask_generic_netlink",
    "ask_socket",
    "bind_socket",
    "choose_source",
    "interface_index",
    "open_bound_socket",
    "set_hop_limit",
    "show_address",
    "socket_address",
    "socket_local_endpoint",
    "socket_remote_endpoint",
    "source_address",
]

M = TypeVar("M")

#: Addresses that nobody has (RFC 5737, RFC 3849): this machine's own, as it would go there,
#: tells networks apart.
FAR_AWAY: Final = ("192.0.2.1", "2001:db8::1")
#: What ``connect`` and ``bind`` of an IP socket take.
SocketAddress: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"

_MAPPED: Final = "::ffff:"
#: Beginnings of fe80::/10.
_LINK_LOCAL: Final = ("fe8", "fe9", "fea", "feb")
#: Options for hops to single peers and to groups, by family of the packets.
_HOPS: Final = {
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
}
_GROUP_HOPS: Final = {
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS),
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
}
#: Compiled out; switched off by sysctl; no such address on any interface.
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def address_family(address: str) -> socket.AddressFamily:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def socket_address(address: str, port: int, interface: str | None) -> SocketAddress:
    """What ``connect`` and ``bind`` take.

    Args:
        address: Numeric.
        port: 0 where the system is to choose.
        interface: Name or index of the zone; only IPv6 has zones.

    Raises:
        EstablishmentError: There is no such interface, or the address is link-local and none
            is named.
    """
    if ":" not in address:
        return (address, port)
    if interface is not None:
        return (address, port, 0, interface_index(interface))
    if address.startswith(_LINK_LOCAL):
        raise EstablishmentError(
            f"{address} is an address on a link: say on which, as in {address}%eth0",
            reason=Reason.INVALID_CONFIGURATION,
            detail="EINVAL",
        )
    return (address, port, 0, 0)


def interface_index(interface: str) -> int:
    """The index of an interface given by name, or by index.

    Raises:
        EstablishmentError: There is no such interface.
    """
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


def bind_socket(sock: socket.socket, local: LocalEndpoint, family: socket.AddressFamily) -> None:
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
    if address is not None and address_family(address) != family:
        raise EstablishmentError(
            f"the local address {address} is not of the peer's address family",
            reason=Reason.INVALID_CONFIGURATION,
            detail="EAFNOSUPPORT",
        )
    if local.interface is not None and not _bind_to_interface(sock, local.interface):
        address = address or _address_of(local.interface, family)
    if address is not None or local.port:
        sock.bind(socket_address(address or _wildcard(family), local.port or 0, local.interface))


def _bind_to_interface(sock: socket.socket, interface: str) -> bool:
    """Bind to the device; False where that takes rights (before Linux 5.7)."""
    # Fails with ENODEV before the more puzzling EINVAL of some systems.
    index = interface_index(interface)
    device = getattr(socket, "SO_BINDTODEVICE", None)
    if device is None:
        raise EstablishmentError(
            f"cannot bind to interface {interface}: not on this platform; "
            "give a local address instead",
            reason=Reason.INVALID_CONFIGURATION,
        )
    name = socket.if_indextoname(index)
    try:
        sock.setsockopt(socket.SOL_SOCKET, device, name.encode() + b"\0")
    except PermissionError:
        return False
    return True


def _address_of(interface: str, family: socket.AddressFamily) -> str:
    """An address of the interface: what to bind to where the device itself cannot be had.

    What is sent from it leaves by the interface that the routes say, which is this one where
    they heed the source, or where there is but one way.
    """
    from taps_core.runtime.survey import of_this_machine

    index = interface_index(interface)
    remote = FAR_AWAY[family == socket.AF_INET6]
    for each in of_this_machine().interfaces():
        found = each.sources(remote) if each.index == index else None
        if found:
            return found[0]
    raise EstablishmentError(
        f"cannot bind to interface {interface}: this takes rights here, and it has no address "
        "to bind to instead",
        reason=Reason.INVALID_CONFIGURATION,
        detail="EPERM",
    )


#: IPV6_ADDR_PREFERENCES (RFC 5014), and the values for temporary and public addresses.
_ADDRESS_PREFERENCES: Final = 72
_SOURCES: Final = {
    Preference.REQUIRE: 1,
    Preference.PREFER: 1,
    Preference.AVOID: 2,
    Preference.PROHIBIT: 2,
}
_CAN_CHOOSE: Final = sys.platform == "linux"


def choose_source(sock: socket.socket, properties: Mapping[str, Any]) -> None:
    """Let the system prefer, or avoid, temporary addresses of its own for what ``sock`` sends.

    Before it is connected, and with no effect where it is bound to an address, or on IPv4
    (RFC 9622, section 6.2.13; RFC 5014). Only Linux can.

    Args:
        sock: Of IPv4 or IPv6.
        properties: With ``useTemporaryLocalAddress``.
    """
    if _CAN_CHOOSE:
        value = _SOURCES.get(properties.get("useTemporaryLocalAddress"))  # type: ignore[arg-type]  # None is none of them
        if value is not None and sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _ADDRESS_PREFERENCES, value)


def source_address(
    remote: RemoteEndpoint, local: LocalEndpoint | None, properties: Mapping[str, Any]
) -> str:
    """The address that the system would send to ``remote`` from. Nothing is sent.

    Args:
        remote: Resolved: with an address.
        local: As for a connection.
        properties: With ``useTemporaryLocalAddress``.

    Raises:
        EstablishmentError, OSError: It cannot be reached from there.
    """
    assert remote.ip_address is not None
    family = address_family(remote.ip_address)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        choose_source(probe, properties)
        if local is not None:
            bind_socket(probe, local.with_port(None), family)
        # A datagram socket that is connected sends nothing; any port will do.
        probe.connect(socket_address(remote.ip_address, remote.port or 9, remote.interface))
        return str(probe.getsockname()[0].partition("%")[0])


def set_hop_limit(sock: socket.socket, hop_limit: int, *, to_groups: bool = False) -> None:
    """How many hops what is sent may go: the TTL of IPv4, the Hop Limit of IPv6.

    Args:
        sock: An IPv6 one may have IPv4 peers too.
        hop_limit: 0 to 255; 0 stays on this machine, which IPv4 offers for groups only.
        to_groups: Whether it is for what goes to multicast groups, or to single peers.

    Raises:
        OSError: The system refused.
    """
    options = _GROUP_HOPS if to_groups else _HOPS
    for family in (socket.AF_INET6, socket.AF_INET):
        if sock.family in (family, socket.AF_INET6):
            sock.setsockopt(*options[family], hop_limit)


def ask_socket(sock: socket.socket, level: int, option: int, given: bytes) -> bytes:
    """``getsockopt`` that reads what it is given; Python's gives the system no input.

    Args:
        sock: Any.
        level: As ``getsockopt`` takes it.
        option: Likewise.
        given: What is asked, and as many bytes as the answer may have.

    Returns:
        As many bytes as ``given``, with the answer in them.

    Raises:
        OSError: The system refused.
    """
    import ctypes  # takes milliseconds, for options that few sockets are asked for

    libc = _libc()
    buffer = ctypes.create_string_buffer(given, len(given))
    size = ctypes.c_uint(len(given))
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(size)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw


def ask_generic_netlink(family: str, message: type[M], command: int) -> list[M]:
    """What a part of the Linux kernel lists for a command: a dump of generic netlink.

    Nobody is waited for, so it may be called on a loop.

    Args:
        family: Its name: ``"mptcp_pm"``, …
        message: pyroute2's class of its messages, a ``genlmsg``.
        command: Its number for the command.

    Returns:
        The messages of the answer, decoded.

    Raises:
        OSError: The kernel has no such family, or does not tell us.
    """
    from taps_core.runtime.netlink import ask_generic  # takes a while, and few want it

    return ask_generic(family, message, command)


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _wildcard(family: int) -> str:
    return "::" if family == socket.AF_INET6 else "0.0.0.0"


def open_bound_socket(
    local: LocalEndpoint,
    kind: socket.SocketKind,
    protocol: int,
    prepare: Callable[[socket.socket], None],
) -> socket.socket:
    """A bound, non-blocking socket, to listen with.

    Without an address: IPv6 and IPv4 on one port (dual-stack), or IPv4 alone
    where this machine has no IPv6.

    Args:
        local: Where. Without a port the system chooses one.
        kind: ``SOCK_STREAM``, …
        protocol: As ``socket.socket`` takes it.
        prepare: Sets options before the socket is bound.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """
    address = local.ip_address
    if address is not None:
        return _open(local, address_family(address), kind, protocol, prepare)
    try:
        return _open(local, socket.AF_INET6, kind, protocol, prepare)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _open(local, socket.AF_INET, kind, protocol, prepare)


def _open(
    local: LocalEndpoint,
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    protocol: int,
    prepare: Callable[[socket.socket], None],
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, local.ip_address is not None)
        prepare(sock)
        bind_socket(sock, local, family)
        if not sock.getsockname()[1]:
            # Neither an address nor a port was named.
            sock.bind((_wildcard(family), 0))
    except BaseException:
        sock.close()
        raise
    return sock


def show_address(address: str | None, port: int | None) -> str:
    """``192.0.2.1:80`` or ``[2001:db8::1]:80``, for sentences."""
    host = f"[{address}]" if address and ":" in address else address or "*"
    return f"{host}:{port or 0}"


def socket_local_endpoint(address: Any) -> LocalEndpoint:
    """The Endpoint for a result of ``getsockname``."""
    host, port, interface = _parts(address)
    return LocalEndpoint(ip_address=host, port=port, interface=interface)


def socket_remote_endpoint(address: Any) -> RemoteEndpoint:
    """The Endpoint for a result of ``getpeername``, ``accept`` or ``recvfrom``."""
    host, port, interface = _parts(address)
    return RemoteEndpoint(ip_address=host, port=port, interface=interface)


def _parts(address: Any) -> tuple[str, int, str | None]:
    # Some event loops and systems put the zone into the address: "fe80::1%eth0".
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
