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
from taps_udp.options import LINUX, PROPERTIES, RECEIVE_ECN

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListenRequest, LocalEndpoint
    from taps_udp.flow import UDPFlow

__all__ = ["UDP", "UDPLite"]

_A, _O, _N = Support
#: What UDP does with a property otherwise than any datagram protocol, and how or why not.
#: OPTIONAL effects depend on the operating system.
_TABLE: Final = MappingProxyType(
    {
        # Selection Properties. The system could leave the checksum out; this never does.
        "fullChecksumSend": (_A, "the checksum covers everything"),
        "fullChecksumRecv": (_A, "the checksum covers everything"),
        "softErrorNotify": (_O, "IP_RECVERR and IPV6_RECVERR (Linux): every ICMP error"),
        # Connection Properties.
        "connTimeout": (_N, "no acknowledgement is waited for"),
        "keepAliveTimeout": (_N, "the protocol has no keep-alive packets"),
        "connCapacityProfile": (_A, "IP_TOS or IPV6_TCLASS of each datagram from then on"),
        "groupConnLimit": (
            _O,
            "at a multicast group: how many senders there may be at a time; elsewhere the peer "
            "adds none",
        ),
        "singularTransmissionMsgMaxLen": (
            _A,
            "the path MTU less headers, asked each time (Linux); else the most that a datagram "
            "holds",
        ),
        "sendMsgMaxLen": (_A, "as much as one packet carries: nothing is fragmented (Linux)"),
        "recvMsgMaxLen": (_A, "65507 bytes over IPv4, 65527 over IPv6"),
        # Message Properties.
        "msgCapacityProfile": (_A, "IP_TOS or IPV6_TCLASS of its datagram"),
        "noFragmentation": (
            _O,
            "Don't Fragment is on every datagram, and what is longer than the path MTU is "
            "refused (Linux)",
        ),
        "noSegmentation": (
            _O,
            "a Message is one datagram, with Don't Fragment; refused above the path MTU (Linux)",
        ),
        RECEIVE_ECN: (
            _O,
            "IP_RECVTOS and IPV6_RECVTCLASS (Linux), for good; of a Listener's Connections, for "
            "all",
        ),
        "_taps.dropped": (_A, "counted where a datagram finds no room"),
        "_taps.undelivered": (_N, "no datagram is acknowledged"),
        "ecn": (_O, "with _taps.receiveEcn; None for Not-ECT"),
        "receivedFinal": (_N, "the peer is told of no end"),
    }
)
#: What there is of that on Linux only.
_ELSEWHERE: Final = dict.fromkeys(
    ("softErrorNotify", "noFragmentation", "noSegmentation", "ecn", RECEIVE_ECN),
    (_N, "this system has no option for it"),
)


#: What UDP-Lite does otherwise.
_LITE: Final = MappingProxyType(
    {
        "fullChecksumSend": (_O, "the checksum covers what msgChecksumLen says"),
        "fullChecksumRecv": (_O, "the checksum has to cover what recvChecksumLen says"),
        "recvChecksumLen": (
            _O,
            "UDPLITE_RECV_CSCOV: what is covered less is dropped, unless fullChecksumRecv is "
            "required; not changed on a Listener's Connections",
        ),
        "msgChecksumLen": (
            _O,
            "UDPLITE_SEND_CSCOV, from the beginning of its datagram, unless fullChecksumSend is "
            "required",
        ),
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
    serves = frozenset({"ip", "multicast"})
    capabilities = Capabilities.datagrams().explained(_TABLE)
    properties = PROPERTIES
    #: The protocol number.
    protocol = socket.IPPROTO_UDP

    def __init__(self, *, most_unanswered: int = 1000, idle: float = 300.0) -> None:
        self._most_unanswered = most_unanswered
        self._idle = idle

    def availability(self) -> Availability:
        """Wherever sockets tell what comes with a datagram; only Linux' have all options."""
        if hasattr(socket.socket, "recvmsg"):
            if LINUX:
                return AVAILABLE
            return Availability(capabilities=self.capabilities.explained(_ELSEWHERE))
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
    capabilities = UDP.capabilities.explained(_LITE)
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
