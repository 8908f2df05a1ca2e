"""A listening socket of the kernel's, and associations of what it accepts."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import SecurityMode, StreamListener, open_bound_socket, socket_local_endpoint
from taps_sctp import linux
from taps_sctp.addresses import bind_all, family_of, follow_system, names_many, together
from taps_sctp.association import Association
from taps_sctp.kernel import KernelEngine
from taps_sctp.options import configure, open_socket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taps_core.plugin import ListenRequest, LocalEndpoint
    from taps_sctp.flow import SCTPFlow

__all__ = ["SCTPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535


def open_listening_socket(
    request: ListenRequest,
) -> tuple[socket.socket, Sequence[LocalEndpoint]]:
    """A bound, listening, non-blocking socket for ``request``.

    Returns:
        The socket, and those of the request's ``other_locals`` that it has, too.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        secured = request.security.mode is not SecurityMode.DISABLED
        configure(sock, request.properties, hop_limit=request.local.hop_limit, secured=secured)

    locals_ = [request.local]
    if names_many(request.properties):
        locals_ = together(request.local, request.other_locals)
    also: Sequence[LocalEndpoint] = ()
    if len(locals_) > 1:
        sock = open_socket(family_of(locals_))
    else:
        sock = open_bound_socket(request.local, socket.SOCK_STREAM, linux.IPPROTO_SCTP, prepare)
    try:
        if len(locals_) > 1:
            prepare(sock)
            also = bind_all(sock, locals_)
        elif names_many(request.properties):
            follow_system(sock)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock, also


class SCTPListeningFlow(StreamListener):
    """An open door: one listening socket.

    Args:
        sock: Of :func:`open_listening_socket`.
        request: As ``Transport.listen`` was given it.
        also: Further addresses of the socket.
    """

    def __init__(
        self, sock: socket.socket, request: ListenRequest, also: Sequence[LocalEndpoint] = ()
    ) -> None:
        local = socket_local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            local = local.with_interface(request.local.interface)
        if also:
            local = local.with_ip_address(request.local.ip_address)
        super().__init__(sock, request, local)
        self._also = also

    @property
    def also(self) -> Sequence[LocalEndpoint]:
        """All of them are named to whoever comes."""
        return self._also

    async def adopt(self, sock: socket.socket, address: Any) -> SCTPFlow:
        """An accepted association: its first stream."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        properties = self.request.properties
        engine = KernelEngine(loop, sock, properties)
        return Association(loop, engine, connected=False, properties=properties).first
