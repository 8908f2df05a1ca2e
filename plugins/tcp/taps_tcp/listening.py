"""A listening socket and what it accepts.

Not ``loop.create_server``: its acceptance cannot be paused on uvloop, and a
Listener at its limit must leave further connections in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from taps_core.plugin import ListeningFlow, LocalEndpoint
from taps_tcp.addresses import bind, local_endpoint, show
from taps_tcp.errors import EXHAUSTED
from taps_tcp.flow import TCPFlow
from taps_tcp.options import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taps_core.plugin import Flow, ListenRequest

__all__ = ["TCPListeningFlow", "open_listening_socket"]

#: The kernel cuts it to its own limit (net.core.somaxconn).
BACKLOG: Final = 65535
#: Connections taken per turn of the loop; others come in between.
BATCH: Final = 64
#: How long to leave the backlog alone when descriptors or memory have run out.
REST: Final = 0.1

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

_log: Final = logging.getLogger("taps_core")


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


class TCPListeningFlow(ListeningFlow):
    """An open door: one listening socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        request: ListenRequest,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._properties: Mapping[str, Any] = request.properties
        self._incoming: Callable[[Flow, Any], None] = request.incoming
        self._local = local_endpoint(sock.getsockname())
        if request.local.interface is not None:
            self._local = self._local.with_interface(request.local.interface)
        # In the moment between accept(2) and connection_made.
        self._adopting: dict[asyncio.Task[None], socket.socket] = {}
        # Accepted before a pause took effect; they wait, unstarted.
        self._waiting: deque[TCPFlow] = deque()
        self._paused = False
        self._closed = False
        self._rest: asyncio.TimerHandle | None = None
        self._watch()

    @property
    def local_endpoint(self) -> LocalEndpoint:
        """With the address and port really bound."""
        return self._local

    def pause(self) -> None:
        """Leave further connections in the kernel's backlog."""
        self._paused = True
        self._unwatch()

    def resume(self) -> None:
        """Take connections again."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.call_soon(self._hand_over_waiting)
            self._watch()

    async def close(self) -> None:
        """Free the port; connections that were not handed out yet are dropped."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        self._sock.close()
        while self._waiting:
            self._waiting.popleft().abort()
        adopting = dict(self._adopting)
        for task in adopting:
            task.cancel()
        await asyncio.gather(*adopting, return_exceptions=True)
        for sock in adopting.values():
            sock.close()  # of a task that was cancelled before it began

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _unwatch(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._sock.fileno() != -1:
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause_for_resources(error)
                    return
                # Errors of a connection that is gone already (ECONNABORTED; on
                # Linux also what its network reported): the next one may be fine.
                continue
            task = self._loop.create_task(self._adopt(sock, address))
            self._adopting[task] = sock
            task.add_done_callback(self._adopted)

    def _pause_for_resources(self, error: OSError) -> None:
        # The socket stays readable: without a pause the loop would spin.
        _log.warning(
            "cannot accept connections at %s for now: %s",
            show(self._local.ip_address, self._local.port),
            error.strerror,
        )
        self._unwatch()
        self._rest = self._loop.call_later(REST, self._watch_again)

    def _watch_again(self) -> None:
        self._rest = None
        self._watch()

    async def _adopt(self, sock: socket.socket, address: Any) -> None:
        flow = TCPFlow(self._loop, sock, self._properties, peer=address)
        try:
            await self._loop.connect_accepted_socket(lambda: flow, sock)
        except OSError:  # gone again; some systems refuse options then
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        # Before it is handed over: from then on it is not the listener's to close.
        self._adopted(asyncio.current_task())
        if self._paused or self._waiting:
            self._waiting.append(flow)
        else:
            self._hand_over(flow)

    def _adopted(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._adopting.pop(task, None)

    def _hand_over_waiting(self) -> None:
        while self._waiting and not self._paused:
            self._hand_over(self._waiting.popleft())

    def _hand_over(self, flow: TCPFlow) -> None:
        try:
            self._incoming(flow, None)
        except BaseException:
            flow.abort()
            raise
