"""The three-way handshake, from one side or from both at once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import EstablishmentError, Reason, bind_socket, socket_address
from taps_tcp import fast_open
from taps_tcp.options import configure

if TYPE_CHECKING:
    from taps_core.plugin import ConnectRequest, SocketAddress

__all__ = ["connect_socket", "meet"]

#: Seconds between attempts to reach a peer that is not there yet.
RETRY: Final = 0.1
#: What a peer that is not there yet, or is connecting to us this moment, answers.
_NOT_YET: Final = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ETIMEDOUT}
)


async def connect_socket(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, address: SocketAddress, data: bytes = b""
) -> int:
    """The handshake. Not ``loop.sock_connect``, which cannot do MPTCP.

    Args:
        loop: That is running.
        sock: Not connected, non-blocking.
        address: Of the peer.
        data: May go with the SYN (Fast Open).

    Returns:
        How many bytes of ``data`` the kernel has taken.

    Raises:
        OSError: It failed.
    """
    taken = 0
    if data:
        code, taken = fast_open.begin(sock, address, data)
    else:
        code = sock.connect_ex(address)
    if code == errno.EINPROGRESS and not _is_connected(sock):
        fd = sock.fileno()
        writable = loop.create_future()
        loop.add_writer(fd, _wake, writable)
        try:
            await writable
        finally:
            loop.remove_writer(fd)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    elif code == errno.EINPROGRESS:
        return taken
    if code:
        raise OSError(code, os.strerror(code))
    return taken


def _is_connected(sock: socket.socket) -> bool:
    """On loopback the handshake is done when ``connect`` returns: no turn of the loop."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def meet(
    loop: asyncio.AbstractEventLoop, request: ConnectRequest, family: socket.AddressFamily
) -> socket.socket:
    """Rendezvous: listen and connect from one port, until the peer does the same.

    Both ways lead to one connection, since its four-tuple is the same: either
    the peer's SYN reaches the listening socket, or ours reaches the peer's, or
    they cross (RFC 9293, section 3.5, simultaneous open).

    Raises:
        EstablishmentError, OSError: There is no port, or it cannot be used.
    """
    local, remote = request.local, request.remote
    if local is None or not local.port or remote.ip_address is None or remote.port is None:
        raise EstablishmentError(
            "Rendezvous over TCP needs a port on both the Local and the Remote Endpoint",
            reason=Reason.INVALID_CONFIGURATION,
        )
    address = socket_address(remote.ip_address, remote.port, remote.interface)
    with _shared(request, family) as door:
        door.listen(16)
        knock = loop.create_future()
        loop.add_reader(door.fileno(), _wake, knock)
        try:
            while True:
                sock = _shared(request, family)
                reached = loop.create_task(connect_socket(loop, sock, address))
                won: socket.socket | None = None
                try:
                    await asyncio.wait({reached, knock}, return_when=asyncio.FIRST_COMPLETED)
                    if reached.done() and reached.exception() is None:
                        won = sock
                    else:
                        won = _visitor(door, address)
                    if won is None and reached.done():
                        error = reached.exception()
                        if not isinstance(error, OSError) or error.errno not in _NOT_YET:
                            reached.result()
                        await asyncio.wait({knock}, timeout=RETRY)
                        won = _visitor(door, address)
                    if won is not None:
                        return won
                finally:
                    if won is not sock:
                        # Not waited for: whoever is cancelled here would lose a socket.
                        reached.cancel()
                        reached.add_done_callback(partial(_close, sock))
                # The next one has the same addresses.
                await asyncio.wait({reached})
                if knock.done():  # somebody else knocked
                    knock = loop.create_future()
                    loop.add_reader(door.fileno(), _wake, knock)
        finally:
            loop.remove_reader(door.fileno())


def _shared(request: ConnectRequest, family: socket.AddressFamily) -> socket.socket:
    """A socket bound to the port that listening and connecting share."""
    local, remote = request.local, request.remote
    assert local is not None
    # Either Endpoint may have it (RFC 9622, section 6.1.1).
    hops = local.hop_limit if remote.hop_limit is None else remote.hop_limit
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        configure(sock, request.properties, hop_limit=hops)
        bind_socket(sock, local, family)
    except BaseException:
        sock.close()
        raise
    return sock


def _visitor(door: socket.socket, expected: SocketAddress) -> socket.socket | None:
    """The peer among those who knock; others are turned away."""
    while True:
        try:
            sock, address = door.accept()
        except OSError:
            return None
        if _same(address, expected):
            sock.setblocking(False)
            return sock
        sock.close()


def _same(one: Any, other: Any) -> bool:
    return bool(one[:2] == other[:2])


def _close(sock: socket.socket, reached: asyncio.Task[int]) -> None:
    """The attempt to connect it is over, and has taken it from the loop."""
    if not reached.cancelled():
        reached.exception()
    sock.close()
