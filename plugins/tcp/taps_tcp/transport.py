"""The transport ``tcp``: what it can do, how it connects, how it listens."""

from __future__ import annotations

import asyncio
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
    show_address,
    socket_address,
)
from taps_tcp.connecting import connect_socket, meet
from taps_tcp.errors import connect_error, listen_error
from taps_tcp.listening import TCPListeningFlow, open_listening_socket
from taps_tcp.options import EXCESSIVE_RETRANSMISSIONS, PROPERTIES, configure, missing
from taps_tcp.watching import flow_for

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListenRequest
    from taps_tcp.flow import TCPFlow

__all__ = ["TCP"]

#: Connection and Message Properties. OPTIONAL: depends on the operating system.
_EFFECTS: Final = MappingProxyType(
    {
        "connTimeout": Support.OPTIONAL,
        "keepAliveTimeout": Support.OPTIONAL,
        "connCapacityProfile": Support.ALWAYS,
        "maxSendRate": Support.OPTIONAL,
        "sendMsgMaxLen": Support.ALWAYS,
        "recvMsgMaxLen": Support.ALWAYS,
        "tcp.userTimeoutValue": Support.OPTIONAL,
        "tcp.userTimeoutEnabled": Support.OPTIONAL,
        # No system obeys a User Timeout Option from the peer.
        "tcp.userTimeoutChangeable": Support.NEVER,
        "_taps.retransmissions": Support.OPTIONAL,
        EXCESSIVE_RETRANSMISSIONS.name: Support.OPTIONAL,
        "final": Support.ALWAYS,
        "receivedFinal": Support.ALWAYS,
        # Path MTU discovery is the systems' default: DF is set anyway.
        "noFragmentation": Support.OPTIONAL,
    }
)


class TCP(Transport):
    """TCP over IPv4 and IPv6 (RFC 9293; mapping: RFC 9623, section 10.1)."""

    name = "tcp"
    # zeroRttMsg is what TCP could have (Fast Open) and this plugin does not;
    # multipath needs the MPTCP mode.
    capabilities = Capabilities.byte_stream(
        keepAlive=Support.OPTIONAL,
        zeroRttMsg=Support.NEVER,
        softErrorNotify=Support.OPTIONAL,
        multipath=Support.NEVER,
        activeReadBeforeSend=Support.OPTIONAL,
    ).but(effects=_EFFECTS)
    properties = PROPERTIES
    rendezvous = hasattr(socket, "SO_REUSEPORT")

    def availability(self) -> Availability:
        """Always; the effective table lacks the options that this system lacks."""
        absent = missing()
        if not absent:
            return AVAILABLE
        selection = self.capabilities.support.keys()
        support = dict.fromkeys(absent & selection, Support.NEVER)
        effects = dict.fromkeys(absent - selection, Support.NEVER)
        return Availability(capabilities=self.capabilities.but(support=support, effects=effects))

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
        try:
            if request.role == "rendezvous":
                sock = await meet(loop, request, family)
                flow = flow_for(sock, request.properties, remote=remote)
                await loop.create_connection(lambda: flow, sock=sock)
                return flow
            # The protocol number lets asyncio see that it is TCP, and switch Nagle off.
            sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sock.setblocking(False)
            configure(sock, request.properties, hop_limit=remote.hop_limit)
            if local is not None:
                if local.port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bind_socket(sock, local, family)
            await connect_socket(loop, sock, socket_address(address, port, remote.interface))
            flow = flow_for(sock, request.properties, remote=remote)
            await loop.create_connection(lambda: flow, sock=sock)
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
            sock = open_listening_socket(request)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            raise listen_error(error, show_address(local.ip_address, local.port)) from error
        return TCPListeningFlow(sock, request)


def _release(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()
