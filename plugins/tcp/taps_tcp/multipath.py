"""Multipath TCP (RFC 8684), a mode of TCP: Linux' sockets of it, and their subflows.

Which paths there are is not for a connection to say. The kernel's path manager opens
subflows and announces addresses for all connections of a network alike, as an
administrator has told it (``ip mptcp``, ip-mptcp(8)). What a connection decides is whether
it takes part. It does not, and is plain TCP, where that could not keep what was asked for:
see :func:`check` and :func:`prepare`.

An MPTCP socket lacks some options of TCP's, and gets them when it falls back: then it is
a TCP socket in all but its number. Constants are of ``linux/mptcp.h``.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taps_core.plugin import (
    Multipath,
    MultipathPolicy,
    Preference,
    ask_generic_netlink,
    ask_socket,
    socket_local_endpoint,
    socket_remote_endpoint,
)
from taps_tcp.info import CLOSED, LENGTH, TCPInfo, parse_tcp_info
from taps_tcp.options import configure, uses_nagle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taps_core.plugin import LocalEndpoint, RemoteEndpoint

__all__ = [
    "DISABLED",
    "IPPROTO_MPTCP",
    "NOT_SPOKEN",
    "WHY_NOT",
    "MultipathInfo",
    "PlainTCP",
    "Subflow",
    "check",
    "is_multipath",
    "missing",
    "policy",
    "prepare",
    "reason_for",
    "subflows",
    "uses_many",
]

IPPROTO_MPTCP: Final = 262
_SOL_MPTCP: Final = 284
_INFO, _TCP_INFO, _ADDRESSES = 1, 2, 3
#: struct mptcp_info: the numbers of subflows and of addresses announced so far come first.
_HEAD: Final = struct.Struct("=6B2xII")
#: Which of them: how many addresses the path manager has to announce.
_TO_ANNOUNCE: Final = 3
#: struct mptcp_subflow_data: its size, how many subflows, the sizes of what follows for each
#: in the kernel and here.
_ASKED: Final = struct.Struct("=IIII")
_ADDRESS_SIZE: Final = 128
_PAIR: Final = 2 * _ADDRESS_SIZE
#: The kernel has at most 8 beside the first.
_MOST: Final = 16
#: SYN-SENT and SYN-RECEIVED: they may never be; and those that are over.
_NOT_THERE: Final = frozenset({2, 3, CLOSED})
#: Retransmissions in a row after which a path counts as dead: R1 of RFC 9293, section 3.8.3.
_DOUBTFUL: Final = 3
#: Where in a struct sockaddr_storage the address is.
_HOST: Final = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}

#: The kernel's words when it has none.
WHY_NOT: Final = {
    errno.EPROTONOSUPPORT: "the kernel has no Multipath TCP",
    errno.ENOPROTOOPT: "Multipath TCP is switched off here: sysctl net.mptcp.enabled=1",
}
DISABLED: Final = "multipath is Disabled"
NOT_SPOKEN: Final = "the peer, or something on the path, does not speak Multipath TCP"

#: MPTCP_PM_ADDR_FLAG_…, of the path manager's addresses.
_SIGNAL, _SUBFLOW, _BACKUP, _FULL_MESH = 1, 2, 4, 8


class Subflow(NamedTuple):
    """One of the TCP connections that a connection consists of, as the kernel sees it now."""

    local: LocalEndpoint
    """This end's address and port."""
    remote: RemoteEndpoint
    """The peer's."""
    state: str
    """``"active"`` or ``"inactive"``: nothing that was sent on it is acknowledged."""
    info: TCPInfo
    """Its own figures."""


class MultipathInfo(NamedTuple):
    """What became of ``multipath``: what ``Connection.find(MultipathInfo)`` gives."""

    in_use: bool
    """Whether both ends speak Multipath TCP, so that there may be several paths."""
    reason: str
    """If not: why, part of a sentence."""
    subflows: tuple[Subflow, ...]
    """The paths in use; empty if it is plain TCP."""


def uses_many(properties: Mapping[str, Any]) -> bool:
    """Whether Multipath TCP is offered, or taken."""
    return properties.get("multipath", Multipath.DISABLED) is not Multipath.DISABLED


def missing() -> str:
    """Why this system has no Multipath TCP; empty if it has."""
    if sys.platform != "linux":
        return "Multipath TCP is Linux'"
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        return reason_for(error)
    return ""


def reason_for(error: OSError) -> str:
    """Why there was no socket of Multipath TCP."""
    return WHY_NOT.get(error.errno or 0, f"no Multipath TCP: {error.strerror}")


class PlainTCP(Exception):  # it is no error: the way out
    """Plain TCP has to do; its text says why."""


