"""The transport ``udp``: what it can do, how it connects, how it listens."""

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
    establishment_failed,
    show_address,
)
from taps_udp.connecting import open_flow
from taps_udp.listening import UDPListeningFlow, open_listening_socket

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListenRequest
    from taps_udp.flow import UDPFlow

__all__ = ["UDP"]

#: Connection and Message Properties. OPTIONAL: depends on the operating system.
_EFFECTS: Final = MappingProxyType(
    {
        "connCapacityProfile": Support.ALWAYS,
        "msgCapacityProfile": Support.ALWAYS,
        "sendMsgMaxLen": Support.ALWAYS,
        "recvMsgMaxLen": Support.ALWAYS,
        "singularTransmissionMsgMaxLen": Support.ALWAYS,
        # Datagrams above the path MTU are refused on Linux, whatever is asked for.
        "noFragmentation": Support.OPTIONAL,
        "noSegmentation": Support.OPTIONAL,
        "ecn": Support.OPTIONAL,
    }
)


class UDP(Transport):
    """UDP over IPv4 and IPv6 (RFC 768, RFC 8085; mapping: RFC 9623, section 10.3).

    Args:
        most_unanswered: How many flows of one listener there are to which nothing
            was sent; the oldest of them ends when one more remote appears.
        idle: Seconds after which a listener gives up a flow that nobody has started
            and of which nothing was heard.
    """

    name = "udp"
    capabilities = Capabilities.datagrams(softErrorNotify=Support.OPTIONAL).but(effects=_EFFECTS)

    def __init__(self, *, most_unanswered: int = 1000, idle: float = 300.0) -> None:
        self._most_unanswered = most_unanswered
        self._idle = idle

    def availability(self) -> Availability:
        """Wherever sockets tell what comes with a datagram."""
        if hasattr(socket.socket, "recvmsg"):
            return AVAILABLE
        return Availability(
            available=False,
            reason="sockets have no recvmsg on this platform",
            remedy="use taps-udp on Linux, macOS or another Unix",
        )

    async def connect(self, request: ConnectRequest) -> UDPFlow:
        """CONNECT.UDP: a path and a port are chosen, nothing is sent."""
        remote = request.remote
        address, port = remote.ip_address, remote.port
        if address is None or port is None:
            raise EstablishmentError(
                f"UDP needs an IP address and a port, not {remote}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        try:
            return open_flow(asyncio.get_running_loop(), request, address, port)
        except EstablishmentError:
            raise
        except OSError as error:
            doing = f"send to {show_address(address, port)}"
            if request.local is not None:
                doing += f" from {request.local}"
            raise establishment_failed(error, doing) from error

    async def listen(self, request: ListenRequest) -> UDPListeningFlow:
        """LISTEN.UDP: the port is bound when this returns."""
        try:
            sock = open_listening_socket(request)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            doing = f"listen at {show_address(local.ip_address, local.port)}"
            raise establishment_failed(error, doing) from error
        return UDPListeningFlow(
            asyncio.get_running_loop(),
            sock,
            request,
            most_unanswered=self._most_unanswered,
            idle=self._idle,
        )
