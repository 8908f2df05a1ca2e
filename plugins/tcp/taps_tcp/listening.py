"""A listening socket, and flows of what it accepts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import StreamListener, open_bound_socket, socket_local_endpoint
from taps_tcp.options import configure
from taps_tcp.watching import flow_for

if TYPE_CHECKING:
    from taps_core.plugin import ListenRequest
    from taps_tcp.flow import TCPFlow

__all__ = ["TCPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535


def open_listening_socket(request: ListenRequest) -> socket.socket:
    """A bound, listening, non-blocking socket for ``request``.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by what is accepted: no call per connection, and already the
        # SYN-ACK carries the DSCP.
        configure(sock, request.properties, hop_limit=request.local.hop_limit)

    # The protocol number lets asyncio see that it is TCP, and switch Nagle off.
    sock = open_bound_socket(request.local, socket.SOCK_STREAM, socket.IPPROTO_TCP, prepare)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class TCPListeningFlow(StreamListener):
    """An open door: one listening socket."""

    def __init__(self, sock: socket.socket, request: ListenRequest) -> None:
        local = socket_local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            local = local.with_interface(request.local.interface)
        super().__init__(sock, request, local)

    def flow(self, sock: socket.socket, address: Any) -> TCPFlow:
        """One accepted connection."""
        return flow_for(sock, self.request.properties, address=address)
