"""The transports ``udp`` and ``udp-lite``: what they can do, how they connect and listen."""

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
from taps_udp.lite import UDPLITE, open_socket
from taps_udp.options import PROPERTIES, RECEIVE_ECN

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListenRequest, LocalEndpoint
    from taps_udp.flow import UDPFlow

__all__ = ["UDP", "UDPLite"]

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
        RECEIVE_ECN: Support.OPTIONAL,
        "_taps.dropped": Support.ALWAYS,
    }
)


#: Likewise, of UDP-Lite.
_LITE_EFFECTS: Final = MappingProxyType(
    {"msgChecksumLen": Support.ALWAYS, "recvChecksumLen": Support.ALWAYS}
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
    serves = frozenset({"ip", "multicast"})
    capabilities = Capabilities.datagrams(
        softErrorNotify=Support.OPTIONAL,
        # The system could leave the checksum out; this transport never does.
        fullChecksumSend=Support.ALWAYS,
        fullChecksumRecv=Support.ALWAYS,
    ).but(effects=_EFFECTS)
    properties = PROPERTIES
    #: The protocol number.
    protocol = socket.IPPROTO_UDP

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
        address, port = remote.multicast_group or remote.ip_address, remote.port
        if address is None or port is None:
            raise EstablishmentError(
                f"{self.label} needs an IP address and a port, not {remote}",
                reason=Reason.INVALID_CONFIGURATION,
            )
        loop = asyncio.get_running_loop()
        try:
            return open_flow(loop, request, address, port, self.protocol)
        except EstablishmentError:
            raise
        except OSError as error:
            doing = f"send to {show_address(address, port)}{_from(request.local)}"
            raise establishment_failed(error, doing) from error

    async def listen(self, request: ListenRequest) -> UDPListeningFlow:
        """LISTEN.UDP: the port is bound when this returns."""
        try:
            sock = open_listening_socket(request, self.protocol)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            address = local.multicast_group or local.ip_address
            doing = f"listen at {show_address(address, local.port)}"
            raise establishment_failed(error, doing) from error
        return UDPListeningFlow(
            asyncio.get_running_loop(),
            sock,
            request,
            most_unanswered=self._most_unanswered,
            idle=self._idle,
        )


class UDPLite(UDP):
    """UDP-Lite (RFC 3828), where the kernel has it: newer ones are dropping it.

    Few networks let it through and few peers speak it, so it goes behind UDP, unless the
    checksum of UDP is what the application does not want.
    """

    name = "udp-lite"
    capabilities = UDP.capabilities.but(
        support={"fullChecksumSend": Support.OPTIONAL, "fullChecksumRecv": Support.OPTIONAL},
        effects=_LITE_EFFECTS,
    )
    deployable = False
    protocol = UDPLITE

    @property
    def label(self) -> str:
        """As RFC 3828 writes it."""
        return "UDP-Lite"

    def availability(self) -> Availability:
        """Where a socket of it can be made."""
        try:
            open_socket(socket.AF_INET, UDPLITE).close()
        except OSError:
            return Availability(
                available=False, reason="the kernel has no UDP-Lite", remedy="use udp"
            )
        return super().availability()


def _from(local: LocalEndpoint | None) -> str:
    """`` from 192.0.2.1:7000`` or `` from eth0``; nothing where nothing was said."""
    if local is None:
        return ""
    if local.ip_address or local.port:
        return f" from {show_address(local.ip_address, local.port)}"
    return f" from {local.interface}" if local.interface else ""
