"""A listening socket, and flows of what it accepts."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import StreamListener
from taps_tcp.addresses import bind, local_endpoint
from taps_tcp.flow import TCPFlow
from taps_tcp.options import configure

if TYPE_CHECKING:
    from taps_core.plugin import ListenRequest

__all__ = ["TCPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_listening_socket(request: ListenRequest) -> socket.socket:
    """A bound, listening, non-blocking socket for ``request``.

    Without an address: IPv6 and IPv4 on one port (dual-stack), or IPv4 alone
    where this machine has no IPv6.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """
    address = request.local.ip_address
    if address is not None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return _open(request, family, dual_stack=False)
    try:
        return _open(request, socket.AF_INET6, dual_stack=True)
    except OSError as error:
        # Compiled out; switched off by sysctl; no such address on any interface.
        if error.errno not in _NO_IPV6:
            raise
    return _open(request, socket.AF_INET, dual_stack=False)


def _open(
    request: ListenRequest, family: socket.AddressFamily, *, dual_stack: bool
) -> socket.socket:
    # The protocol number lets asyncio see that it is TCP, and switch Nagle off.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        # Inherited by what is accepted: no call per connection, and already the
        # SYN-ACK carries the DSCP.
        configure(sock, request.properties)
        bind(sock, request.local, family)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class TCPListeningFlow(StreamListener):
    """An open door: one listening socket."""

    def __init__(self, sock: socket.socket, request: ListenRequest) -> None:
        local = local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            local = local.with_interface(request.local.interface)
        super().__init__(sock, request, local)

    def flow(self, sock: socket.socket, address: Any) -> TCPFlow:
        """One accepted connection."""
        return TCPFlow(sock, self.request.properties, address=address)
