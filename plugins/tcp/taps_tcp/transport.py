"""The transport ``tcp``: what it can do, how it connects, how it listens."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from taps_core.plugin import (
    AVAILABLE,
    Availability,
    Capabilities,
    EstablishmentError,
    Reason,
    Support,
    Transport,
    address_family,
    bind_socket,
    choose_source,
    show_address,
    socket_address,
)
from taps_tcp import fast_open
from taps_tcp.connecting import connect_socket, meet
from taps_tcp.errors import connect_error, listen_error
from taps_tcp.listening import TCPListeningFlow, open_listening_socket
from taps_tcp.multipath import DISABLED, uses_many
from taps_tcp.multipath import missing as multipath_missing
from taps_tcp.options import (
    EXCESSIVE_RETRANSMISSIONS,
    MULTIPATH_IN_USE,
    PROPERTIES,
    configure,
    missing,
)
from taps_tcp.subflows import multipath_flow_for, open_multipath
from taps_tcp.watching import flow_for

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListenRequest, SocketAddress
    from taps_tcp.flow import TCPFlow

__all__ = ["TCP"]

_A, _O, _N = Support
#: What TCP does with a property otherwise than any byte stream, and how or why not.
#: OPTIONAL effects depend on the operating system.
_TABLE: Final = MappingProxyType(
    {
        # Selection Properties.
        "zeroRttMsg": (
            _O,
            "Prefer or Require: in the SYN (Fast Open, Linux), once the peer has given a cookie; "
            "what listens takes it so where it has asked, too",
        ),
        "keepAlive": (_O, "SO_KEEPALIVE"),
        "multipath": (
            _O,
            "Active and Passive: Multipath TCP (Linux), over the paths that the path manager "
            "opens; plain TCP with a peer that has none",
        ),
        "advertisesAltaddr": (
            _O,
            "False: plain TCP where the path manager announces addresses to all peers; True: "
            "those that it announces",
        ),
        "softErrorNotify": (
            _O,
            "Prefer or Require: ICMP errors and excessive retransmissions, asked of the kernel "
            "(Linux)",
        ),
        # Connection Properties.
        "connTimeout": (_O, "TCP_USER_TIMEOUT in milliseconds, also for the handshake"),
        "keepAliveTimeout": (_O, "TCP_KEEPIDLE, cut to whole seconds"),
        "connCapacityProfile": (
            _A,
            "IP_TOS or IPV6_TCLASS of every packet; Nagle's algorithm is on for Capacity-Seeking "
            "and Scavenger, else off",
        ),
        "multipathPolicy": (
            _O,
            "with Multipath TCP: as the path manager was told for all connections; another one is "
            "refused",
        ),
        "maxSendRate": (
            _O,
            "SO_MAX_PACING_RATE (Linux; headers count), else the Connection holds back",
        ),
        "singularTransmissionMsgMaxLen": (
            _O,
            "TCP_MAXSEG as it is now; the bytes of framers and security count",
        ),
        "sendMsgMaxLen": (_A, "sys.maxsize: a byte stream has no limit of its own"),
        "recvMsgMaxLen": (_A, "sys.maxsize: a byte stream has no limit of its own"),
        "tcp.userTimeoutValue": (_O, "TCP_USER_TIMEOUT, once tcp.userTimeoutEnabled"),
        "tcp.userTimeoutEnabled": (_O, "TCP_USER_TIMEOUT, where connTimeout is not set"),
        "tcp.userTimeoutChangeable": (
            _N,
            "no system sends the User Timeout Option, or obeys the peer's",
        ),
        "_taps.retransmissions": (_O, "TCP_INFO (Linux)"),
        "_taps.undelivered": (_O, "SIOCOUTQ, and what waits for the kernel (Linux)"),
        MULTIPATH_IN_USE: (_O, "MPTCP_INFO (Linux)"),
        EXCESSIVE_RETRANSMISSIONS.name: (
            _O,
            "so many in a row are a SoftError, where softErrorNotify was asked for (Linux)",
        ),
        # Message Properties.
        "final": (_A, "FIN behind it"),
        "msgCapacityProfile": (
            _N,
            "the DSCP stays the same within a connection (RFC 7657, section 6)",
        ),
        "noFragmentation": (
            _O,
            "Don't Fragment on all packets from then on (IP_MTU_DISCOVER, Linux); TCP segments",
        ),
        "noSegmentation": (
            _O,
            "refused above TCP_MAXSEG, and in parts; else written by itself, with Don't Fragment. "
            "The kernel may divide it if it has not sent yet what came before",
        ),
        "earlyData": (
            _O,
            "what came in the SYN (Fast Open, Linux), where a Listener has asked for it: "
            "zeroRttMsg; it may come twice",
        ),
        "receivedFinal": (_A, "the peer's FIN"),
    }
)

#: A socket that does not block is made with one system call where that can be said.
_AT_ONCE: Final = getattr(socket, "SOCK_NONBLOCK", 0)
_STREAM: Final = socket.SOCK_STREAM | _AT_ONCE
_OF_MULTIPATH: Final = ("multipath", "advertisesAltaddr", "multipathPolicy")


class TCP(Transport):
    """TCP over IPv4 and IPv6 (RFC 9293; mapping: RFC 9623, section 10.1)."""

    name = "tcp"
    capabilities = dataclasses.replace(
        Capabilities.byte_stream().explained(_TABLE), early_data=True
    )
    properties = PROPERTIES
    rendezvous = hasattr(socket, "SO_REUSEPORT")

    def availability(self) -> Availability:
        """Always; the effective table lacks the options that this system lacks."""
        lacking = dict.fromkeys(missing(), (Support.NEVER, "this system has no option for it"))
        if why := multipath_missing():
            lacking |= dict.fromkeys(_OF_MULTIPATH, (Support.NEVER, why))
        if why_not_fast := fast_open.missing():
            lacking |= dict.fromkeys(("zeroRttMsg", "earlyData"), (Support.NEVER, why_not_fast))
        if not lacking:
            return AVAILABLE
        return Availability(
            capabilities=dataclasses.replace(
                self.capabilities.explained(lacking), early_data=not why_not_fast
            )
        )

    async def connect(self, request: ConnectRequest) -> TCPFlow:
        """CONNECT.TCP: returns when the three-way handshake is done."""
        loop = asyncio.get_running_loop()
        remote, local = request.remote, request.local
        address, port = remote.ip_address, remote.port
        if address is None or port is None:
            raise EstablishmentError(
                f"TCP needs an IP address and a port, not {remote}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        family = address_family(address)
        sock = None
        single = DISABLED
        try:
            if request.role == "rendezvous":
                sock = await meet(loop, request, family)
                flow = flow_for(sock, request.properties, remote=remote)
                await loop.create_connection(lambda: flow, sock=sock)
                return flow
            if uses_many(request.properties):
                sock, local, single = open_multipath(request, family)
            if sock is None:
                # The protocol number lets asyncio see that it is TCP, and switch Nagle off.
                sock = _Socket(family, _STREAM, socket.IPPROTO_TCP)
                if not _AT_ONCE:
                    sock.setblocking(False)
                configure(sock, request.properties, hop_limit=remote.hop_limit)
                if family == socket.AF_INET6:
                    choose_source(sock, request.properties)
            if local is not None:
                if local.port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bind_socket(sock, local, family)
            data = b"" if request.early is None else fast_open.early_bytes(request)
            there: SocketAddress = (address, port)
            if family == socket.AF_INET6:
                there = socket_address(address, port, remote.interface)
            taken = await connect_socket(loop, sock, there, data)
            if single:
                flow = flow_for(sock, request.properties, remote=remote, single=single)
            else:
                flow = multipath_flow_for(sock, request.properties, remote=remote)
            await loop.create_connection(lambda: flow, sock=sock)
            if taken and request.early is not None:
                request.early.taken = True
                if taken < len(data):  # a SYN has room for one segment
                    flow.write_through(data[taken:])
        except EstablishmentError:
            _release(sock)
            raise
        except OSError as error:
            _release(sock)
            here = None
            if local is not None and (local.ip_address is not None or local.port):
                here = show_address(local.ip_address, local.port)
            raise connect_error(error, show_address(address, port), here) from error
        except BaseException:
            _release(sock)
            raise
        return flow

    async def listen(self, request: ListenRequest) -> TCPListeningFlow:
        """LISTEN.TCP: the port is bound and connections are taken when this returns."""
        try:
            sock, single, early = open_listening_socket(request)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            raise listen_error(error, show_address(local.ip_address, local.port)) from error
        return TCPListeningFlow(sock, request, single, early)


class _Socket(socket.socket):
    """Tells family and type as numbers.

    Loops ask for them again and again, and to look up the names of numbers takes longer than
    all that they do with them.
    """

    __slots__ = ()

    family = socket.SocketType.family  # type: ignore[assignment]  # the same numbers
    type = socket.SocketType.type  # type: ignore[assignment]  # the same numbers


def _release(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()
