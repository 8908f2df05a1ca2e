"""A listening socket of the kernel's, and associations of what it accepts."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import SecurityMode, StreamListener, open_bound_socket, socket_local_endpoint
from taps_sctp import linux
from taps_sctp.association import Association
from taps_sctp.kernel import KernelEngine
from taps_sctp.options import configure

if TYPE_CHECKING:
    from taps_core.plugin import ListenRequest
    from taps_sctp.flow import SCTPFlow

__all__ = ["SCTPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535


def open_listening_socket(request: ListenRequest) -> socket.socket:
    """A bound, listening, non-blocking socket for ``request``.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        secured = request.security.mode is not SecurityMode.DISABLED
        configure(sock, request.properties, hop_limit=request.local.hop_limit, secured=secured)

    sock = open_bound_socket(request.local, socket.SOCK_STREAM, linux.IPPROTO_SCTP, prepare)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class SCTPListeningFlow(StreamListener):
    """An open door: one listening socket."""

    def __init__(self, sock: socket.socket, request: ListenRequest) -> None:
        local = socket_local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            local = local.with_interface(request.local.interface)
        super().__init__(sock, request, local)

    async def adopt(self, sock: socket.socket, address: Any) -> SCTPFlow:
        """An accepted association: its first stream."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        return Association(loop, KernelEngine(loop, sock), connected=False).first
