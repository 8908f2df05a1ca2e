"""Groups: whom a socket sends to, and what it joins (RFC 1112 and 4607; RFC 9622, 6.1.1)."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

from taps_core.plugin import EstablishmentError, Reason, address_family, interface_index

if TYPE_CHECKING:
    from taps_core.plugin import LocalEndpoint

__all__ = ["join", "send_through"]

_IP: Final = socket.IPPROTO_IP
_IPV6: Final = socket.IPPROTO_IPV6
#: Join whatever the family: an interface's index, the group, perhaps the source (RFC 3678).
_JOIN_GROUP: Final = 42
_JOIN_SOURCE_GROUP: Final = 46
#: Only what this socket joined, not what any program on this machine did.
_ALL: Final = {socket.AF_INET: (_IP, 49), socket.AF_INET6: (_IPV6, 29)}
_LEVEL: Final = {socket.AF_INET: _IP, socket.AF_INET6: _IPV6}
#: struct sockaddr_storage has 128 bytes and stands at the alignment of a long.
_STORAGE: Final = 128
_INDEX: Final = struct.Struct("@I0l")


def send_through(sock: socket.socket, interface: str | None, local: LocalEndpoint | None) -> None:
    """Choose the interface by which what is sent to groups leaves.

    Args:
        sock: Of the group's family.
        interface: By name or index; ``None``: that of ``local``, or the system chooses.
        local: An address is that of an interface.

    Raises:
        EstablishmentError: There is no such interface.
        OSError: The system refused.
    """
    name = interface if local is None else local.interface or interface
    if name is not None:
        index = interface_index(name)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            sock.setsockopt(_IP, socket.IP_MULTICAST_IF, struct.pack("@4x4xi", index))
    elif local is not None and local.ip_address is not None and sock.family == socket.AF_INET:
        sock.setsockopt(_IP, socket.IP_MULTICAST_IF, socket.inet_aton(local.ip_address))


def join(sock: socket.socket, local: LocalEndpoint) -> None:
    """Join the group of ``local``: from its source alone if it has one, at its interface.

    Without an interface it is the one that the system's routes lead to the group by.

    Args:
        sock: Bound to the group and a port.
        local: With a group.

    Raises:
        EstablishmentError: There is no such interface, the source is of another
            family, or this platform is unknown.
        OSError: The system refused.
    """
    if sys.platform != "linux":
        raise EstablishmentError(
            "groups are joined on Linux only", reason=Reason.INVALID_CONFIGURATION
        )
    group, source = local.multicast_group, local.multicast_source
    assert group is not None
    family = address_family(group)
    with contextlib.suppress(OSError):  # IPv6: since Linux 4.20
        sock.setsockopt(*_ALL[family], 0)
    index = 0 if local.interface is None else interface_index(local.interface)
    request = _INDEX.pack(index) + _storage(group)
    if source is None:
        sock.setsockopt(_LEVEL[family], _JOIN_GROUP, request)
        return
    if address_family(source) != family:
        raise EstablishmentError(
            f"the source {source} and the group {group} are of different address families",
            reason=Reason.INVALID_CONFIGURATION,
        )
    sock.setsockopt(_LEVEL[family], _JOIN_SOURCE_GROUP, request + _storage(source))


def _storage(address: str) -> bytes:
    """``struct sockaddr_storage`` of an address, without a port."""
    family = address_family(address)
    packed = socket.inet_pton(family, address)
    if family == socket.AF_INET:
        filled = struct.pack("=HH4s", family, 0, packed)
    else:
        filled = struct.pack("=HHI16sI", family, 0, 0, packed, 0)
    return filled.ljust(_STORAGE, b"\0")
