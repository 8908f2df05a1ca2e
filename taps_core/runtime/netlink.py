"""What the Linux kernel tells of interfaces, addresses and routes: rtnetlink(7).

The kernel answers while it is asked, without waiting for anybody: these are plain calls of a
few milliseconds, and need no thread. pyroute2 knows the messages. Its sockets are left alone:
those that wait want an event loop of their own and none that runs, the others asyncio's, which
uvloop is not. Importing it takes a while: see :meth:`taps_core.runtime.paths.Paths.load`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from pyroute2.netlink import (
    CTRL_CMD_GETFAMILY,
    GENL_ID_CTRL,
    NETLINK_GENERIC,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_MIN_TYPE,
    ctrlmsg,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import (
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
    rt_type,
)
from pyroute2.netlink.rtnl.ifaddrmsg import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_TEMPORARY,
    IFA_F_TENTATIVE,
    ifaddrmsg,
)
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOWER_UP, IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from taps_core.model.paths import Interface, InterfaceAddress, InterfaceType

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NetlinkSurvey", "ask_generic"]

M = TypeVar("M")

#: RTEXT_FILTER_SKIP_STATS: counters are most of an answer.
_WITHOUT_STATISTICS: Final = 8
#: IFF_RUNNING may come a second later.
_UP: Final = IFF_UP | IFF_LOWER_UP
_UNUSABLE: Final = IFA_F_DADFAILED | IFA_F_TENTATIVE
#: RTM_F_FIB_MATCH: the entry of the table, and no guess where there is none (for an interface
#: without a route IPv4 assumes that everybody is on the link).
_MATCH: Final = 0x2000
_USABLE: Final = (rt_type["unicast"], rt_type["multicast"])
_GROUPS: Final = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
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
        with _opened(socket.NETLINK_ROUTE) as sock:
            asked = ifinfmsg()
            asked["attrs"] = [("IFLA_EXT_MASK", _WITHOUT_STATISTICS)]
            links = {each["index"]: _link(each) for each in _ask(sock, asked, RTM_GETLINK)}
            addresses: dict[int, list[InterfaceAddress]] = {}
            for each in _ask(sock, ifaddrmsg(), RTM_GETADDR):
                address = _address(each)
                if address is not None:
                    addresses.setdefault(each["index"], []).append(address)
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
        asked = rtmsg()
        asked["family"] = socket.AF_INET6 if ":" in address else socket.AF_INET
        asked["dst_len"] = 128 if ":" in address else 32
        asked["flags"] = _MATCH
        asked["attrs"] = [("RTA_DST", address)]
        if index:
            asked["attrs"].append(("RTA_OIF", index))
        if source is not None:
            asked["attrs"].append(("RTA_SRC", source))
        try:
            with _opened(socket.NETLINK_ROUTE) as sock:
                for each in _ask(sock, asked, RTM_GETROUTE, flags=0):
                    if each["type"] in _USABLE:
                        found: int | None = each.get_attr("RTA_OIF")
                        return found
        except OSError:  # «no route to host», «network is unreachable»
            pass
        return None

    def notices(self) -> socket.socket:
        """Readable when an interface or an address comes, goes or changes.

        Raises:
            OSError: There is no such thing here.
        """
        sock = _opened(socket.NETLINK_ROUTE)
        try:
            sock.bind((0, _GROUPS))
        except BaseException:
            sock.close()
            raise
        return sock


def ask_generic(family: str, message: type[M], command: int) -> list[M]:
    """As :func:`taps_core.plugin.ask_generic_netlink`."""
    with _opened(NETLINK_GENERIC) as sock:
        marshal = Marshal()
        marshal.msg_map[GENL_ID_CTRL] = ctrlmsg
        number = ctrlmsg()
        number["cmd"] = CTRL_CMD_GETFAMILY
        number["attrs"] = [("CTRL_ATTR_FAMILY_NAME", family)]
        (found,) = _ask(sock, number, GENL_ID_CTRL, flags=0, marshal=marshal)
        kind = found.get_attr("CTRL_ATTR_FAMILY_ID")
        marshal.msg_map[kind] = message
        asked: Any = message()
        asked["cmd"] = command
        return list(_ask(sock, asked, kind, marshal=marshal))


def _opened(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    # Nobody is waited for; if it should ever be otherwise, not the loop either.
    sock.setblocking(False)
    return sock


def _ask(
    sock: socket.socket,
    message: Any,
    kind: int,
    *,
    flags: int = NLM_F_DUMP,
    marshal: Marshal | None = None,
) -> Iterator[Any]:
    """The messages of the answer."""
    message["header"].update(type=kind, flags=NLM_F_REQUEST | flags, sequence_number=1)
    message.encode()
    sock.send(message.data)
    parse = (marshal or MarshalRtnl()).parse
    while True:
        try:
            answer = list(parse(sock.recv(_READ)))
        except struct.error as error:  # where something only looks like Linux
            raise OSError(errno.EBADMSG, f"netlink: {error}") from error
        for each in answer:
            wrong = each["header"]["error"]
            if isinstance(wrong, NetlinkError):
                raise OSError(wrong.code, os.strerror(wrong.code))
            if wrong is not None:
                raise OSError(errno.EBADMSG, f"netlink: {wrong}")
            if each["header"]["type"] == NLMSG_DONE:
                return
            if each["header"]["type"] >= NLMSG_MIN_TYPE:
                yield each
        if not flags:
            return


def _link(found: Any) -> _Link:
    name = _text(found.get_attr("IFLA_IFNAME"))
    kind = _text(found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"))
    return _Link(
        name,
        _type_of(name, found["index"], found["ifi_type"], kind),
        found["flags"] & _UP == _UP,
        found.get_attr("IFLA_MTU"),
    )


def _address(found: Any) -> InterfaceAddress | None:
    family = found["family"]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    # Of a link between two, the other one is the peer's.
    address = found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")
    flags = found.get_attr("IFA_FLAGS", found["flags"])  # one byte has no room for all
    if address is None or flags & _UNUSABLE:
        return None
    return InterfaceAddress(
        address=str(ipaddress.ip_address(address)),
        prefix_length=found["prefixlen"],
        # For IPv4 the flag is another one, IFA_F_SECONDARY.
        temporary=family == socket.AF_INET6 and bool(flags & IFA_F_TEMPORARY),
        deprecated=bool(flags & IFA_F_DEPRECATED),
    )


def _text(value: str | bytes | None) -> str:
    """What pyroute2 leaves as it is where it is no UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


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