def check(
    properties: Mapping[str, Any],
    *endpoints: LocalEndpoint | RemoteEndpoint | None,
    role: str = "initiate",
) -> None:
    """Whether there may be several paths, from what was asked for alone.

    Raises:
        PlainTCP: There must not.
    """
    if not uses_many(properties):
        raise PlainTCP(DISABLED)
    if role == "rendezvous":
        raise PlainTCP("a Rendezvous is plain TCP's")
    if any(each is not None and each.hop_limit is not None for each in endpoints):
        raise PlainTCP("only plain TCP has a hop limit")
    for name in ("interface", "pvd"):
        for preference, value in properties.get(name, ()):
            if preference in (Preference.REQUIRE, Preference.PROHIBIT):
                word = "required" if preference is Preference.REQUIRE else "prohibited"
                raise PlainTCP(f"{name} {value} is {word}, which the path manager does not know")
    if any(each is not None and each.interface is not None for each in endpoints):
        raise PlainTCP("an Endpoint is bound to an interface")


def prepare(sock: socket.socket, properties: Mapping[str, Any]) -> None:
    """Set the options that the properties ask for, before ``connect`` or ``listen``.

    Args:
        sock: Of MPTCP, new.
        properties: By canonical name.

    Raises:
        PlainTCP: It cannot be what was asked for.
        OSError: There is something else about it.
    """
    if not properties.get("advertisesAltaddr", False) and _announces(sock):
        raise PlainTCP(
            "advertisesAltaddr is False, and the path manager tells all peers of addresses here"
        )
    refused = configure(sock, properties)
    if properties.get("softErrorNotify", Preference.NO_PREFERENCE).wanted:
        refused.append("softErrorNotify")
    # Active is a wish of its own, Passive is what Listeners are by default.
    if refused and properties["multipath"] is Multipath.PASSIVE:
        raise PlainTCP(f"only plain TCP has {', '.join(refused)}")
    # Loops do it only where the number is TCP's; what is accepted inherits it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not uses_nagle(properties))


def _announces(sock: socket.socket) -> bool:
    """Whether the peer would be told of further addresses; it need not be connected."""
    return bool(_HEAD.unpack_from(_info(sock))[_TO_ANNOUNCE + 1])


def is_multipath(sock: socket.socket) -> bool:
    """Whether a connected socket's peer speaks it, too; once it does not, it never will.

    Args:
        sock: Opened as one of MPTCP's.
    """
    try:
        _info(sock)
    except OSError:
        return False
    return True


def _info(sock: socket.socket) -> bytes:
    return sock.getsockopt(_SOL_MPTCP, _INFO, LENGTH)


def subflows(sock: socket.socket) -> tuple[Subflow, ...]:
    """Those of a connected socket; none if it fell back, or is over."""
    try:
        addresses = _each(sock, _ADDRESSES, _PAIR)
        figures = _each(sock, _TCP_INFO, LENGTH)
    except OSError:
        return ()
    found = []
    # Both lists are in the order in which they were opened.
    for pair, figure in zip(addresses, figures, strict=False):
        local, remote = _address(pair), _address(pair[_ADDRESS_SIZE:])
        info = parse_tcp_info(figure)
        if local is None or remote is None or info is None or info.state in _NOT_THERE:
            continue
        dead = info.retransmissions_in_a_row >= _DOUBTFUL
        found.append(
            Subflow(
                socket_local_endpoint(local),
                socket_remote_endpoint(remote),
                "inactive" if dead else "active",
                info,
            )
        )
    return tuple(found)


def _each(sock: socket.socket, option: int, size: int) -> list[bytes]:
    asked = _ASKED.pack(_ASKED.size, 0, 0, size)
    answer = ask_socket(sock, _SOL_MPTCP, option, asked + bytes(_MOST * size))
    count = min(_ASKED.unpack_from(answer)[1], _MOST)
    return [answer[at : at + size] for at in range(_ASKED.size, _ASKED.size + count * size, size)]


def _address(packed: bytes) -> Any:
    """Of a struct sockaddr_storage: as the socket module has it; ``None`` if there is none."""
    family = int.from_bytes(packed[:2], sys.byteorder)
    if family not in _HOST:
        return None
    host = socket.inet_ntop(family, packed[_HOST[socket.AddressFamily(family)]])
    port = int.from_bytes(packed[2:4])
    return (host, port) if family == socket.AF_INET else (host, port, 0, 0)


def policy() -> MultipathPolicy:
    """How data is spread over paths here: as the path manager was told, for all connections.

    Handover where the further paths that it opens or announces are for backup (or where
    there are none), Aggregate where they are not.

    Raises:
        OSError: The kernel does not tell.
        ImportError: pyroute2 is not installed.
    """
    # It takes a while, and few want to know.
    from pyroute2.netlink.generic.mptcp import MPTCP_GENL_NAME, MPTCP_PM_CMD_GET_ADDR, mptcp_msg

    for found in ask_generic_netlink(MPTCP_GENL_NAME, mptcp_msg, MPTCP_PM_CMD_GET_ADDR):
        flags = found.get_nested("MPTCP_PM_ATTR_ADDR", "MPTCP_PM_ADDR_ATTR_FLAGS") or 0
        if flags & (_SIGNAL | _SUBFLOW | _FULL_MESH) and not flags & _BACKUP:
            return MultipathPolicy.AGGREGATE
    return MultipathPolicy.HANDOVER
