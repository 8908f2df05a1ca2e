"""What the Linux kernel tells of interfaces, addresses and routes: rtnetlink(7).

The kernel answers while it is asked, without waiting for anybody: these are plain calls of a
few tens of microseconds, and need no thread. Only what is needed of the protocol is here.
Rejected: pyroute2, whose import takes longer than all others together, and 13 MB.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from taps_core.model.paths import Interface, InterfaceAddress, InterfaceType

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NetlinkSurvey", "ask_generic"]

#: nlmsghdr: length of all, type, flags, sequence, port.
_HEADER: Final = struct.Struct("=IHHII")
#: rtattr: length of all, type.
_ATTRIBUTE: Final = struct.Struct("=HH")
#: ifinfomsg: family, type, index, flags, change.
_LINK: Final = struct.Struct("=BxHiII")
#: ifaddrmsg: family, prefix length, flags, scope, index.
_ADDRESS: Final = struct.Struct("=BBBBI")
#: rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_NUMBER: Final = struct.Struct("=I")
#: genlmsghdr: command, and a version that nobody looks at.
_COMMAND: Final = struct.Struct("=Bxxx")
_STATUS: Final = struct.Struct("=i")

_ERROR, _DONE = 2, 3
_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS, _NEW_ROUTE, _GET_ROUTE = 16, 18, 20, 22, 24, 26
_REQUEST, _DUMP = 0x1, 0x300
#: NETLINK_GENERIC; the family whose number is known, which tells those of others; its command
#: for it, and attributes.
_GENERIC, _CONTROLLER, _GET_FAMILY = 16, 16, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
#: Attributes of a link, and of what is nested in IFLA_LINKINFO.
_NAME, _MTU, _INFO, _EXTENT = 3, 4, 18, 29
_KIND: Final = 1
#: RTEXT_FILTER_SKIP_STATS: counters are most of an answer.
_WITHOUT_STATISTICS: Final = 8
#: Attributes of an address.
_OF_LINK, _LOCAL, _FLAGS = 1, 2, 8
#: Attributes of a route.
_TO, _FROM, _BY = 1, 2, 4
#: IFF_UP, and IFF_LOWER_UP: IFF_RUNNING may come a second later.
_UP, _CARRIER = 0x1, 0x10000
#: IFA_F_TEMPORARY, which is another thing for IPv4; IFA_F_DADFAILED and IFA_F_TENTATIVE;
#: IFA_F_DEPRECATED.
_TEMPORARY, _UNUSABLE, _DEPRECATED = 0x01, 0x48, 0x20
#: RTM_F_FIB_MATCH: the entry of the table, and no guess where there is none (for an interface
#: without a route IPv4 assumes that everybody is on the link).
_MATCH: Final = 0x2000
_UNICAST, _MULTICAST = 1, 5
#: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
_GROUPS: Final = 0x1 | 0x10 | 0x100
#: Bytes of an answer's part; the kernel makes none longer.
_READ: Final = 65536

#: ARPHRD_… where nothing else tells.
_BY_HARDWARE: Final = {
    1: InterfaceType.WIRED,
    32: InterfaceType.WIRED,  # InfiniBand
    519: InterfaceType.CELLULAR,  # raw IP of a modem
    768: InterfaceType.TUNNEL,
    769: InterfaceType.TUNNEL,
    772: InterfaceType.LOOPBACK,
    776: InterfaceType.TUNNEL,
    778: InterfaceType.TUNNEL,
    801: InterfaceType.WIFI,
    802: InterfaceType.WIFI,
    803: InterfaceType.WIFI,
    823: InterfaceType.TUNNEL,
    65534: InterfaceType.TUNNEL,  # of none: tun, WireGuard
}
#: IFLA_INFO_KIND, the driver's word, goes before.
_BY_KIND: Final = {
    **dict.fromkeys(
        (
            *("tun", "wireguard", "ovpn", "xfrm", "vti", "vti6", "l2tp", "vxlan", "geneve"),
            *("ipip", "sit", "gre", "gretap", "ip6gre", "ip6gretap", "ip6tnl", "erspan"),
        ),
        InterfaceType.TUNNEL,
    ),
    "wwan": InterfaceType.CELLULAR,
}
#: DEVTYPE in sysfs; Wi-Fi and modems look like Ethernet otherwise.
_BY_DEVICE: Final = {"wlan": InterfaceType.WIFI, "wwan": InterfaceType.CELLULAR}


#: A folder for each interface, with what its driver says.
SYSFS: Final = "/sys/class/net"


class _Link(NamedTuple):
    name: str
    type: InterfaceType
    up: bool
    mtu: int | None


class NetlinkSurvey:
    """Of the network that the calling thread is in."""

    def interfaces(self) -> tuple[Interface, ...]:
        """All of them, with their addresses, by index.

        Raises:
            OSError: The kernel does not tell.
        """
        with _opened() as sock:
            links = {
                index: link
                for body in _dump(sock, _GET_LINK, _LINK_REQUEST, _NEW_LINK)
                for index, link in [_link(body)]
            }
            addresses: dict[int, list[InterfaceAddress]] = {}
            for body in _dump(sock, _GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0), _NEW_ADDRESS):
                index, address = _address(body)
                if address is not None:
                    addresses.setdefault(index, []).append(address)
        return tuple(
            Interface(
                name=link.name,
                index=index,
                type=link.type,
                up=link.up,
                mtu=link.mtu,
                addresses=tuple(addresses.get(index, ())),
            )
            for index, link in sorted(links.items())
        )

    def leads_to(self, address: str, interface: Interface, source: str | None = None) -> bool:
        """Whether there is a route to ``address`` by this interface.

        Args:
            address: Numeric, of nobody on this machine.
            interface: An interface of this machine.
            source: Send from here; rules may choose another table by it.
        """
        # Not with the source at once: for IPv6 the kernel then takes the interface for a wish.
        return self._route(address, interface.index, None) == interface.index or (
            source is not None and self._route(address, interface.index, source) == interface.index
        )

    def usual(self, address: str) -> int | None:
        """The index of the interface by which the system would send to ``address``."""
        return self._route(address, 0, None)

    def _route(self, address: str, index: int, source: str | None) -> int | None:
        packed = ipaddress.ip_address(address).packed
        family = socket.AF_INET6 if len(packed) == 16 else socket.AF_INET
        asked = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, _MATCH)
        asked += _attribute(_TO, packed)
        if index:
            asked += _attribute(_BY, _NUMBER.pack(index))
        if source is not None:
            asked += _attribute(_FROM, ipaddress.ip_address(source).packed)
        try:
            with _opened() as sock:
                for body in _ask(sock, _GET_ROUTE, _REQUEST, asked, _NEW_ROUTE):
                    if _ROUTE.unpack_from(body)[7] in (_UNICAST, _MULTICAST):
                        found = dict(_attributes(body, _ROUTE.size)).get(_BY)
                        return None if found is None else int(_NUMBER.unpack(found)[0])
        except OSError:  # «no route to host», «network is unreachable»
            pass
        return None

    def notices(self) -> socket.socket:
        """Readable when an interface or an address comes, goes or changes.

        Raises:
            OSError: There is no such thing here.
        """
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            sock.setblocking(False)
            sock.bind((0, _GROUPS))
        except BaseException:
            sock.close()
            raise
        return sock


@contextlib.contextmanager
def _opened() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        # Nobody is waited for; if it should ever be otherwise, not the loop either.
        sock.setblocking(False)
        yield sock


def _dump(sock: socket.socket, kind: int, body: bytes, wanted: int) -> Iterator[bytes]:
    return _ask(sock, kind, _REQUEST | _DUMP, body, wanted)


def _ask(sock: socket.socket, kind: int, flags: int, body: bytes, wanted: int) -> Iterator[bytes]:
    """Bodies of the answer's messages of the type ``wanted``."""
    sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    while True:
        answer = sock.recv(_READ)
        at = 0
        while at + _HEADER.size <= len(answer):
            length, kind, _, _, _ = _HEADER.unpack_from(answer, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                status = -_STATUS.unpack_from(answer, at + _HEADER.size)[0]
                raise OSError(status, os.strerror(status))
            if kind == wanted:
                yield answer[at + _HEADER.size : at + length]
            at += max(_aligned(length), _HEADER.size)
        if not flags & _DUMP:
            return


def ask_generic(family: str, command: int, within: int) -> list[dict[int, bytes]]:
    """As :func:`taps_core.plugin.ask_generic_netlink`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as sock:
        sock.setblocking(False)  # as in _opened
        body = _COMMAND.pack(_GET_FAMILY) + _attribute(_FAMILY_NAME, family.encode() + b"\0")
        (answer,) = _ask(sock, _CONTROLLER, _REQUEST, body, _CONTROLLER)
        found = dict(_attributes(answer, _COMMAND.size))
        number = int.from_bytes(found[_FAMILY_ID], sys.byteorder)
        return [
            dict(_attributes(value, 0))
            for each in _dump(sock, number, _COMMAND.pack(command), number)
            for kind, value in _attributes(each, _COMMAND.size)
            if kind == within
        ]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind & 0x3FFF, body[at + _ATTRIBUTE.size : at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)


#: All links, without their counters.
_LINK_REQUEST: Final = _LINK.pack(0, 0, 0, 0, 0) + _attribute(
    _EXTENT, _NUMBER.pack(_WITHOUT_STATISTICS)
)


def _link(body: bytes) -> tuple[int, _Link]:
    _, hardware, index, flags, _ = _LINK.unpack_from(body)
    found = dict(_attributes(body, _LINK.size))
    name = _text(found.get(_NAME, b""))
    kind = _text(dict(_attributes(found.get(_INFO, b""), 0)).get(_KIND, b""))
    mtu = found.get(_MTU)
    return index, _Link(
        name,
        _type_of(name, index, hardware, kind),
        flags & (_UP | _CARRIER) == _UP | _CARRIER,
        None if mtu is None else int(_NUMBER.unpack(mtu)[0]),
    )


def _address(body: bytes) -> tuple[int, InterfaceAddress | None]:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    found = dict(_attributes(body, _ADDRESS.size))
    # Of a link between two, the other one is the peer's.
    packed = found.get(_LOCAL) or found.get(_OF_LINK)
    if _FLAGS in found:
        flags = _NUMBER.unpack(found[_FLAGS])[0]
    if packed is None or family not in (socket.AF_INET, socket.AF_INET6) or flags & _UNUSABLE:
        return index, None
    return index, InterfaceAddress(
        address=str(ipaddress.ip_address(packed)),
        prefix_length=prefix,
        temporary=family == socket.AF_INET6 and bool(flags & _TEMPORARY),
        deprecated=bool(flags & _DEPRECATED),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


@lru_cache(maxsize=1024)
def _type_of(name: str, index: int, hardware: int, kind: str) -> InterfaceType:
    found = _BY_KIND.get(kind)
    if found is None and not kind:
        found = _BY_DEVICE.get(_device_type(name, index))
    return found or _BY_HARDWARE.get(hardware, InterfaceType.OTHER)


def _device_type(name: str, index: int) -> str:
    """The driver's word, where sysfs has this very interface: it may be another network's."""
    try:
        with open(f"{SYSFS}/{name}/uevent", encoding="utf-8") as file:
            said = dict(line.partition("=")[::2] for line in file.read().splitlines())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EINVAL):
            return ""
        raise
    return said.get("DEVTYPE", "") if said.get("IFINDEX") == str(index) else ""
