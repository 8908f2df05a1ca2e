"""How an association of libusrsctp's is opened, and a port of SCTP chosen."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING, Any, Final

from taps_sctp import usrsctp
from taps_sctp.association import Association
from taps_sctp.udp_sockets import USUAL_PORT, OwnSocket, udp_port
from taps_sctp.user_engine import UserEngine, configure
from taps_sctp.userland import Userland
from taps_sctp.usrsctp import ffi

if TYPE_CHECKING:
    import asyncio

    from taps_core.plugin import ConnectRequest
    from taps_sctp.flow import SCTPFlow

__all__ = ["bind", "connect"]

#: Ports to choose from (RFC 6335, section 6), and how often to try.
_DYNAMIC: Final = (49152, 65535)
_TRIES: Final = 100


async def connect(loop: asyncio.AbstractEventLoop, request: ConnectRequest) -> SCTPFlow:
    """An established association's first stream.

    Raises:
        EstablishmentError, OSError: There is none, and nothing is left.
    """
    remote, local = request.remote, request.local
    assert remote.port is not None
    land = Userland.claim(loop)
    there = udp_port(remote.identifiers, USUAL_PORT)
    carrier = OwnSocket(land, remote, local, there, request.properties)
    peer = carrier.peer
    try:
        so = land.open()
        try:
            configure(land, so, request.properties, request.security)
            carrier.port = bind(land, so, 0 if local is None else local.port or 0)
        except BaseException:
            land.library.usrsctp_close(so)
            raise
    except BaseException:
        peer.free_unused()
        raise
    engine = UserEngine(land, so, peer, peer.local.with_port(carrier.port), remote)
    await engine.connect(usrsctp.address(remote.port, peer.token))
    try:
        return Association(loop, engine, connected=True).first
    except OSError:
        engine.abort()  # gone again
        raise


def bind(land: Userland, so: Any, port: int) -> int:
    """Give a socket a port of SCTP, which is this process' alone.

    Args:
        land: The library.
        so: The socket.
        port: 0: any.

    Returns:
        The port.

    Raises:
        OSError: It is in use.
    """
    for _ in range(1 if port else _TRIES):
        number = port or random.randint(*_DYNAMIC)
        address = usrsctp.address(number, 0)
        if not land.library.usrsctp_bind(so, ffi.from_buffer(address), len(address)):
            return number
        if ffi.errno != errno.EADDRINUSE:
            break
    raise usrsctp.failure()
