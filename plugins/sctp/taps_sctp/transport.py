"""The transport ``sctp``: what it can do, how it connects, how it listens."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from taps_core.plugin import (
    AVAILABLE,
    Availability,
    Capabilities,
    EstablishmentError,
    Reason,
    SecurityMode,
    Support,
    Transport,
    address_family,
    bind_socket,
    establishment_failed,
    show_address,
)
from taps_sctp.options import PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import (
        ConnectRequest,
        ListeningFlow,
        ListenRequest,
        LocalEndpoint,
        RemoteEndpoint,
    )
    from taps_sctp.flow import SCTPFlow

__all__ = ["SCTP", "whom"]

_A, _O, _N = Support
#: What SCTP does with a property otherwise than any protocol with Messages, and how or
#: why not.
_TABLE: Final = MappingProxyType(
    {
        # Selection Properties.
        "perMsgReliability": (_O, "partial reliability (RFC 3758), where the peer has it, too"),
        "preserveOrder": (_O, "within a stream, unless a Message asks for less"),
        "multistreaming": (
            _O,
            "a Connection is a pair of streams, where the peer can reset streams (RFC 6525)",
        ),
        "multipath": (
            _O,
            "Active and Passive: all addresses that the peer names, one at a time; Disabled: "
            "the one that it was reached at",
        ),
        "advertisesAltaddr": (
            _O,
            "where multipath is not Disabled: further addresses in INIT and INIT ACK, and as they "
            "come and go (ASCONF, RFC 5061); what listens without an address always names all",
        ),
        "keepAlive": (_O, "HEARTBEAT to addresses that are idle"),
        "activeReadBeforeSend": (
            _O,
            "either side may write first; Prefer and Require: a clone is an association of its own",
        ),
        # Connection Properties.
        "connTimeout": (
            _A,
            "how often in a row the peer may leave something unanswered, in retransmission "
            "timeouts that double from 0.2 s up to 3 s; Disabled: 24 of them, about a minute",
        ),
        "keepAliveTimeout": (_A, "the interval of HEARTBEAT; 5 s unless it is set"),
        "multipathPolicy": (
            _O,
            "where multipath is not Disabled: Handover; Interactive and Aggregate are refused, as "
            "there is one path at a time",
        ),
        "_taps.primaryPath": (
            _O,
            "where multipath is not Disabled: the path that is used while it works",
        ),
        "connCapacityProfile": (
            _A,
            "IP_TOS and IPV6_TCLASS of every packet; Nagle's algorithm is on for "
            "Capacity-Seeking and Scavenger, else off",
        ),
        "connPriority": (_A, "with Priority-Based, the kernel's scheduler goes by it"),
        "connScheduler": (
            _A,
            "First-Come, First-Served, Round-Robin and Priority-Based by the kernel; with others "
            "what waits for the kernel",
        ),
        "sendMsgMaxLen": (_A, "SO_SNDBUF: the kernel takes a Message whole"),
        "recvMsgMaxLen": (_A, "sys.maxsize: longer Messages come in parts"),
        "singularTransmissionMsgMaxLen": (_A, "the fragmentation point of SCTP_STATUS"),
        "groupConnLimit": (_O, "streams that the peer opens; what is too much is reset"),
        "isolateSession": (_N, "nothing is remembered of earlier associations"),
        # Message Properties.
        "msgOrdered": (_A, "False: the U flag, and the Message may overtake others"),
        "msgLifetime": (
            _A,
            "while it waits here, and where the peer has partial reliability in the kernel, too; "
            "the outcome comes when all is acknowledged",
        ),
        "msgReliable": (_O, "False: it is sent once, where the peer has partial reliability"),
        "final": (_N, "no Send is taken after it; the peer is not told, as there is no half-close"),
        "_taps.streamIdentifier": (
            _O,
            "with peers that cannot reset streams: the stream that it is sent on or came on",
        ),
        "_taps.undelivered": (
            _A,
            "chunks of the association that are not acknowledged, of whichever stream",
        ),
        "_taps.ppid": (_A, "the payload protocol identifier of what is sent, and of what came"),
    }
)


def whom(request: ConnectRequest) -> tuple[str, int]:
    """The address and port to connect to.

    Raises:
        EstablishmentError: INVALID_CONFIGURATION: there is none, or both sides would open.
    """
    remote = request.remote
    if remote.ip_address is None or not remote.port:
        raise EstablishmentError(
            f"SCTP needs an IP address and a port, not {remote}",
            reason=Reason.INVALID_CONFIGURATION,
        )
    if request.role == "rendezvous":
        raise EstablishmentError("SCTP has no Rendezvous here", reason=Reason.INVALID_CONFIGURATION)
    return remote.ip_address, remote.port


class SCTP(Transport):
    """SCTP over IPv4 and IPv6, the kernel's (RFC 9260; mapping: RFC 9623, section 10.6)."""

    name = "sctp"
    capabilities = Capabilities.messages().explained(_TABLE).but(half_close=False)
    properties = PROPERTIES
    # Most hosts, and what is between them, have none.
    deployable = False

    def availability(self) -> Availability:
        """Where the kernel has it."""
        try:
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                return Availability(
                    available=False,
                    reason="the kernel has no SCTP",
                    remedy="modprobe sctp, or use sctp-udp",
                )
            return Availability(available=False, reason=str(error), remedy="")
        return AVAILABLE

    async def connect(self, request: ConnectRequest) -> SCTPFlow:
        """CONNECT.SCTP: returns when the four-way handshake is done."""
        from taps_sctp import addresses
        from taps_sctp.association import Association
        from taps_sctp.kernel import KernelEngine
        from taps_sctp.options import configure, open_socket

        loop = asyncio.get_running_loop()
        remote, properties = request.remote, request.properties
        address, port = whom(request)
        locals_: Sequence[LocalEndpoint] = ()
        remotes: Sequence[RemoteEndpoint] = (remote,)
        if addresses.uses_many(properties):
            remotes = addresses.together(remote, request.other_remotes)
        family = address_family(address)
        if not addresses.names_many(properties):
            # From one address those of the other IP version are out of reach.
            remotes = [each for each in remotes if address_family(str(each.ip_address)) == family]
        elif request.local is not None:
            locals_ = addresses.together(request.local, request.other_locals)
        doing = f"connect to {show_address(address, port)} over SCTP"
        try:
            family = addresses.family_of((*remotes, *locals_))
            sock = open_socket(family)
        except OSError as error:
            raise establishment_failed(error, doing) from error
        try:
            secured = request.security.mode is not SecurityMode.DISABLED
            configure(sock, properties, hop_limit=remote.hop_limit, secured=secured)
            if not addresses.names_many(properties):
                bind_socket(sock, addresses.source_for(remote, request.local, properties), family)
            else:
                addresses.bind_all(sock, locals_)
                addresses.follow_system(sock)
            await _connected(loop, sock, addresses.connect_to(sock, remotes))
            engine = KernelEngine(loop, sock, properties, remotes)
            return Association(loop, engine, connected=True, properties=properties).first
        except EstablishmentError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            raise establishment_failed(error, doing) from error
        except BaseException:
            sock.close()
            raise

    async def listen(self, request: ListenRequest) -> ListeningFlow:
        """LISTEN.SCTP: the port is bound and associations are taken when this returns."""
        from taps_sctp.listening import SCTPListeningFlow, open_listening_socket

        try:
            sock, also = open_listening_socket(request)
        except EstablishmentError:
            raise
        except OSError as error:
            local = request.local
            where = show_address(local.ip_address, local.port)
            raise establishment_failed(error, f"listen at {where} over SCTP") from error
        return SCTPListeningFlow(sock, request, also)


async def _connected(loop: asyncio.AbstractEventLoop, sock: socket.socket, code: int) -> None:
    """Not ``loop.sock_connect``, which resolves even a literal address in a thread.

    Args:
        loop: Where it runs.
        sock: Connecting.
        code: What beginning that gave.

    Raises:
        OSError: It failed.
    """
    if code == errno.EINPROGRESS:
        writable = loop.create_future()
        descriptor = sock.fileno()
        loop.add_writer(descriptor, _wake, writable)
        try:
            await writable
        finally:
            loop.remove_writer(descriptor)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
