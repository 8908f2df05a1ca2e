"""The transport ``sctp-udp``: SCTP in user space, over UDP (RFC 6951)."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    AVAILABLE,
    Availability,
    EstablishmentError,
    LocalEndpoint,
    Support,
    Transport,
    establishment_failed,
    show_address,
)
from taps_sctp.options import PRIMARY_PATH, PROPERTIES
from taps_sctp.transport import SCTP, whom

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, ListeningFlow, ListenRequest
    from taps_sctp.flow import SCTPFlow

__all__ = ["SCTPOverUDP"]

_LIBRARY: Final = "libusrsctp.so.2"
_IDENTIFIER: Final = "_taps.encapsulationPort"
_A, _N = Support.ALWAYS, Support.NEVER
#: What it does otherwise than the kernel's.
_TABLE: Final[dict[str, Any]] = {
    "connCapacityProfile": (
        _A,
        "IP_TOS and IPV6_TCLASS of the UDP socket, as its packets are sent; Nagle's algorithm is "
        "on for Capacity-Seeking and Scavenger, else off",
    ),
    "sendMsgMaxLen": (_A, "4 MiB, the send buffer: libusrsctp takes a Message whole"),
    "msgLifetime": (
        _A,
        "while it waits here, and where the peer has partial reliability in libusrsctp, too",
    ),
    "multipath": (_N, "one address of each end"),
    "advertisesAltaddr": (_N, "one address of each end"),
    "multipathPolicy": (_N, "one path"),
    PRIMARY_PATH: (_N, "one path"),
}


class SCTPOverUDP(Transport):
    """SCTP over UDP over IPv4 and IPv6, libusrsctp's, for kernels that have none.

    Port is SCTP's; the UDP port is 9899, or the Endpoint's ``_taps.encapsulationPort``.
    """

    name = "sctp-udp"
    serves = frozenset({"ip", _IDENTIFIER})
    capabilities = SCTP.capabilities.explained(_TABLE)
    properties = PROPERTIES
    deployable = False
    on_request = True

    def loopback(self) -> LocalEndpoint:
        """A UDP port that the system chooses: several processes check at the same time."""
        return LocalEndpoint(ip_address="127.0.0.1", port=0, identifiers={_IDENTIFIER: 0})

    def availability(self) -> Availability:
        """Where there are cffi and the library."""
        if importlib.util.find_spec("cffi") is None:
            return Availability(
                available=False, reason="cffi is not installed", remedy="pip install taps-sctp[udp]"
            )
        import ctypes

        try:
            ctypes.CDLL(_LIBRARY)
        except OSError:
            return Availability(
                available=False,
                reason=f"there is no {_LIBRARY}",
                remedy="apt install libusrsctp2",
            )
        return AVAILABLE

    async def connect(self, request: ConnectRequest) -> SCTPFlow:
        """Returns when the four-way handshake is done."""
        from taps_sctp.user_connecting import connect

        address, port = whom(request)
        try:
            return await connect(asyncio.get_running_loop(), request)
        except EstablishmentError:
            raise
        except OSError as error:
            where = show_address(address, port)
            raise establishment_failed(error, f"connect to {where} over SCTP and UDP") from error

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """Both ports are bound and associations are taken when this returns."""
        from taps_sctp.user_listening import UserListeningFlow

        try:
            return UserListeningFlow(asyncio.get_running_loop(), request)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            where = show_address(local.ip_address, local.port)
            raise establishment_failed(error, f"listen at {where} over SCTP and UDP") from error
