"""A listening socket, and flows of what it accepts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import (
    MessageContext,
    StreamListener,
    open_bound_socket,
    socket_local_endpoint,
)
from taps_tcp import fast_open, multipath
from taps_tcp.options import configure
from taps_tcp.subflows import multipath_flow_for
from taps_tcp.watching import flow_for

if TYPE_CHECKING:
    from taps_core.plugin import ListenRequest
    from taps_tcp.flow import TCPFlow

__all__ = ["TCPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535


def open_listening_socket(request: ListenRequest) -> tuple[socket.socket, str, bool]:
    """A bound, listening, non-blocking socket for ``request``; and why it is plain TCP's.

    What is empty says that it is MPTCP's, which takes connections of TCP as well. And
    whether data may come with a SYN.

    Raises:
        EstablishmentError, OSError: It cannot be opened.
    """
    sock, single = _open_bound(request)
    try:
        early = fast_open.allow(sock, request.properties)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock, single, early


def _open_bound(request: ListenRequest) -> tuple[socket.socket, str]:
    properties, local = request.properties, request.local

    # What these set is inherited by what is accepted: no call per connection, and already
    # the SYN-ACK carries the DSCP.
    def prepare_multipath(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        multipath.prepare(sock, properties)

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        configure(sock, properties, hop_limit=local.hop_limit)

    try:
        multipath.check(properties, local)
        number = multipath.IPPROTO_MPTCP
        return open_bound_socket(local, socket.SOCK_STREAM, number, prepare_multipath), ""
    except multipath.PlainTCP as reason:
        single = str(reason)
    except OSError as error:
        if error.errno not in multipath.WHY_NOT:
            raise
        single = multipath.reason_for(error)
    # The protocol number lets asyncio see that it is TCP, and switch Nagle off.
    return open_bound_socket(local, socket.SOCK_STREAM, socket.IPPROTO_TCP, prepare), single


class TCPListeningFlow(StreamListener):
    """An open door: one listening socket."""

    def __init__(
        self, sock: socket.socket, request: ListenRequest, single: str, early: bool
    ) -> None:
        local = socket_local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            local = local.with_interface(request.local.interface)
        super().__init__(sock, request, local)
        self._single = single
        self._early = early

    def flow(self, sock: socket.socket, address: Any) -> TCPFlow:
        """One accepted connection."""
        properties = self.request.properties
        if self._single:
            flow = flow_for(sock, properties, address=address, single=self._single)
        else:
            flow = multipath_flow_for(sock, properties, address=address)
        if self._early and (data := fast_open.take_early(sock)):
            flow.begin_with(data, MessageContext.received({"earlyData": True}))
        return flow
